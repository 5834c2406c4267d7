"""Asking a few questions at a time, and taking the answers as they arrive."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from uuid import uuid4

from schemas.codec import Codec
from schemas.errors import DependencyDownError
from schemas.ids import request_event_id
from schemas.records import Meta, Request, Retrieval, Sampling, Text
from streams.answers import AnswerStream
from streams.demo.summary import Arrival
from streams.publish import Publisher
from streams.settings import Settings

# The bundled model server has four slots; more would only wait.
GROUP = 4
GROUP_TIMEOUT_S = 120.0
PASSAGES = 3
# A small model soon repeats itself: a paragraph is enough, and what was said is made less likely.
SAMPLING = Sampling(max_tokens=120, temperature=0.0, frequency_penalty=0.5, stop=("\n\n",))


@dataclass(frozen=True, slots=True, kw_only=True)
class Manner:
    """How a question is asked."""

    tenant: str = "default"
    namespace: str
    lane: str = "live"


@dataclass(frozen=True, slots=True)
class Asked:
    """What was published and what came back. ``questions``: request id to question."""

    questions: dict[str, str] = field(default_factory=dict)
    arrivals: list[Arrival] = field(default_factory=list)

    @property
    def lost(self) -> tuple[str, ...]:
        """The requests without an answer."""
        answered = {arrival.answer.meta.request_id for arrival in self.arrivals}
        return tuple(request_id for request_id in self.questions if request_id not in answered)


OnArrival = Callable[[str, Arrival], None]


def ask_all(
    settings: Settings,
    codec: Codec,
    publisher: Publisher,
    questions: Sequence[str],
    *,
    manner: Manner,
    on_arrival: OnArrival,
) -> Asked:
    """Publish each question as a new request, a group at a time, and hand on the answers as they arrive.

    Blocks until all are answered. When a group's answers don't all come in time, the rest is not asked. Raises
    DependencyDownError when the broker does not take a request.
    """
    asked = Asked()
    with AnswerStream(settings, codec, lane=manner.lane) as stream:
        for start in range(0, len(questions), GROUP):
            sent: dict[str, float] = {}
            for question in questions[start : start + GROUP]:
                request = request_of(question, manner)
                asked.questions[request.meta.request_id] = question
                sent[request.meta.request_id] = time.monotonic()
                publisher.send(request)
            if refused := publisher.flush():
                raise DependencyDownError("kafka", refused[0].reason)
            for answer in stream.collect(sent, timeout_s=GROUP_TIMEOUT_S):
                request_id = answer.meta.request_id
                arrival = Arrival(answer, (time.monotonic() - sent[request_id]) * 1000)
                asked.arrivals.append(arrival)
                on_arrival(asked.questions[request_id], arrival)
            if asked.lost:
                break
    return asked


def request_of(question: str, manner: Manner) -> Request:
    """A question as a request under a fresh id."""
    request_id = str(uuid4())
    return Request(
        meta=Meta(
            event_id=request_event_id(tenant=manner.tenant, lane=manner.lane, request_id=request_id),
            request_id=request_id,
            tenant=manner.tenant,
            lane=manner.lane,
            stage="producer",
        ),
        feature="demo",
        query=Text(inline=question),
        sampling=SAMPLING,
        retrieval=Retrieval(k=PASSAGES, namespaces=(manner.namespace,)),
    )
