"""A cheap model's reply on real Postgres and HTTP when its worker is killed: it answers where no stronger one does."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from processors.journal import CallKey, Done, PostgresJournal
from processors.postgres import Database
from schemas.records import Completion
from tests.provider.process import ProviderProcess
from tests.support.complete_worker import CODEC, die, run
from tests.support.stack import TestStack

pytestmark = pytest.mark.stack


async def outcome(dsn: str, lane: str) -> tuple[Completion, bool]:
    """What the request's call has ended with, and whether anything of it is still kept."""
    database = await Database.open(dsn)
    key = CallKey(tenant="acme", lane=lane, run="", request_id=lane)
    done = await PostgresJournal(database).outcome_of(key)
    [[kept]] = await database.execute("SELECT kept IS NOT NULL FROM calls WHERE call_id = %s", (key.call_id,))
    await database.close()
    assert isinstance(done, Done)
    return CODEC.decode(done.result, Completion), kept


@pytest.mark.parametrize(
    ("failpoint", "attempts", "codes"),
    [
        # Killed before the stronger model was asked: asked once by the next one, which it refuses.
        ("after_kept", 1, ["escalated_format", "http_400"]),
        # Killed with its call open, which may be paid: asked once more, as its route allows.
        ("before_call:2", 2, ["escalated_format", "worker_lost", "http_400"]),
        # The same where the call may not be made again.
        ("before_call:2", 1, ["escalated_format", "worker_lost", "worker_lost"]),
    ],
)
async def test_a_kept_reply_outlives_its_worker_and_is_not_bought_again(
    stack: TestStack,
    provider: ProviderProcess,
    lane: str,
    failpoint: str,
    attempts: int,
    codes: list[str],
) -> None:
    plan: dict[str, Any] = {"dsn": stack.postgres_dsn, "base_url": provider.base_url, "lane": lane, "lease_s": 0.6}
    plan |= {"text": "why? [[fault:length,400]]", "price": "10", "cascade": attempts}
    await die(plan, failpoint)
    outputs = await run(plan)
    assert [line.split()[0] for line in outputs] == ["Cost"] * len(codes) + ["Completion"]
    one, kept = await outcome(stack.postgres_dsn, lane)
    assert not kept, "what was kept goes when the call has ended"
    assert (one.deployment, one.finish_reason) == ("d1", "length") and one.text is not None and one.text.inline
    assert [attempt.error_code for attempt in one.attempts] == codes
    assert one.usage is not None and one.usage.completion_tokens > 0
    assert one.cascade is not None and (one.cascade.outcome, one.cascade.reason) == ("stood", "unavailable")
    assert [(step.outcome, step.check, step.code) for step in one.cascade.steps] == [("escalated", "format", "cut_off")]
    assert one.cost_usd == sum((attempt.cost_usd or Decimal(0) for attempt in one.attempts), Decimal(0))
    assert provider.paid()[lane] == 1, "the cheap one, once; what is refused costs nothing"
    assert await run(plan) == outputs and provider.paid()[lane] == 1
