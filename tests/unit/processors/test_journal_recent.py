"""What was booked here a moment ago is told once, and nothing else is."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import psycopg.errors
import pytest

from processors.alone import one_by_one
from processors.journal import AttemptRow, CallKey, Done, Granted, Lease
from processors.journal.recent import Recent
from schemas.errors import DependencyDownError
from tests.support.targets import target

NOW = datetime(2026, 1, 1, tzinfo=UTC)
TARGET = target("1")


def grant(request_id: str, epoch: int = 1) -> Granted:
    key = CallKey(tenant="t", lane="l", run="", request_id=request_id)
    row = AttemptRow(
        attempt_id=key.attempt_id(0), ordinal=0, epoch=epoch, target=TARGET, state="calling", started_at=NOW
    )
    lease = Lease(key=key, owner="w", epoch=epoch)
    return Granted(lease=lease, attempt=row, earlier=(), input=b"i", input_hash="h")


def done(granted: Granted) -> tuple[AttemptRow, ...]:
    return (replace(granted.attempt, state="done", ended_at=NOW),)


def test_an_outcome_is_told_once_with_what_was_asked() -> None:
    recent, one = Recent(), grant("a")
    recent.granted(one)
    assert recent.take(one.lease.key) is None
    recent.finished(one.lease, done(one), b"r")
    assert recent.take(one.lease.key) == Done(result=b"r", attempts=done(one), input=b"i", input_hash="h", ended_at=NOW)
    assert recent.take(one.lease.key) is None


def test_nothing_is_told_of_another_grants_call_nor_of_one_that_went_another_way() -> None:
    recent, one, later = Recent(), grant("a"), grant("a", epoch=2)
    recent.finished(one.lease, done(one), b"r")
    assert recent.take(one.lease.key) is None, "it was not granted here"
    recent.granted(later)
    recent.finished(one.lease, done(one), b"r")
    assert recent.take(one.lease.key) is None
    recent.granted(one)
    recent.forget(one.lease.key)
    recent.finished(one.lease, done(one), b"r")
    assert recent.take(one.lease.key) is None


def test_no_more_is_kept_than_it_may() -> None:
    recent, grants = Recent(most=2), [grant(name) for name in "abc"]
    for one in grants:
        recent.granted(one)
        recent.finished(one.lease, done(one), b"r")
    assert [recent.take(one.lease.key) is not None for one in grants] == [False, True, True]


async def test_one_that_fails_does_not_fail_the_others() -> None:
    calls: list[list[int]] = []

    async def work(asked: list[int]) -> list[int]:
        calls.append(list(asked))
        if 0 in asked:
            raise ValueError("no")
        return [2 * one for one in asked]

    together = one_by_one(work)  # type: ignore[arg-type]
    first, wrong, last = await together([1, 0, 3])
    assert (first, last) == (2, 6) and isinstance(wrong, ValueError)
    assert calls == [[1, 0, 3], [1], [0], [3]]


@pytest.mark.parametrize(
    ("cause", "tries"), [(psycopg.errors.AdminShutdown(), 1), (psycopg.errors.LockNotAvailable(), 3)]
)
async def test_only_a_lock_that_one_waited_for_is_tried_again_alone(cause: psycopg.Error, tries: int) -> None:
    calls: list[list[int]] = []

    async def work(asked: list[int]) -> list[int]:
        calls.append(list(asked))
        raise DependencyDownError("postgres", "away") from cause

    answers = await one_by_one(work)([1, 2])  # type: ignore[arg-type]
    assert len(calls) == tries and all(isinstance(one, DependencyDownError) for one in answers)
