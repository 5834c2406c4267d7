"""How much of a deployment is left to a replay, reckoned from what everybody tells. Plain functions of plain values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from processors.complete.routes import Deployment
from streams.capacity.told import Holder

# A worker tells every second. Told before that, what it does now is not known;
FRESH_S = 3.0
# and told before that, it is gone: its session with the broker and the leases of its calls are over.
GONE_S = 30.0
# Of what a deployment takes, so much is left free beside what live used of late.
RESERVE = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """What is seen of an endpoint. ``workers`` tell that they use it, ``unheard`` may use it and tell nothing now,
    ``silent`` never told anything, e.g. because they are of an earlier release.

    ``most``, ``limit``, ``waiting``, ``requests`` and ``tokens`` are sums over the workers; ``replays`` are others that
    take ``taken`` places; ``their_requests`` and ``their_tokens`` are of all but the workers.
    """

    workers: int = 0
    unheard: int = 0
    silent: int = 0
    most: int = 0
    limit: int = 0
    waiting: int = 0
    refused_s: float | None = None
    requests: int = 0
    tokens: int = 0
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    replays: int = 0
    taken: int = 0
    their_requests: int = 0
    their_tokens: int = 0

    @classmethod
    def of(cls, holders: Sequence[Holder], endpoint: str, *, lane: str, members: int) -> Sight:
        """What these tell of the endpoint; ``members`` are the workers that the lane's consumer group has."""
        known = [one for one in holders if one.age_s <= GONE_S]
        live = [(one.age_s, one.uses[endpoint]) for one in known if one.kind == "live" and endpoint in one.uses]
        fresh = [(age_s, told) for age_s, told in live if age_s <= FRESH_S]
        others = [one.uses[endpoint] for one in known if one.kind == "replay" and endpoint in one.uses]
        heard = sum(one.kind == "live" and one.lane == lane for one in known)
        every = [(one.age_s, one.uses[endpoint]) for one in known if endpoint in one.uses]
        refused = [told.throttled_s + age_s for age_s, told in every if told.throttled_s is not None]
        return cls(
            workers=len(fresh),
            unheard=len(live) - len(fresh),
            silent=max(0, members - heard),
            most=sum(told.most for _, told in fresh),
            limit=sum(told.limit for _, told in fresh),
            waiting=sum(told.waiting for _, told in fresh),
            refused_s=min(refused, default=None),
            requests=sum(told.requests for _, told in fresh),
            tokens=sum(told.tokens for _, told in fresh),
            requests_per_minute=_total([told.requests_per_minute for _, told in fresh]),
            tokens_per_minute=_total([told.tokens_per_minute for _, told in fresh]),
            replays=len(others),
            taken=sum(told.most for told in others),
            their_requests=sum(told.requests for _, told in every) - sum(told.requests for _, told in fresh),
            their_tokens=sum(told.tokens for _, told in every) - sum(told.tokens for _, told in fresh),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Rest:
    """What is left: ``places`` for calls, ``requests`` and ``tokens`` of this minute, ``None`` without such a limit.

    ``largest``: what a request of more tokens than this counts as. ``why`` there is nothing, or next to nothing.
    """

    places: int = 0
    requests: int | None = None
    tokens: int | None = None
    largest: int = 0
    why: str = ""

    def fits(self, tokens: int) -> bool:
        """Whether one more request of so many tokens fits."""
        if self.requests is not None and self.requests < 1:
            return False
        return self.tokens is None or self.tokens >= max(1, min(tokens, self.largest))

    def less(self, tokens: int) -> Rest:
        """What is left when one more is sent."""
        return replace(
            self,
            requests=None if self.requests is None else self.requests - 1,
            tokens=None if self.tokens is None else self.tokens - tokens,
        )


def rest_of(sight: Sight, deployment: Deployment, *, used: int, requests: int, tokens: int, ceiling: int) -> Rest:
    """What is left to one replay.

    ``used`` is the most that live had open of late; ``requests`` and ``tokens`` are what the replay used
    itself; ``ceiling`` is as much as it dares to take by now.
    """
    if sight.waiting:
        return Rest(why=f"live requests wait for a place ({sight.waiting})")
    if sight.unheard and not sight.workers:
        return Rest(why="a live worker has not been heard of for some seconds")
    # Nobody but replays calls it: what this process may open by its settings.
    total = sight.limit if sight.workers else deployment.max_concurrency
    spare = total - used - min(math.ceil(RESERVE * total), total - 1)
    if spare <= 0:
        return Rest(why=f"live used {used} of {total} places within the last minutes")
    fair = max(1, spare // (1 + sight.replays))
    places = min(fair, spare - sight.taken, ceiling)
    if places <= 0:
        return Rest(why="other replays have what live leaves")
    why = ""
    if sight.silent:
        places, why = 1, "one call at a time, because not every live worker tells what it uses"
    ours = deployment.requests_per_minute, deployment.tokens_per_minute
    limits = (sight.requests_per_minute, sight.tokens_per_minute) if sight.workers else ours
    left = _left(limits[0], sight.requests + sight.their_requests + requests)
    tokens_left = _left(limits[1], sight.tokens + sight.their_tokens + tokens)
    largest = 0 if limits[1] is None else math.floor((1 - RESERVE) * limits[1])
    if (left is not None and left < 1) or (tokens_left is not None and tokens_left < 1):
        why = "its requests or tokens of this minute are used"
    return Rest(places=places, requests=left, tokens=tokens_left, largest=largest, why=why)


def _left(limit: int | None, used: int) -> int | None:
    return None if limit is None else math.floor((1 - RESERVE) * limit) - used


def _total(limits: Sequence[int | None]) -> int | None:
    """The sum; ``None`` where one of them has no limit."""
    known = [one for one in limits if one is not None]
    return sum(known) if known and len(known) == len(limits) else None
