"""A request older than what the tables remember is refused, and nothing is paid for it."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

import pytest

from processors.admit import AdmitPolicy
from processors.age import too_old
from processors.clock import FakeClock
from processors.complete.processor import Complete
from processors.complete.routes import Deployment, Price, Route
from processors.control import FakeControl
from processors.journal import MemoryJournal
from processors.model import FakeModelClient
from schemas.codec import Codec
from schemas.errors import RefusedError
from schemas.records import Answer, Meta
from tests.support.admission import Bench, request
from tests.support.enrichments import ACCEPTED, enrichment, incoming

HORIZON = timedelta(days=37)
CODEC = Codec.offline()


def test_the_horizon_is_the_last_age_that_is_taken() -> None:
    meta = Meta(event_id="e", request_id="r", tenant="t", lane="l", accepted_at=ACCEPTED)
    assert too_old(meta, HORIZON, ACCEPTED + HORIZON) is None
    assert too_old(meta, None, ACCEPTED + 100 * HORIZON) is None
    refusal = too_old(meta, HORIZON, ACCEPTED + HORIZON + timedelta(microseconds=1))
    assert refusal is not None
    assert (refusal.code, refusal.status) == ("too_old", "expired")
    assert "37 days" in str(refusal)


async def test_admission_refuses_it_before_anything_is_reserved() -> None:
    bench = Bench(policy=AdmitPolicy(horizon=HORIZON))
    answer = await bench.refusal(request(idempotency_key="k"), late_s=HORIZON.total_seconds() + 1)
    assert answer.failure is not None
    assert (answer.status, answer.failure.code) == ("expired", "too_old")
    assert not bench.idempotency.held


async def test_admission_refuses_a_redelivery_that_was_admitted_once() -> None:
    """Whoever redelivers it so late can't be told what became of it."""
    bench = Bench(policy=AdmitPolicy(horizon=HORIZON))
    await bench.admitted(request())
    answer = await bench.refusal(request(), late_s=HORIZON.total_seconds() + 1)
    assert answer.failure is not None and answer.failure.code == "too_old"


class Completion:
    def __init__(self) -> None:
        self.clock = FakeClock(ACCEPTED)
        self.model = FakeModelClient()
        deployment = Deployment(name="d1", base_url="http://x/v1", model="m1", price=Price(prompt=Decimal(3)))
        self.complete = Complete(
            MemoryJournal(self.clock),
            self.model,
            routes={"default": Route(name="default", deployment=deployment)},
            codec=CODEC,
            clock=self.clock,
            control=FakeControl(),
            owner="w1",
            horizon=HORIZON,
        )


async def test_completion_pays_nothing_for_it() -> None:
    bench = Completion()
    bench.clock.advance(HORIZON.total_seconds() + 1)
    with pytest.raises(RefusedError) as refused:
        await bench.complete(incoming(enrichment("r1", expires_at=None), CODEC))
    assert (refused.value.code, refused.value.status) == ("too_old", "expired")
    assert not bench.model.calls


async def test_completion_gives_out_what_was_paid_before() -> None:
    bench = Completion()
    event = incoming(enrichment("r1", expires_at=None), CODEC)
    first = await bench.complete(event)
    bench.clock.advance(HORIZON.total_seconds() + 1)
    assert await bench.complete(event) == first
    assert len(bench.model.calls) == 1
    assert not any(isinstance(output, Answer) for output in first)
