"""Every fault of a provider ends in its documented outcome: the stage, its client and the filter over real HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from decimal import Decimal

import pytest
from pydantic import SecretStr

from processors.complete.processor import Complete
from processors.complete.routes import Api, Deployment, Route
from processors.event import Incoming, Output, Recorded
from processors.filter.policy import FilterPolicy
from processors.filter.processor import Filter
from processors.journal import AttemptRow
from processors.model import ModelClients
from schemas.errors import NotYetError
from schemas.records import Answer, Completion, Cost
from tests.provider.here import Here
from tests.provider.outcomes import CALLED, CASES, DOCUMENT, WAITS, Case, documented, table
from tests.support.completing import CODEC, PRICE, Bench, event
from tests.support.polling import until

# A machine that is busy must not be taken for a slow provider; a silence has to be noticed soon.
PATIENT = {"first_token_timeout_s": 30.0, "between_chunks_timeout_s": 30.0}
NOTICED_S = 1.0
# What each API has its own words for, once more in those of the others.
WORDED = (
    "ok",
    "no_stream",
    "empty_text",
    "length",
    "filtered",
    "no_usage",
    "wrong_usage",
    "context",
    "truncated",
    "garbage",
)
OTHERS: tuple[Api, ...] = ("azure", "responses", "anthropic")
EVERYWHERE = [(case, api) for case in CASES if case.fault in WORDED for api in OTHERS]
BOTH = [(case, "openai") for case in CASES] + EVERYWHERE


@pytest.fixture
async def client() -> AsyncIterator[ModelClients]:
    opened = ModelClients()
    yield opened
    await opened.close()


def bench_at(here: Here, client: ModelClients, *, slow: str, api: Api = "openai") -> Bench:
    """A stage with one slot, so that one that is not freed is missed by the next call."""
    bench = Bench()
    bench.model = client  # type: ignore[assignment]
    deadlines = PATIENT | ({slow: NOTICED_S} if slow else {})
    deployment = Deployment(
        name="d1",
        base_url=here.base_url if api in ("openai", "responses") else here.url,
        model="fake",
        api=api,
        api_key=SecretStr("k"),
        price=PRICE,
        max_concurrency=1,
        total_timeout_s=60.0,
        **deadlines,  # type: ignore[arg-type]
    )
    bench.route = Route(name="default", deployment=deployment, max_attempts=3)
    return bench


async def answer_of(outputs: Sequence[Output], bench: Bench) -> Answer:
    """The final answer: the stage's own, or what the filter makes of its completion."""
    last = outputs[-1]
    if isinstance(last, Answer):
        return last
    assert isinstance(last, Recorded) and isinstance(last.record, Completion)
    meta = last.record.meta
    incoming = Incoming(record=last.record, meta=meta, raw=last.value, appended_at=bench.clock.now(), control_offset=0)
    (answer,) = await Filter(policy=FilterPolicy(allow_truncated=False), clock=bench.clock)(incoming)
    assert isinstance(answer, Answer)
    return answer


@pytest.mark.parametrize(("case", "api"), BOTH, ids=[f"{case.fault}-{api}" for case, api in BOTH])
async def test_a_fault_ends_as_documented(here: Here, client: ModelClients, case: Case, api: Api) -> None:
    bench = bench_at(here, client, slow=case.slow, api=api)
    stage = bench.worker()
    outputs = await asyncio.wait_for(stage(event(text=f"why? [[fault:{case.fault}]]")), 120)
    (rows,) = bench.journal.attempts.values()
    assert [(row.state, row.error_code) for row in rows] == [(case.state, case.code)] * case.attempts
    for row in rows:
        booked_as_documented(row, case)
    costs = [output for output in outputs if isinstance(output, Cost)]
    assert [cost.amount_usd for cost in costs] == [row.cost_usd for row in rows]
    assert all(cost.estimated == (case.cost in ("estimated", "upper bound")) for cost in costs)
    # Codes are ours: nothing of the provider's own words goes on.
    said = [item.value if isinstance(item, Recorded) else CODEC.encode(item) for item in outputs]
    assert not [value for value in said if b"CANARY" in value]
    answer = await answer_of(outputs, bench)
    told = answer.status if answer.failure is None else f"{answer.status}: {answer.failure.code}"
    assert told == case.answer
    await until(lambda: here.bill["open"] == 0, "every call at the provider is over")
    billed = Decimal(str(here.bill["usd"]))
    booked = sum((row.cost_usd or Decimal(0) for row in rows), Decimal(0))
    assert booked == billed if case.cost in ("told", "nothing") else booked > 0
    if case.cost == "upper bound":
        assert booked >= billed
    # The one slot is free again: the next request is called, unless the fault has set key or deployment aside.
    assert await what_is_next(stage) == case.after


async def what_is_next(stage: Complete) -> str:
    """What becomes of another request, which meets no fault."""
    try:
        *_, last = await asyncio.wait_for(stage(event("r2")), 60)
    except NotYetError:
        return WAITS
    if isinstance(last, Recorded):
        return CALLED
    assert isinstance(last, Answer) and last.failure is not None
    return f"{last.status}: {last.failure.code}"


def booked_as_documented(row: AttemptRow, case: Case) -> None:
    assert row.cost_usd is not None
    assert row.estimated == (case.cost in ("estimated", "upper bound"))
    assert row.upper_bound == (case.cost == "upper bound")
    assert (row.cost_usd == 0) == (case.cost == "nothing")
    if case.cost == "upper bound":
        assert row.cost_usd == row.target.bound.usd


async def test_the_wait_that_a_provider_asks_for_is_kept(here: Here, client: ModelClients) -> None:
    bench = bench_at(here, client, slow="")
    await bench.worker()(event(text="why? [[fault:429:1,429_reset:0.5,ok]]"))
    first, second, third = [line["time"] for line in here.provider.log.recent() if line["event"] == "begin"]
    # The provider's clock is the wall's, which may be set while the test runs: a little less is no failure.
    assert second - first > 0.95 and third - second > 0.45


def test_the_document_has_the_table_of_these_cases() -> None:
    assert documented(DOCUMENT.read_text()) == table(), "run: python -m tests.provider.outcomes"
