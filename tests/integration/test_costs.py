"""``headrace costs`` over a ledger in Postgres."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

import pytest

from processors.account.postgres import PostgresLedger
from processors.postgres import Database
from schemas.records import Cost, Usage
from tests.support.commands import Commands
from tests.support.costs import AT, correction, cost, entry
from tests.support.stack import TestStack

pytestmark = pytest.mark.stack


@pytest.fixture(scope="module")
def commands(stack: TestStack, tmp_path_factory: pytest.TempPathFactory) -> Commands:
    lane = f"costs{secrets.token_hex(4)}"
    commands = Commands(stack, lane, tmp_path_factory.mktemp("costs"), ("costs",))
    asyncio.run(record(stack, books(lane)))
    return commands


async def record(stack: TestStack, costs: Sequence[Cost]) -> None:
    database = await Database.open(stack.postgres_dsn)
    try:
        await PostgresLedger(database).record([entry(one) for one in costs])
    finally:
        await database.close()


def books(lane: str) -> list[Cost]:
    """Three requests of two tenants over two days: one with a retry, one with an attempt that nobody saw end."""

    umbrella = {"tenant": "umbrella", "team": "", "model": "m2", "incurred_at": AT + timedelta(days=1)}

    def one(name: str, amount: str, **fields: object) -> Cost:
        return cost(f"{lane}-{name}", amount, lane=lane, **{"team": "search", "model": "m1", **fields})

    late = one("late", "9", request_id="r2", state="unknown", upper_bound=True)
    return [
        one("failed", "0.5", request_id="r1", state="failed", usage=Usage(prompt_tokens=999)),
        one("done", "0.000000000001", request_id="r1", ordinal=1, user="u1"),
        one("lost", "3", request_id="r2", state="unknown", upper_bound=True, usage=Usage(prompt_tokens=999)),
        late,
        correction(late, "0.25"),
        one("other", "1.75", request_id="r1", **umbrella),
        one("reused", "0", request_id="r3", served_by="journal", avoided_cost_usd=Decimal("1.75"),
            usage=Usage(), price_source="unpriced", **umbrella),
    ]  # fmt: skip


def test_sums_by_tenant_with_failed_and_unknown_attempts_apart(commands: Commands) -> None:
    ran = commands.run("costs", "--lane", commands.lane, "--json")
    assert ran.code == 0
    [found] = ran.objects
    assert found["by"] == ["tenant"]
    acme, umbrella = found["groups"]
    assert acme == {
        "tenant": "acme",
        "requests": 2,
        "attempts": 4,
        "failed_attempts": 1,
        "unknown_attempts": 1,
        "unpriced_attempts": 0,
        "prompt_tokens": 200,
        "completion_tokens": 40,
        "cached_prompt_tokens": 0,
        "reasoning_tokens": 0,
        "done_usd": "0.250000000001",
        "failed_usd": "0.50",
        "unknown_usd": "3.00",
        "total_usd": "3.750000000001",
        "avoided_usd": "0.00",
    }
    assert (umbrella["requests"], umbrella["attempts"], umbrella["avoided_usd"]) == (2, 1, "1.75")
    assert (found["total"]["total_usd"], found["total"]["requests"]) == ("5.500000000001", 4)
    assert found["ledger_written_at"] is not None
    assert "1 attempts of unknown outcome" in ran.err
    assert "1 attempts are counted at 0" in ran.err


@pytest.mark.parametrize(
    ("arguments", "groups"),
    [
        (("--by", "team"), {("search",): "3.750000000001", ("",): "1.75"}),
        (("--by", "day"), {("2026-03-01",): "3.750000000001", ("2026-03-02",): "1.75"}),
        (("--by", "model,user"), {("m1", ""): "3.75", ("m1", "u1"): "0.000000000001", ("m2", ""): "1.75"}),
        (("--by", "model", "--by", "tenant"), {("m1", "acme"): "3.750000000001", ("m2", "umbrella"): "1.75"}),
        (("--by", "day", "--since", "2026-03-02"), {("2026-03-02",): "1.75"}),
        (("--by", "day", "--until", "2026-03-02"), {("2026-03-01",): "3.750000000001"}),
        (("--by", "tier", "--tenant", "umbrella"), {("",): "1.75"}),
        (("--by", "session", "--since", "36500d"), {("",): "5.500000000001"}),
    ],
)
def test_breaks_down_by_what_was_asked(
    commands: Commands, arguments: tuple[str, ...], groups: dict[tuple[str, ...], str]
) -> None:
    [found] = commands.run("costs", "--lane", commands.lane, "--json", *arguments).objects
    shown = {tuple(group[name] for name in found["by"]): group["total_usd"] for group in found["groups"]}
    assert shown == groups
    assert list(shown) == sorted(shown, key=lambda g: g if found["by"] == ["day"] else -Decimal(shown[g]))
    assert Decimal(found["total"]["total_usd"]) == sum(Decimal(amount) for amount in groups.values())


def test_a_person_gets_a_table_with_its_total(commands: Commands) -> None:
    ran = commands.run("costs", "--lane", commands.lane, "--by", "tenant", "--limit", "1")
    head, first, total = [line.split() for line in ran.out.splitlines()]
    assert head[0] == "tenant" and head[-3:] == ["unknown", "total", "avoided"]
    assert first == ["acme", "2", "4", "200", "40", "0.25", "0.50", "3.00", "3.75", "0.00"]
    assert total == ["total", "4", "5", "300", "60", "2.00", "0.50", "3.00", "5.50", "1.75"]
    assert "1 more groups are in the total alone" in ran.err


def test_an_empty_ledger_says_so(commands: Commands) -> None:
    ran = commands.run("costs", "--lane", "nowhere")
    assert (ran.code, ran.out) == (0, "")
    assert "holds nothing" in ran.err
    [found] = commands.run("costs", "--lane", "nowhere", "--json").objects
    assert (found["groups"], found["total"]["total_usd"], found["ledger_written_at"]) == ([], "0.00", None)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--since", "yesterday"), "'yesterday' is no time"),
        (("--since", "2026-03-02", "--until", "2026-03-01"), "is not before"),
        (("--by", "colour"), "know no colour"),
        (("--by", ""), "take one of tenant"),
    ],
)
def test_bad_usage_is_told_as_such(commands: Commands, arguments: tuple[str, ...], said: str) -> None:
    ran = commands.run("costs", *arguments)
    assert (ran.code, ran.out) == (2, "")
    assert said in ran.err


def test_what_was_booked_twice_over_is_told(commands: Commands, stack: TestStack) -> None:
    lane = f"{commands.lane}-conflicts"
    first = cost(f"{lane}-x", "1", lane=lane)
    asyncio.run(record(stack, [first, replace(first, amount_usd=Decimal("2"))]))
    ran = commands.run("costs", "--lane", lane, "--json")
    assert (ran.objects[0]["conflicts"], ran.objects[0]["total"]["total_usd"]) == (1, "2.00")
    assert "1 cost events said otherwise" in ran.err
