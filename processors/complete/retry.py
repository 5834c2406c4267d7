"""When an attempt is followed by another one, and after how long."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from processors.complete.routes import Cause, Deployment, Group, Route
from processors.journal import AttemptRow, CallFailure
from processors.journal.protocol import HEDGE_LOST, INDETERMINATE, tries
from processors.routing.causes import cause_of, denied, fails_here
from schemas.errors import OutcomeUnknownError, ProviderError, TransientProviderError


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """Exponential back-off with full jitter, so that workers do not come back together."""

    first_s: float = 0.5
    longest_s: float = 20.0

    def delay_s(self, attempt: int, random_: random.Random) -> float:
        """The wait after the ``attempt``-th attempt, from 0."""
        return random_.uniform(0, min(self.longest_s, self.first_s * 2.0 ** min(attempt, 30)))


# Where no more retries may be made, a request comes back after so long, from and to.
_WITHOUT_BUDGET_S = (20.0, 36.0)

STREAM_BROKEN = CallFailure(
    kind="failed",
    code="stream_broken",
    error_class="unknown",
    message="the model's stream broke off after some of its text had been published, and the route starts no second",
    retryable=True,
)


CONTENT_REFUSED = CallFailure(
    kind="failed",
    code="content_refused",
    error_class="permanent",
    message="the model declined to answer, or its provider withheld the answer",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Go:
    """Another attempt after so many seconds, with one of the group, those in ``avoid`` only where no other has room.

    ``cause``: the group is a fallback, gone to for this. With ``instead`` the group is gone to at once or not at all:
    where none of it is free, this is called once and says what follows, ``None`` for nothing.
    """

    group: Group
    seconds: float = 0.0
    avoid: frozenset[str] = frozenset()
    cause: Cause | None = None
    instead: Callable[[], Go | Later | None] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Later:
    """Another attempt after a time that is too long to keep a slot for; ``deployment`` is what it waits for."""

    seconds: float
    deployment: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What bounds another attempt. ``left_s``: how long it may be waited for in the stage, and ``ttl_left_s`` at all.

    ``may_retry`` asks the budget of the deployment that failed, and counts; ``usable`` says whether a deployment has a
    key that is not refused.
    """

    left_s: float
    ttl_left_s: float
    may_retry: Callable[[str], bool]
    usable: Callable[[str], bool]


Verdict = Go | Later | CallFailure


def after_error(
    error: ProviderError,
    attempts: Sequence[AttemptRow],
    route: Route,
    *,
    backoff: Backoff,
    random_: random.Random,
    limits: Limits,
) -> Verdict:
    """What follows ``error``, which ended the last of ``attempts``.

    First the route's own deployments, where the error may pass or is another one's no fault, then its fallbacks for the
    cause, each once. To go to one of its own that was not tried is no repeat: it neither waits nor counts as one.
    """
    if isinstance(error, OutcomeUnknownError):
        if route.unknown_policy == "fail":
            return INDETERMINATE
        # The other unknown one may be a worker's that is gone: two calls that were perhaps paid are enough.
        if any(row.state == "unknown" and row.error_code != HEDGE_LOST for row in attempts[:-1]):
            return failure_of(error)
    if _outlasts(error, route, limits):
        return fallback(route, cause_of(error), attempts) or failure_of(error)

    def repeat() -> Go | Later | None:
        own = _at_own(error, attempts, route, backoff=backoff, random_=random_, limits=limits)
        return own if isinstance(own, Go) else fallback(route, cause_of(error), attempts) or own

    untried = _untried(attempts, route)
    if untried and _more_at_own(attempts, route) and _may_pass(error) and limits.left_s > 0:
        return Go(group=replace(route.own, deployments=untried), instead=repeat)
    return repeat() or failure_of(error)


def fallback(route: Route, cause: Cause | None, attempts: Sequence[AttemptRow]) -> Go | None:
    """The first of the route's fallbacks for the cause at which nothing was tried yet."""
    tried = {row.target.deployment for row in attempts}
    for group in route.fallbacks.get(cause, ()) if cause is not None else ():
        if not any(one.name in tried for one in group.deployments):
            return Go(group=group, cause=cause)
    return None


def _at_own(
    error: ProviderError,
    attempts: Sequence[AttemptRow],
    route: Route,
    *,
    backoff: Backoff,
    random_: random.Random,
    limits: Limits,
) -> Go | Later | None:
    own, last = {one.name: one for one in route.own.deployments}, attempts[-1].target.deployment
    if not _more_at_own(attempts, route):
        return None
    if error.code == "context_too_long":
        longer = tuple(one for one in own.values() if one.context_tokens > own[last].context_tokens)
        return Go(group=replace(route.own, deployments=longer)) if longer else None
    if fails_here(error):
        # Another key of the same deployment may do, but not the same model that is not there.
        usable = tuple(one for one in own.values() if (one.name != last or denied(error)) and limits.usable(one.name))
        return Go(group=replace(route.own, deployments=usable), avoid=frozenset({last})) if usable else None
    if not _may_pass(error):
        return None
    delay_s = backoff.delay_s(len(attempts) - 1, random_)
    if delay_s >= limits.left_s:
        return None
    if not limits.may_retry(last):
        wait_s = random_.uniform(*_WITHOUT_BUDGET_S)
        return Later(seconds=wait_s, deployment=last) if wait_s < limits.ttl_left_s else None
    untried = {one.name for one in _untried(attempts, route)}
    return Go(group=route.own, seconds=delay_s, avoid=frozenset(set(own) - untried if untried else {last}))


def _more_at_own(attempts: Sequence[AttemptRow], route: Route) -> bool:
    """Whether the last attempt was at one of the route's own, and they may have another one."""
    own = {one.name for one in route.own.deployments}
    here = [row for row in attempts if row.target.deployment in own]
    return attempts[-1].target.deployment in own and tries(here) < route.max_attempts


def _untried(attempts: Sequence[AttemptRow], route: Route) -> tuple[Deployment, ...]:
    """The route's own deployments at which nothing was tried yet."""
    tried = {row.target.deployment for row in attempts}
    return tuple(one for one in route.own.deployments if one.name not in tried)


def _may_pass(error: ProviderError) -> bool:
    """Whether the same request may be answered by whatever failed, or by another one."""
    passing = isinstance(error, TransientProviderError | OutcomeUnknownError)
    return passing and error.code != "context_too_long" and not fails_here(error)


def _outlasts(error: ProviderError, route: Route, limits: Limits) -> bool:
    """Whether the provider wants to be left alone for longer than the request lives, and there is no other one."""
    asked_s = error.retry_after_s if isinstance(error, TransientProviderError) else None
    return asked_s is not None and asked_s >= limits.ttl_left_s and not route.others


def after_break(error: ProviderError, verdict: Verdict, route: Route) -> Verdict:
    """What follows ``error`` when some of the attempt's text may be public; ``verdict`` is what would follow else."""
    if route.on_break == "restart" or verdict == INDETERMINATE:
        return verdict
    return replace(STREAM_BROKEN, error_class=error.error_class)


def failure_of(error: ProviderError) -> CallFailure:
    """The call's failure for the error that ended its last attempt."""
    return CallFailure(
        kind="failed",
        code=error.code,
        error_class=error.error_class,
        message=str(error),
        retryable=error.retryable,
    )


def nowhere(route: Route, code: str) -> CallFailure:
    """The failure of a call that could be sent to none of the route's deployments."""
    return CallFailure(
        kind="failed",
        code=code,
        error_class="transient-provider",
        message=f"no deployment of route {route.name} could be asked",
        retryable=True,
    )
