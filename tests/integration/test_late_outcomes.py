"""An outcome that came in late is told though the worker that booked it is gone, as one event with the same bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from processors.complete.records import attempt_of, costs_of
from processors.event import Output
from processors.journal import CallKey, Done, Ended, Granted, Offer, PostgresJournal, Settled
from processors.journal.late import PostgresLateOutcomes
from processors.journal.protocol import INDETERMINATE, unknown
from processors.postgres import Database
from schemas.codec import Codec
from schemas.errors import DependencyDownError, FencedError
from schemas.records import Cost, Usage
from streams.spending import Late
from streams.stages import STAGES
from tests.support.enrichments import enrichment, incoming
from tests.support.leases import LapsingJournal
from tests.support.running import Bench
from tests.support.targets import target

pytestmark = pytest.mark.stack

CODEC = Codec.offline()
TARGET = target("0.9")
DONE = Settled(
    state="done", cost_usd=Decimal("0.25"), usage=Usage(prompt_tokens=9, completion_tokens=3), response_id="resp-1"
)


async def book_late(database: Database, lane: str) -> tuple[Any, CallKey, Done]:
    """A worker that was taken for dead books what its call cost, and ends before it can publish anything."""
    journal = LapsingJournal(database)
    event = incoming(enrichment("r1", lane=lane), CODEC)
    key = CallKey(tenant="acme", lane=lane, run="", request_id="r1")
    offer = Offer(key=key, target=TARGET, input=event.raw, input_hash="h", max_attempts=3)
    first = await journal.claim(offer, owner="w1")
    assert isinstance(first, Granted)
    await journal.lapse(key)
    second = await journal.claim(offer, owner="w2")
    assert isinstance(second, Granted)
    await journal.finish(second.lease, second.attempt.attempt_id, DONE, b"result")
    with pytest.raises(FencedError):
        await journal.finish(first.lease, first.attempt.attempt_id, DONE, b"late")
    ended = await journal.outcome_of(key)
    assert isinstance(ended, Done)
    return event, key, ended


@pytest.mark.parametrize(("code", "duration_ms"), [("timeout_total", 4000.25), ("cancelled", None)])
async def test_a_late_outcome_leaves_the_first_cost_event_as_it_was_told(
    database: Database, lane: str, code: str, duration_ms: float | None
) -> None:
    journal = PostgresJournal(database)
    event = incoming(enrichment("r1", lane=lane), CODEC)
    key = CallKey(tenant="acme", lane=lane, run="", request_id="r1")
    offer = Offer(key=key, target=TARGET, input=event.raw, input_hash="h", max_attempts=3)
    grant = await journal.claim(offer, owner="w1")
    assert isinstance(grant, Granted)
    attempt = grant.attempt
    settled = unknown(attempt, error_code=code, duration_ms=duration_ms)
    booked = await journal.fail_attempt(grant.lease, attempt.attempt_id, settled, INDETERMINATE)
    [told] = costs_of(event, key, booked)
    assert told.error_code == code
    with pytest.raises(FencedError):
        await journal.fail_attempt(grant.lease, attempt.attempt_id, DONE)
    ended = await PostgresJournal(database).outcome_of(key)
    assert isinstance(ended, Ended)
    again, correction = costs_of(event, key, ended.attempts)
    assert CODEC.encode(again) == CODEC.encode(told)
    assert [attempt_of(row) for row in ended.attempts] == [attempt_of(row) for row in booked]
    assert correction.amount_usd == Decimal("0.25") - Decimal("0.9")


class Broker:
    """Takes what is published, unless it is away."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.away = False

    async def publish(self, outputs: Sequence[Output]) -> None:
        if self.away:
            raise DependencyDownError("kafka", "away")
        self.sent += [CODEC.encode(one) for one in outputs if isinstance(one, Cost)]


async def test_a_late_outcome_whose_worker_is_gone_is_told_once_with_the_bytes_of_a_redelivery(
    database: Database, lane: str
) -> None:
    event, key, ended = await book_late(database, lane)
    [expected] = [one for one in costs_of(event, key, ended.attempts) if one.correction == "late"]
    assert expected.amount_usd == Decimal("0.25") - Decimal("0.9")

    async def unused(_incoming: Any) -> Any:
        raise AssertionError

    services = replace(Bench(unused, stage=STAGES["complete"]).runner._services, lane=lane)
    broker, late = Broker(), Late(PostgresLateOutcomes(database), services)
    broker.away = True
    with pytest.raises(DependencyDownError):
        await late.round(broker.publish)
    broker.away = False
    assert [await late.round(broker.publish), await late.round(broker.publish)] == [1, 0]
    assert broker.sent == [CODEC.encode(expected)]
