"""What the evaluate stage remembers: which answers it is to score, what it published, and feedback without an answer.

An evaluation is stored before it is published, so that a redelivery publishes the same bytes, whatever an embedding
endpoint would say the second time, and embeds nothing again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from schemas.errors import DependencyDownError, PoisonError
from schemas.records import Score

Source = Literal["sample", "feedback"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """The evaluation ``event_id`` and the answer that it is of."""

    tenant: str
    lane: str
    request_id: str
    event_id: str
    answer_event_id: str
    source: Source
    route: str = ""
    model: str = ""
    prompt_version: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """What is stored of an evaluation: its event and its cost's, as they were encoded. ``fresh``: by this call."""

    value: bytes | None = None
    cost: bytes | None = None
    fresh: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """Feedback as it came; ``value`` is its encoded event. ``answer_event_id``: the answer it names, if it does."""

    tenant: str
    lane: str
    request_id: str
    event_id: str
    digest: str
    value: bytes


class EvaluationStore(Protocol):
    """Every method takes one round trip and raises ``DependencyDownError`` when Postgres is away."""

    async def expect(self, subject: Subject) -> Stored:
        """Note that the answer is to be scored; what is stored of it already, with ``fresh`` for a new note."""
        ...

    async def finish(
        self, subject: Subject, *, scores: Sequence[Score], value: bytes, cost: bytes | None = None
    ) -> Stored:
        """Store an evaluation, unless there is one: the bytes to publish, with ``fresh`` where they are these."""
        ...

    async def receive(self, received: Received) -> bool:
        """Keep feedback; whether it is new. Raises ``PoisonError`` when its id stands for other feedback."""
        ...

    async def joined(self, received: Received, answer_event_id: str) -> None:
        """Note which answer feedback was joined to; the first note stays."""
        ...

    async def waiting(self, subject: Subject) -> list[bytes]:
        """Feedback for the subject's request that has no answer yet, or has the subject's: events as they came."""
        ...

    async def answer(self, tenant: str, lane: str, request_id: str, event_id: str | None) -> bytes | None:
        """A request's final answer by its event id, or the latest; ``None`` while there is none."""
        ...


class FakeEvaluationStore:
    """The store in memory, with the same rules. A test puts final answers into ``answers``."""

    def __init__(self) -> None:
        self.evaluations: dict[str, tuple[Subject, Stored]] = {}
        self.feedback: dict[tuple[str, str, str], tuple[Received, str | None]] = {}
        # (tenant, lane, request id) to event ids and bytes, oldest first.
        self.answers: dict[tuple[str, str, str], list[tuple[str, bytes]]] = {}
        self.scores: dict[str, tuple[Score, ...]] = {}
        self.down = False

    async def expect(self, subject: Subject) -> Stored:
        self._reach()
        if subject.event_id in self.evaluations:
            return self.evaluations[subject.event_id][1]
        self.evaluations[subject.event_id] = (subject, Stored())
        return Stored(fresh=True)

    async def finish(
        self, subject: Subject, *, scores: Sequence[Score], value: bytes, cost: bytes | None = None
    ) -> Stored:
        self._reach()
        known = self.evaluations.get(subject.event_id)
        if known is not None and known[1].value is not None:
            return known[1]
        self.evaluations[subject.event_id] = (subject, Stored(value=value, cost=cost))
        self.scores[subject.event_id] = tuple(scores)
        return Stored(value=value, cost=cost, fresh=True)

    async def receive(self, received: Received) -> bool:
        self._reach()
        key = (received.tenant, received.lane, received.event_id)
        known = self.feedback.get(key)
        if known is not None and known[0].digest != received.digest:
            raise said_otherwise()
        self.feedback.setdefault(key, (received, None))
        return known is None

    async def joined(self, received: Received, answer_event_id: str) -> None:
        self._reach()
        key = (received.tenant, received.lane, received.event_id)
        self.feedback[key] = (received, self.feedback[key][1] or answer_event_id)

    async def waiting(self, subject: Subject) -> list[bytes]:
        self._reach()
        place = (subject.tenant, subject.lane, subject.request_id)
        return [
            received.value
            for received, answer in self.feedback.values()
            if (received.tenant, received.lane, received.request_id) == place
            and answer in (None, subject.answer_event_id)
        ]

    async def answer(self, tenant: str, lane: str, request_id: str, event_id: str | None) -> bytes | None:
        self._reach()
        found = self.answers.get((tenant, lane, request_id), [])
        return next((value for own, value in reversed(found) if event_id in (None, own)), None)

    def _reach(self) -> None:
        if self.down:
            raise DependencyDownError("postgres", "told to be down")


def said_otherwise() -> PoisonError:
    """The error for an id that stands for other feedback."""
    return PoisonError("feedback.meta.event_id: other feedback came under this id; give each its own")
