"""What the release asks of the journal: whether a request's call has ended."""

from __future__ import annotations

from typing import Protocol

from processors.journal.entry import CallKey
from processors.journal.port import Journal
from schemas.records import Meta


class Calls(Protocol):
    """Knows which calls have ended."""

    async def ended(self, meta: Meta) -> bool:
        """Whether the request's call has a result or failed for good. One read; raises ``DependencyDownError``."""
        ...


class JournalCalls:
    """Asks the journal that every worker shares."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    async def ended(self, meta: Meta) -> bool:
        key = CallKey(tenant=meta.tenant, lane=meta.lane, run=meta.run, request_id=meta.request_id)
        return await self._journal.outcome_of(key) is not None


class FakeCalls:
    """Calls that a test ends. ``failures`` are raised first, one a question."""

    def __init__(self) -> None:
        self.over: set[str] = set()
        self.asked: list[str] = []
        self.failures: list[Exception] = []

    async def ended(self, meta: Meta) -> bool:
        self.asked.append(meta.request_id)
        if self.failures:
            raise self.failures.pop(0)
        return meta.request_id in self.over
