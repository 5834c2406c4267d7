"""The complete stage on real Postgres and HTTP, killed between its durable steps, judged by the provider's own log."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from processors.journal import AttemptRow, CallKey, PostgresJournal
from processors.postgres import Database
from tests.provider.process import ProviderProcess
from tests.support.complete_worker import die, run
from tests.support.stack import TestStack

pytestmark = pytest.mark.stack
_EVER = datetime.min.replace(tzinfo=UTC)


class Lives:
    """Workers of one request, one process each."""

    def __init__(self, stack: TestStack, provider: ProviderProcess, lane: str) -> None:
        self.stack, self.provider, self.lane = stack, provider, lane

    async def live(self, text: str = "why?", **plan: Any) -> list[str]:
        """Process the event as a worker of its own, in this process; the outputs it gave."""
        return await run(self._plan(text) | plan)

    async def die(self, failpoint: str, **more: str) -> None:
        """Process the event in a process that a fail point ends before it has given anything out."""
        await die(self._plan("why?") | more, failpoint)

    def _plan(self, text: str) -> dict[str, Any]:
        return {
            "dsn": self.stack.postgres_dsn,
            "base_url": self.provider.base_url,
            "lane": self.lane,
            "lease_s": 0.6,
            "text": text,
        }

    async def attempts(self) -> tuple[AttemptRow, ...]:
        database = await Database.open(self.stack.postgres_dsn)
        key = CallKey(tenant="acme", lane=self.lane, run="", request_id=self.lane)
        rows = await PostgresJournal(database).attempts_of(key)
        await database.close()
        return rows

    async def lease_after(self, moment: datetime | None) -> datetime:
        """When the lease of the request's call ends, as soon as that is later than this."""
        database = await Database.open(self.stack.postgres_dsn)
        async with asyncio.timeout(60):
            while True:
                rows = await database.execute("SELECT lease_until FROM calls WHERE lane = %s", (self.lane,))
                ends = rows[0][0] if rows else None
                # A call that has ended has none.
                if (rows and moment is not None and ends is None) or (ends is not None and ends > (moment or _EVER)):
                    break
                await asyncio.sleep(0.02)
        await database.close()
        return ends or _EVER

    def paid(self) -> int:
        return self.provider.paid()[self.lane]


@pytest.fixture
def lives(stack: TestStack, provider: ProviderProcess, lane: str) -> Lives:
    return Lives(stack, provider, lane)


@pytest.mark.parametrize(
    ("failpoint", "paid_before", "paid_in_all", "states"),
    [
        ("after_claim", 0, 1, ["unknown", "done"]),
        ("before_call", 0, 1, ["unknown", "done"]),
        ("after_reply", 1, 2, ["unknown", "done"]),
        ("after_finish", 1, 1, ["done"]),
    ],
)
async def test_a_kill_between_two_durable_steps_costs_at_most_one_call_and_loses_nothing(
    lives: Lives, failpoint: str, paid_before: int, paid_in_all: int, states: list[str]
) -> None:
    await lives.die(failpoint)
    assert lives.paid() == paid_before
    outputs = await lives.live()
    assert [line.split()[0] for line in outputs] == ["Cost"] * len(states) + ["Completion"]
    assert lives.paid() == paid_in_all
    rows = await lives.attempts()
    assert [row.state for row in rows] == states
    assert all(row.upper_bound == (row.state == "unknown") for row in rows)
    assert await lives.live() == outputs
    assert lives.paid() == paid_in_all


async def test_a_kill_while_json_is_asked_for_again_begins_anew_and_buys_no_more_repeats(lives: Lives) -> None:
    schema = '{"required": ["lamp"]}'
    await lives.die("after_reply:2", schema=schema)
    outputs = await lives.live(schema=schema)
    assert [line.split()[0] for line in outputs] == ["Cost"] * 3 + ["Answer"]
    rows = await lives.attempts()
    assert [(row.state, row.error_code) for row in rows] == [
        ("failed", "invalid_output"),
        ("unknown", "worker_lost"),
        ("failed", "invalid_output"),
    ]
    wrong, lost, last = rows
    assert wrong.usage is not None and last.usage is not None and not wrong.estimated
    assert wrong.usage.prompt_tokens == last.usage.prompt_tokens, "the last one was sent the first payload again"
    assert lost.target.bound.prompt_tokens > wrong.target.bound.prompt_tokens
    assert await lives.live(schema=schema) == outputs
    assert lives.paid() == 3


async def test_two_workers_with_one_event_pay_once_and_say_the_same(lives: Lives) -> None:
    # Held for as long as this machine may stand still.
    asked = [lives.live(text="[[fault:slow:1.5]]", lease_s=60.0) for _ in range(2)]
    first, second = await asyncio.gather(*asked)
    assert first == second and len(first) == 2
    assert lives.paid() == 1


async def test_a_call_longer_than_its_lease_stays_its_workers(lives: Lives) -> None:
    first = asyncio.create_task(lives.live(text="[[fault:slow:6]]", lease_s=3.0))
    granted = await lives.lease_after(None)
    # Renewed: by now it would soon be over else.
    await lives.lease_after(granted + timedelta(seconds=1.5))
    assert await lives.live(text="[[fault:slow:6]]", lease_s=3.0) == await first
    assert lives.paid() == 1 and len(await lives.attempts()) == 1


@pytest.mark.parametrize(
    ("faults", "states", "last"),
    [
        ("500,429,ok", ["failed", "failed", "done"], "Completion"),
        ("truncated,ok", ["unknown", "done"], "Completion"),
        ("truncated,disconnect,ok", ["unknown", "unknown"], "Answer"),
        ("html,garbage,empty_choices,html", ["failed"] * 4, "Answer"),
        ("401", ["failed"], "Answer"),
        ("context", ["failed"], "Answer"),
        ("no_usage", ["done"], "Completion"),
        ("length", ["done"], "Completion"),
    ],
)
async def test_faults_of_a_provider_end_in_their_documented_way(
    lives: Lives, faults: str, states: list[str], last: str
) -> None:
    outputs = await lives.live(text=f"[[fault:{faults}]]")
    assert outputs[-1].split()[0] == last
    rows = await lives.attempts()
    assert [row.state for row in rows] == states
    assert all(row.ended_at is not None for row in rows)
    begun = [line["attempt_id"] for line in lives.provider.calls() if line["request_id"] == lives.lane]
    assert set(begun) == {row.attempt_id for row in rows}
    assert await lives.live(text=f"[[fault:{faults}]]") == outputs
