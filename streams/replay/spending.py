"""Embeddings of a run: held by its purse before they are bought, looked up where they were bought, told as costs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal

import structlog

from processors.postgres import Database
from processors.spending.payer import FIRST_ORDINAL
from processors.spending.port import Bought, Closing, Keeping, Kept, Opened, Opening, Spends, Untold, covers
from schemas.codec import Codec
from schemas.errors import DependencyDownError, PoisonError
from schemas.ids import event_id
from schemas.records import Cost
from streams.dead_letters import safe_message
from streams.headers import event_headers
from streams.outputs import key_of, topic_kind
from streams.producer import Outgoing
from streams.replay.earlier import earlier_runs
from streams.replay.lane import run_of_lane
from streams.replay.limits import Purse
from streams.replay.run import Run
from streams.replay.sending import Sender
from streams.topics import topic_name

BATCH = 500

log = structlog.get_logger(__name__)


class HeldSpends:
    """``Spends`` within a purse. What live or an earlier run bought for the same event is taken from there.

    ``earlier`` are lanes with their runs, empty for live. ``may_fail``: an attempt that the limit leaves no room for
    raises ``LimitReachedError``, and nothing is sent; else it is held beyond the limit.
    """

    def __init__(
        self, spends: Spends, purse: Purse, *, stage: str, earlier: Sequence[tuple[str, str]], may_fail: bool
    ) -> None:
        self._spends, self._purse, self._stage = spends, purse, stage
        self._earlier, self._may_fail = earlier, may_fail
        # What the purse knows each attempt by.
        self._held: dict[tuple[str, int], object] = {}

    async def open(self, openings: Sequence[Opening]) -> Sequence[Opened | Bought]:
        found = await self._bought(openings)
        wanted = [one for one in openings if one.spender not in found]
        held: list[object] = []
        try:
            for one in wanted:
                attempt = object()
                self._purse.take(attempt, one.asker, one.bound_usd, may_fail=self._may_fail)
                held.append(attempt)
            came = await self._spends.open(wanted)
        except BaseException:
            for attempt in held:
                self._purse.give(attempt, Decimal(0))
            raise
        for one, attempt, outcome in zip(wanted, held, came, strict=True):
            found[one.spender] = outcome
            if isinstance(outcome, Opened):
                self._held[one.spender, outcome.ordinal] = attempt
            else:
                self._purse.give(attempt, Decimal(0))
        return [found[one.spender] for one in openings]

    async def close(self, closings: Sequence[Closing]) -> None:
        known = True
        try:
            await self._spends.close(closings)
        except DependencyDownError:
            # Their rows stand at their bounds.
            known = False
            raise
        finally:
            for one in closings:
                attempt = self._held.pop((one.spender, one.ordinal))
                self._purse.give(attempt, one.amount_usd if known else None)

    async def keep(self, keepings: Sequence[Keeping]) -> None:
        await self._spends.keep(keepings)

    async def take(self, lane: str, *, limit: int, hold_s: float) -> Sequence[Untold]:
        return await self._spends.take(lane, limit=limit, hold_s=hold_s)

    async def told(self, untold: Sequence[Untold]) -> None:
        await self._spends.told(untold)

    async def kept(self, spenders: Sequence[str]) -> Mapping[str, tuple[Kept, ...]]:
        return await self._spends.kept(spenders)

    async def abandon(self, lane: str) -> None:
        await self._spends.abandon(lane)

    async def spent(self, lane: str) -> Decimal:
        return await self._spends.spent(lane)

    async def _bought(self, openings: Sequence[Opening]) -> dict[str, Opened | Bought]:
        """Of those that ask for texts of which live or an earlier run has all vectors, these."""
        by_earlier = {
            event_id(
                tenant=one.tenant,
                lane=lane,
                run=run,
                stage=self._stage,
                causation_id=one.asker,
                ordinal=FIRST_ORDINAL,
            ): one
            for lane, run in self._earlier
            for one in openings
        }
        found: dict[str, Opened | Bought] = {}
        for spender, kept in (await self._spends.kept(list(by_earlier))).items():
            one = by_earlier[spender]
            if covers(kept, one.owed):
                found[one.spender] = Bought(kept)
        return found


async def bought_before(database: Database, run: Run, stage: str) -> list[tuple[str, str]]:
    """The lanes in which the events that a run reads may have bought something: its source's and those of earlier runs
    that have bought anything, with their runs. Blocks on Postgres.
    """
    earlier = dict(await earlier_runs(database, run, stage))
    rows = await database.execute(_BUYERS, {"lanes": list(earlier)})
    return [(run.source_lane, run_of_lane(run.source_lane)), *((lane, earlier[lane]) for (lane,) in rows)]


# The last condition is that of the index.
_BUYERS = """
    SELECT lane FROM unnest(%(lanes)s::text[]) WITH ORDINALITY AS looked (lane, rank)
    WHERE EXISTS (SELECT FROM spends WHERE spends.lane = looked.lane AND spends.lane LIKE 'replay-%%')
    ORDER BY rank
"""


class TellingSender:
    """A ``Sender`` that sends along what the lane's embeddings cost, from their book, with the bytes that are there.

    ``known`` are ids of events that are in the lane already.
    """

    def __init__(
        self,
        sender: Sender,
        spends: Spends,
        codec: Codec,
        *,
        lane: str,
        prefix: str,
        now: Callable[[], datetime],
        known: frozenset[str] = frozenset(),
    ) -> None:
        self._sender, self._spends, self._codec = sender, spends, codec
        self._lane, self._prefix, self._now, self._known = lane, prefix, now, known

    def send(self, outgoing: Iterable[Outgoing]) -> None:
        self._sender.send(outgoing)

    async def settle(self) -> Mapping[str, Mapping[int, int]]:
        """As any sender; raises ``DependencyDownError`` while the book is away, too."""
        while True:
            untold = await self._spends.take(self._lane, limit=BATCH, hold_s=0)
            self._sender.send([one for each in untold if (one := await self._outgoing(each)) is not None])
            written = await self._sender.settle()
            await self._spends.told(untold)
            if len(untold) < BATCH:
                return written

    async def settle_all(self) -> None:
        """Also what nobody will bring to an end any more: call it while no call of the run is open."""
        await self._spends.abandon(self._lane)
        await self.settle()

    async def _outgoing(self, untold: Untold) -> Outgoing | None:
        try:
            cost = await self._codec.decode_fetching(untold.event, Cost)
        except PoisonError as error:
            log.error("the cost of an embedding can't be published", reason=safe_message(error))
            return None
        if cost.meta.event_id in self._known:
            return None
        topic = topic_name(self._prefix, self._lane, topic_kind(cost))
        headers = event_headers(cost, cost.meta, time=self._now(), cause=[], timings=())
        return Outgoing(topic, key_of(cost).encode(), untold.event, headers)
