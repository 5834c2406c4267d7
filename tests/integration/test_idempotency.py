"""Idempotency holds the same whether it is kept in memory or in Postgres."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from processors.idempotency import Claimant, FakeIdempotency, Idempotency, PostgresIdempotency
from processors.postgres import Database
from tests.support.stack import TestStack

pytestmark = pytest.mark.stack

START = datetime(2026, 1, 1, 12, 30, 15, 123456, tzinfo=UTC)


@pytest.fixture
async def database(stack: TestStack) -> AsyncIterator[Database]:
    opened = await Database.open(stack.postgres_dsn, max_size=16)
    yield opened
    await opened.close()


@pytest.fixture(params=["postgres", "fake"])
async def idempotency(request: pytest.FixtureRequest, database: Database) -> Idempotency:
    return PostgresIdempotency(database) if request.param == "postgres" else FakeIdempotency()


def claimant(
    lane: str, request_id: str = "r1", body_hash: str = "h1", *, tenant: str = "acme", at: int = 7
) -> Claimant:
    return Claimant(
        tenant=tenant,
        lane=lane,
        request_id=request_id,
        body_hash=body_hash,
        control_offset=at,
        accepted_at=START + timedelta(seconds=at),
    )


async def test_a_request_that_comes_again_goes_on_as_it_first_came(idempotency: Idempotency, lane: str) -> None:
    first = await idempotency.reserve(claimant(lane, at=7), "k")
    again = await idempotency.reserve(claimant(lane, at=9), "k")
    assert (first.outcome, first.new) == ("mine", True)
    assert (again.outcome, again.new) == ("mine", False)
    assert (again.control_offset, again.accepted_at) == (7, START + timedelta(seconds=7))


async def test_another_request_with_the_same_body_is_told_whose_the_key_is(idempotency: Idempotency, lane: str) -> None:
    await idempotency.reserve(claimant(lane, "r1"), "k")
    other = await idempotency.reserve(claimant(lane, "r2"), "k")
    assert (other.outcome, other.request_id, other.new) == ("repeated", "r1", False)


@pytest.mark.parametrize("request_id", ["r1", "r2"])
async def test_another_body_is_a_conflict(idempotency: Idempotency, lane: str, request_id: str) -> None:
    await idempotency.reserve(claimant(lane, "r1", "h1"), "k")
    other = await idempotency.reserve(claimant(lane, request_id, "h2"), "k")
    assert (other.outcome, other.body_hash) == ("conflict", "h1")


async def test_tenants_lanes_scopes_and_keys_are_apart(idempotency: Idempotency, lane: str) -> None:
    """A replay in a lane of its own neither uses up live keys nor finds them used."""
    await idempotency.reserve(claimant(lane, "r1", "h1"), "k")
    second = claimant(lane, "r2", "h2")
    assert (await idempotency.reserve(claimant(f"{lane}-replay", "r2", "h2"), "k")).outcome == "mine"
    assert (await idempotency.reserve(claimant(lane, "r2", "h2", tenant="umbrella"), "k")).outcome == "mine"
    assert (await idempotency.reserve(second, "k", scope="request")).outcome == "mine"
    assert (await idempotency.reserve(second, "k2")).outcome == "mine"


async def test_one_of_many_that_race_gets_the_key(idempotency: Idempotency, database: Database, lane: str) -> None:
    postgres = isinstance(idempotency, PostgresIdempotency)
    workers = [PostgresIdempotency(database) for _ in range(4)] if postgres else [idempotency]
    for round_number in range(25):
        key = f"k{round_number}"
        claims = [workers[n % len(workers)].reserve(claimant(lane, f"r{n}"), key) for n in range(16)]
        reservations = await asyncio.gather(*claims)
        assert len({r.request_id for r in reservations}) == 1
        assert [r.outcome for r in reservations].count("mine") == 1
        assert [r.new for r in reservations].count(True) == 1


async def test_of_many_that_ask_at_once_each_is_told_of_its_own_key(idempotency: Idempotency, lane: str) -> None:
    await idempotency.reserve(claimant(lane, "before", "h3", at=3), "k3")
    asked = [(n, claimant(lane, f"r{n}", f"h{n}", at=n)) for n in reversed(range(8))]
    # The first that is asked goes alone; the others wait for it, and then go together.
    found = await asyncio.gather(*(idempotency.reserve(one, f"k{n}") for n, one in asked))
    for (n, one), reservation in zip(asked, found, strict=True):
        held = (reservation.request_id, reservation.body_hash, reservation.accepted_at, reservation.new)
        assert held == (("before", "h3", START + timedelta(seconds=3), False) if n == 3 else (
            one.request_id, one.body_hash, one.accepted_at, True
        ))  # fmt: skip


async def test_two_deliveries_at_once_make_one_reservation(idempotency: Idempotency, lane: str) -> None:
    found = await asyncio.gather(*(idempotency.reserve(claimant(lane, at=n), "k") for n in range(3)))
    assert {reservation.outcome for reservation in found} == {"mine"}
    assert [reservation.new for reservation in found].count(True) == 1
    assert len({reservation.accepted_at for reservation in found}) == 1
