"""What ends a call that no model answered: its failure, or the route's last resort."""

from __future__ import annotations

from dataclasses import replace

from processors.complete.retry import STREAM_BROKEN, nowhere
from processors.complete.settling import NOT_SENT
from processors.complete.task import Task
from processors.complete.unwritten import Outcome, Unwritten
from processors.journal import AttemptRow, CallFailure, Granted, Journal, Lease
from processors.journal.protocol import CANCELLED
from processors.routing import Pool

# Nobody waits for an answer any more, or half of one is public.
_NO_RESORT = frozenset({CANCELLED.code, STREAM_BROKEN.code})


class Endings:
    """Ends calls. One for each worker."""

    def __init__(self, journal: Journal, unwritten: Unwritten, pool: Pool) -> None:
        self._journal, self._unwritten, self._pool = journal, unwritten, pool

    async def unsent(self, granted: Granted, task: Task, code: str) -> None:
        """End a call that can be sent nowhere: by the route's last resort, or as failed. Raises as ``book`` does."""
        await self.failed(granted, task, nowhere(task.route, code))

    async def failed(self, granted: Granted, task: Task, failure: CallFailure) -> None:
        """End a call whose attempt was sent nowhere: by a kept reply or the last resort, else with ``failure``."""
        outcome = Outcome(lease=granted.lease, attempt_id=granted.attempt.attempt_id)
        settled = replace(NOT_SENT, error_class=failure.error_class, error_code=failure.code)
        attempts = (*granted.earlier, granted.attempt)
        await self._unwritten.book(self.ended(replace(outcome, settled=settled), failure, attempts, task))

    async def resort(self, lease: Lease, attempts: tuple[AttemptRow, ...], failure: CallFailure, task: Task) -> None:
        """End a call whose attempts are all booked, with a kept reply or the last resort where there is one."""
        if not task.has_last_word or failure.code in _NO_RESORT:
            await self._journal.end(lease, failure)
            return
        attempt = await self._journal.next_attempt(lease, attempts[-1].target)
        settled = replace(NOT_SENT, error_class=failure.error_class, error_code=failure.code)
        outcome = Outcome(lease=lease, attempt_id=attempt.attempt_id, settled=settled)
        await self._unwritten.book(self.ended(outcome, failure, (*attempts, attempt), task))

    def ended(self, outcome: Outcome, failure: CallFailure, attempts: tuple[AttemptRow, ...], task: Task) -> Outcome:
        """The outcome of a call's last attempt: answered by a kept reply or the last resort, else failed."""
        if failure.kind not in ("failed", "crash_loop") or failure.code in _NO_RESORT:
            return replace(outcome, failure=failure)
        assert outcome.settled is not None
        standing = None if task.checks is None else task.checks.stands(failure)
        if standing is not None and task.stand is not None:
            return replace(outcome, result=task.stand(standing, attempts, outcome.settled))
        if task.resort is None or failure.kind != "failed":
            return replace(outcome, failure=failure)
        self._pool.observer.on_last_resort(task.route.name)
        return replace(outcome, result=task.resort(attempts, outcome.settled, failure.code))
