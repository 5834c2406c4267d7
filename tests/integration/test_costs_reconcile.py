"""``headrace costs reconcile``: books that agree, and one planted fault of every kind."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest

from processors.account.postgres import PostgresLedger
from processors.account.reconcile import KINDS
from processors.journal import CallKey
from processors.postgres import Database
from schemas.records import Answer, Attempt, Cost, Meta
from streams.publish import Publisher
from tests.support.commands import Commands
from tests.support.costs import correction, cost, entry
from tests.support.stack import TestStack

pytestmark = pytest.mark.stack

ENDED = datetime.now(UTC) - timedelta(minutes=10)
AMOUNT = Decimal("0.25")
# As long as a call by batch may take.
BATCHED = timedelta(hours=25.9)


class Books:
    """A lane's books. ``request`` keeps them as the stages would; what it is told to leave out or change is a fault."""

    def __init__(self, stack: TestStack, folder: Path) -> None:
        self.lane = f"reconcile{secrets.token_hex(4)}"
        self.commands = Commands(stack, self.lane, folder, ("costs", "answers"))
        self.publisher = Publisher(self.commands.settings, self.commands.codec, lane=self.lane)
        self._dsn = stack.postgres_dsn
        self._ledger: list[Cost] = []

    def request(
        self,
        name: str,
        *,
        told: bool = True,
        booked: bool = True,
        journaled: bool = True,
        answered: bool = True,
        ledger: Callable[[Cost], list[Cost]] = lambda event: [event],
        answer: Callable[[Answer], Answer] = lambda answer: answer,
        attempt: str = "done",
        took: timedelta = timedelta(seconds=1),
    ) -> Cost:
        """A request with one paid attempt, which ``took`` so long. Returns its cost event."""
        key = CallKey(tenant="acme", lane=self.lane, run="", request_id=name)
        state = "done" if attempt == "calling" else attempt
        event = cost(key.attempt_id(0), str(AMOUNT), lane=self.lane, request_id=name, incurred_at=ENDED, state=state)
        if told:
            self.publisher.publish("costs", event, name)
        if booked:
            self._ledger += ledger(event)
        if journaled:
            self._journal(key, event, attempt, took)
        if answered:
            self._answer(name, event, answer, took)
        return event

    def _answer(self, name: str, event: Cost, change: Callable[[Answer], Answer], took: timedelta) -> None:
        named = Attempt(attempt_id=event.attempt_id, state="done", cost_usd=AMOUNT, started_at=ENDED - took)
        meta = Meta(event_id=f"answer to {name}", request_id=name, tenant="acme", lane=self.lane, stage="filter")
        answer = Answer(meta=meta, status="answered", cost_usd=AMOUNT, attempts=(named,), decided_at=ENDED)
        self.publisher.publish("answers", change(answer), name)
        self._execute(
            "INSERT INTO finals (tenant, lane, request_id, revision, event_id, status, answer)"
            " VALUES ('acme', %s, %s, 0, 'e', 'answered', '')",
            (self.lane, name),
        )

    def _journal(self, key: CallKey, event: Cost, state: str, took: timedelta) -> None:
        open_ = state == "calling"
        self._execute(
            "INSERT INTO calls (call_id, tenant, lane, run, request_id, purpose, ordinal, input_hash, input,"
            " state, result, lease_until, updated_at) VALUES (%s, 'acme', %s, '', %s, 'completion', 0, '', '',"
            " %s, %s, %s, %s)",
            (
                key.call_id,
                self.lane,
                key.request_id,
                "calling" if open_ else "done",
                None if open_ else b"",
                ENDED,
                ENDED,
            ),
        )
        self._execute(
            "INSERT INTO attempts (attempt_id, call_id, ordinal, epoch, route, deployment, provider, model,"
            " price_source, account, stage_version, control_offset, bound_prompt_tokens, bound_completion_tokens,"
            " upper_bound_usd, state, started_at, ended_at, cost_usd)"
            " VALUES (%s, %s, 0, 1, '', '', '', '', '', '', '', -1, 0, 0, 9, %s, %s, %s, %s)",
            (event.attempt_id, key.call_id, state, ENDED - took, None if open_ else ENDED,
             None if open_ else AMOUNT),
        )  # fmt: skip

    def finish(self) -> None:
        """Write what waits."""
        assert not self.publisher.flush()

        async def record() -> None:
            database = await Database.open(self._dsn)
            try:
                await PostgresLedger(database).record([entry(one) for one in self._ledger])
            finally:
                await database.close()

        asyncio.run(record())
        self._ledger.clear()
        self._execute("UPDATE ledger SET recorded_at = %s WHERE lane = %s", (ENDED, self.lane))

    def _execute(self, statement: str, parameters: tuple[Any, ...]) -> None:
        with psycopg.connect(self._dsn, autocommit=True) as connection:
            connection.execute(statement.encode(), parameters)

    def reconcile(self, *arguments: str) -> tuple[int, dict[str, Any]]:
        ran = self.commands.run("costs", "reconcile", "--lane", self.lane, "--json", *arguments)
        return ran.code, ran.objects[0]


