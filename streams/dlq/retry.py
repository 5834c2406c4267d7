"""Sending dead letters through their stage once more: the original bytes, under a run that Postgres knows first."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka import Producer as KafkaProducer

from schemas.errors import DependencyDownError
from streams import security
from streams.dlq.letter import original_headers
from streams.dlq.search import Found
from streams.dlq.state import LetterStates
from streams.redriving import REDRIVE
from streams.settings import Settings
from streams.stages import STAGES
from streams.topics import MAX_DEAD_LETTER_BYTES, topic_name

# skipped: it was retried or dropped before. refused: it can never be. failed: the broker did not take the event.
Outcome = Literal["retried", "would_retry", "skipped", "refused", "failed"]
FLUSH_TIMEOUT_S = 30.0
# A stream whose text was already released and closed can't be opened again by one of its pieces.
_PIECES = ("deltas",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Retried:
    """What came of one letter. ``reason`` says why it was not retried."""

    id: str
    outcome: Outcome
    topic: str
    run: str = ""
    reason: str = ""


class Redriver:
    """Retries letters one by one; blocks on Postgres and the broker.

    A letter's retry is a row before it is an event, and is noted as done when the broker has acknowledged it: what a
    crash leaves in between is taken up under the same run by the next retry, so a retry is answered once.
    """

    def __init__(self, settings: Settings, states: LetterStates, *, lane: str) -> None:
        self._states, self._start = states, topic_name(settings.prefix, lane, "")
        self._horizon = settings.retention.resolved().horizon
        self._timeout_s = settings.kafka.produce_timeout_s
        self._producer = KafkaProducer(
            security.librdkafka(
                settings.kafka,
                {
                    "partitioner": "murmur2_random",
                    "enable.idempotence": True,
                    "log_level": 2,
                    "linger.ms": 0,
                    "message.max.bytes": MAX_DEAD_LETTER_BYTES,
                    "message.timeout.ms": int(self._timeout_s * 1000),
                },
            )
        )

    def retry(self, found: Found, *, again: bool = False, dry_run: bool = False) -> Retried:
        """Retry one letter. Raises ``DependencyDownError`` when broker or Postgres are away; retry it again then."""
        letter, status = found.letter, found.status
        refused = self._refusal(found)
        if refused:
            return Retried(id=letter.id, outcome="refused", topic=letter.source.topic, reason=refused)
        if not status.pending and not again:
            return self._skipped(found)
        if dry_run:
            return Retried(id=letter.id, outcome="would_retry", topic=letter.source.topic)
        run = self._states.begin_retry(letter, again=again)
        if run is None:
            # Somebody else was quicker.
            return self._skipped(found)
        error = self._publish(found, run)
        if error is not None:
            return Retried(id=letter.id, outcome="failed", topic=letter.source.topic, run=run, reason=error)
        self._states.finish_retry(letter, run)
        return Retried(id=letter.id, outcome="retried", topic=letter.source.topic, run=run)

    def _refusal(self, found: Found) -> str:
        """Why the letter can't be retried at all; empty where it can."""
        letter = found.letter
        topic = letter.source.topic
        if not topic.startswith(self._start) or letter.stage not in STAGES:
            return "its headers name no stage and topic of this lane; it was not written by a worker of this lane"
        if topic.removeprefix(self._start) in _PIECES:
            return "it is a piece of a stream that has ended; the request's answer carries the whole text"
        began = letter.accepted_at or letter.first_failed_at or letter.time
        if self._horizon is not None and datetime.now(UTC) - began > self._horizon:
            return "it is older than the rows that know what became of its request; send the request anew"
        if not letter.whole:
            place = f"{topic}/{letter.source.partition}@{letter.source.offset}"
            return f"the event was too large for a letter; its {letter.bytes} bytes are at {place}"
        return ""

    def _skipped(self, found: Found) -> Retried:
        status, letter = found.status, found.letter
        when = f" at {status.changed_at:%Y-%m-%d %H:%M:%S}" if status.changed_at else ""
        reason = f"{status.state if not status.pending else 'retried'}{when} by {status.changed_by or 'another'}"
        return Retried(
            id=letter.id, outcome="skipped", topic=letter.source.topic, reason=f"{reason}; --again retries it once more"
        )

    def _publish(self, found: Found, run: str) -> str | None:
        """Send the original bytes and wait. Why the broker refused them for good, if it did."""
        opened = found.opened
        assert opened is not None
        errors: list[KafkaError] = []

        def report(error: KafkaError | None, _message: Any) -> None:
            if error is not None:
                errors.append(error)

        entry = opened.entry
        headers: list[tuple[str, Any]] = [*original_headers(entry), (REDRIVE, run.encode())]
        try:
            self._producer.produce(
                found.letter.source.topic, value=entry.value, key=entry.key, headers=headers, on_delivery=report
            )
        except KafkaException as refused:
            return str(refused.args[0].str())
        left = self._producer.flush(self._timeout_s + FLUSH_TIMEOUT_S)
        if left or (errors and (errors[0].retriable() or errors[0].code() in _AWAY)):
            raise DependencyDownError("kafka", errors[0].str() if errors else "the event is not acknowledged")
        return errors[0].str() if errors else None


_AWAY = (KafkaError._MSG_TIMED_OUT, KafkaError._ALL_BROKERS_DOWN, KafkaError._TRANSPORT)
