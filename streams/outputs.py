"""From a stage's outputs to records on topics: encoded, made final, and acknowledged by the broker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from processors.event import Output, Recorded
from schemas.errors import OversizedError
from schemas.record import Record
from schemas.records import (
    Admitted,
    Alert,
    Answer,
    Chunk,
    Completion,
    Control,
    Cost,
    Delta,
    Document,
    Enrichment,
    Evaluation,
    Feedback,
    Meta,
    Request,
    Timing,
)
from streams.claims import DATAREF, Claims
from streams.headers import Headers, event_headers
from streams.producer import Outgoing
from streams.services import Services
from streams.topics import MAX_EVENT_BYTES, TENANT_OUTPUTS, topic_name

KINDS: dict[type[Record], str] = {
    Request: "requests",
    Admitted: "admitted",
    Completion: "completions",
    Delta: "deltas",
    Chunk: "chunks",
    Answer: "answers",
    Evaluation: "evaluations",
    Feedback: "feedback",
    Cost: "costs",
    Document: "documents",
    Control: "control",
    Alert: "alerts",
}
PRIORITIES = ("high", "normal", "low")
ENRICHMENTS = tuple(f"enrichments.{priority}" for priority in PRIORITIES)
# Room for the key, the headers and the batch's own fields.
OVERHEAD_BYTES = 32_768
# What is left for an event's own bytes.
LARGEST_BYTES = MAX_EVENT_BYTES - OVERHEAD_BYTES


def topic_kind(record: Record) -> str:
    """The kind of topic that a record goes to."""
    if isinstance(record, Enrichment):
        priority = record.admission.priority
        return f"enrichments.{priority if priority in PRIORITIES else 'normal'}"
    return KINDS[type(record)]


def kinds_of(record: type[Record]) -> tuple[str, ...]:
    """Every kind of topic that records of a type may go to."""
    return ENRICHMENTS if record is Enrichment else (KINDS[record],)


def key_of(record: Record) -> str:
    """The key of a record on its topic."""
    if isinstance(record, Document):
        return record.document_id
    if isinstance(record, Control):
        return f"{record.kind}/{record.name}"
    meta: Meta = record.meta  # type: ignore[attr-defined]
    return meta.request_id


def check_size(value: bytes, what: str) -> None:
    """Raise ``OversizedError`` for an event that its topic would not take."""
    if len(value) > LARGEST_BYTES:
        raise OversizedError(f"{what} is {len(value)} bytes; an event may have {LARGEST_BYTES}: shorten it")


@dataclass(frozen=True, slots=True)
class Encoded:
    """An output's bytes, ready to be published as often as it takes."""

    record: Record
    value: bytes
    # Texts that are elsewhere because the event would be too large, by their references.
    bodies: Mapping[str, bytes] = field(default_factory=dict)


def _fitting(item: Encoded, claims: Claims | None) -> Encoded:
    """The output as its topic takes it. Raises ``OversizedError`` for one that can't be made so."""
    if claims is not None:
        item = Encoded(*claims.parted(item.record, item.value, LARGEST_BYTES))
    check_size(item.value, type(item.record).__name__)
    return item


class Publisher:
    """Publishes what a stage gave for one event."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def encode(self, outputs: Sequence[Output], timings: tuple[Timing, ...]) -> list[Encoded]:
        """The outputs' bytes. An answer takes the timings along. Raises ``OversizedError`` before anything is final.

        What is too large for its topic has references in place of its largest texts.
        """
        claims = self._services.claims
        return [_fitting(item, claims) for item in self._encoded(outputs, timings)]

    def _encoded(self, outputs: Sequence[Output], timings: tuple[Timing, ...]) -> list[Encoded]:
        encoded = []
        for output in outputs:
            if isinstance(output, Recorded):
                encoded.append(Encoded(output.record, output.value))
                continue
            record = replace(output, timings=timings) if isinstance(output, Answer) else output
            encoded.append(Encoded(record, self._services.codec.encode(record)))
        return encoded

    def prepare(self, outputs: Sequence[Output], cause: Headers) -> list[Outgoing]:
        """What to send for outputs without an answer, for a stage that sends by itself. Raises ``OversizedError``."""
        encoded = [_fitting(item, None) for item in self._encoded(outputs, ())]
        items = [(item.record, self._outgoing(item.record, item.value, cause, ())) for item in encoded]
        return [each for record, one in items for each in (one, *self._tenants_own(record, one))]

    async def publish(self, items: Sequence[Encoded], cause: Headers, timings: tuple[Timing, ...]) -> None:
        """Make answers final, send everything and wait for the broker's acknowledgements.

        Safe to repeat: ids and bytes stay the same. Blocks on Postgres where there is an answer, then on the broker.
        Raises ``DependencyDownError`` when one of them is away.
        """
        services = self._services
        if services.claims is not None:
            # Before anything that refers to them can be read.
            for item in items:
                if item.bodies:
                    await services.claims.store(item.record.meta.tenant, item.bodies)  # type: ignore[attr-defined]
        # What was spent is told before what it bought.
        costs = [item for item in items if isinstance(item.record, Cost)]
        if costs:
            await services.producer.send([self._outgoing(c.record, c.value, cause, timings) for c in costs])
            services.failpoints.hit("after_cost_produced")
        outgoing: list[Outgoing] = []
        void = False
        for item in items:
            if isinstance(item.record, Cost):
                continue
            record, value = item.record, item.value
            if isinstance(record, Answer):
                value = await self._final(record, item.value)
                if value != item.value:
                    first = services.codec.decode(value, Answer)
                    # Another writer was first: a text that is not the answer's is no chunk of it.
                    void = first.status != record.status
                    record = first
                services.failpoints.hit("after_final_claim")
            one = self._outgoing(record, value, cause, timings)
            one.headers.extend((DATAREF, ref.encode()) for ref in list(item.bodies)[:1])
            outgoing += [one, *self._tenants_own(record, one)]
        if void:
            chunks = topic_name(services.prefix, services.lane, KINDS[Chunk])
            outgoing = [one for one in outgoing if one.topic != chunks and not one.topic.startswith(f"{chunks}.")]
        await services.producer.send(outgoing)
        services.failpoints.hit("after_produce")

    async def _final(self, answer: Answer, value: bytes) -> bytes:
        """The answer's final bytes: of its revision 0, or of the next one where a dead letter was sent once more."""
        finality = self._services.finality
        later = await finality.supersede(answer, self._services.codec.encode) if answer.meta.run else None
        return later if later is not None else await finality.claim(answer, value)

    def _tenants_own(self, record: Record, shared: Outgoing) -> list[Outgoing]:
        """The same bytes for the tenant's own topic, where it has one: its consumer needs no other."""
        kind, tenant = topic_kind(record), record.meta.tenant  # type: ignore[attr-defined]
        if kind not in TENANT_OUTPUTS or tenant not in self._services.tenants:
            return []
        return [replace(shared, topic=f"{shared.topic}.{tenant}")]

    def _outgoing(self, record: Record, value: bytes, cause: Headers, timings: tuple[Timing, ...]) -> Outgoing:
        services = self._services
        meta: Meta = record.meta  # type: ignore[attr-defined]
        return Outgoing(
            topic=topic_name(services.prefix, services.lane, topic_kind(record)),
            key=key_of(record).encode(),
            value=value,
            headers=event_headers(record, meta, time=services.clock.now(), cause=cause, timings=timings),
        )