def plant(books: Books) -> dict[str, str]:
    """One fault of each kind; the request that each one is found at."""

    def dearer(event: Cost) -> list[Cost]:
        return [replace(event, amount_usd=Decimal(1))]

    def twice(event: Cost) -> list[Cost]:
        return [event, replace(event, amount_usd=Decimal("0.20"))]

    books.request("event_not_booked", booked=False)
    books.request("row_without_event", told=False)
    # The event says as the ledger does; the journal does not.
    books.request("row_differs_from_events", ledger=dearer, journaled=False)
    books.request("conflicting_events", ledger=twice)
    books.request("attempt_not_told", told=False, booked=False)
    books.request("row_without_attempt", journaled=False)
    late = books.request("row_differs_from_journal")
    changed = correction(late, "0.10", incurred_at=ENDED, correction="late")
    books.publisher.publish("costs", changed, "row_differs_from_journal")
    books._ledger.append(changed)
    books.request("attempt_left_open", told=False, booked=False, answered=False, attempt="calling")
    books.request("answer_differs", answer=lambda answer: replace(answer, cost_usd=Decimal(3)))
    unknown = Attempt(attempt_id="nobody's", state="done", cost_usd=Decimal(0), started_at=ENDED)
    books.request(
        "answer_names_unknown_attempt", answer=lambda answer: replace(answer, attempts=(*answer.attempts, unknown))
    )
    books.request("attempt_not_in_answer", answer=_without_attempts)
    books.request("failed_not_in_answer", answer=_without_attempts, attempt="failed")
    books.request("paid_without_answer", answered=False)
    books.request("batch_not_told", told=False, booked=False, took=BATCHED)
    books.finish()
    return {kind: kind for kind in KINDS}


def _without_attempts(answer: Answer) -> Answer:
    return replace(answer, attempts=(), cost_usd=Decimal(0))


@pytest.fixture(scope="module")
def books(stack: TestStack, tmp_path_factory: pytest.TempPathFactory) -> Books:
    return Books(stack, tmp_path_factory.mktemp("reconcile"))


def test_books_agree_and_then_one_fault_of_each_kind_is_found(books: Books) -> None:
    for number in range(3):
        books.request(f"right-{number}")
    # It was with its provider since before the stretch that is looked at.
    books.request("right-batched", took=BATCHED)
    # What a stage embeds beside a call is no attempt of the journal's, and in no answer.
    beside = cost("embedded", "0.01", lane=books.lane, request_id="right-0", incurred_at=ENDED, purpose="embedding")
    books.publisher.publish("costs", beside, "right-0")
    books._ledger.append(beside)
    books.finish()
    code, found = books.reconcile()
    assert (code, found["agree"], found["findings"]) == (0, True, [])
    assert (found["ledger_rows"], found["cost_events"], found["journaled_attempts"], found["answers"]) == (5, 5, 4, 4)
    assert found["ledger_usd"] == "1.01"

    planted = plant(books)
    code, found = books.reconcile()
    assert (code, found["agree"]) == (1, False)
    at = {(one["kind"], one["request_id"]) for one in found["findings"]}
    assert {(kind, request_id) for kind, request_id in planted.items()} <= at
    assert ("attempt_not_told", "batch_not_told") in at
    assert ("attempt_not_in_answer", "failed_not_in_answer") in at
    assert not {request_id for _, request_id in at} & {"right-0", "right-1", "right-2", "right-batched"}

    # What is younger than the grace is on its way.
    assert books.reconcile("--grace-s", "3600")[0] == 0


def test_a_person_is_told_what_a_finding_means(books: Books) -> None:
    ran = books.commands.run("costs", "reconcile", "--lane", books.lane, "--limit", "1")
    assert ran.code == 1
    for kind, meaning in KINDS.items():
        assert f"): {meaning}" in ran.out and kind in ran.out
    assert "things do not agree" in ran.out
