"""Which attempts an answer has to name, for the books to agree."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

import pytest

from processors.account.reconcile import Event, Evidence, Journaled, Row, Told, reconcile
from processors.account.rule import fold
from schemas.records import Cost
from tests.support.costs import AT, correction, cost, entry

HOUR = timedelta(hours=1)


def missed(closing: Cost, *later: Cost) -> list[str]:
    """What is found where the request's answer names no attempt."""
    entries = [entry(one) for one in (closing, *later)]
    first, standing = entries[0], fold(closing.attempt_id, [one.said for one in entries])
    spender, said = first.spender, standing.said
    rerated = sum((one.amount_usd for one in later if one.correction == "rerate"), Decimal(0))
    journaled = Journaled(
        attempt_id=first.attempt_id,
        tenant=spender.tenant,
        run=spender.run,
        request_id=spender.request_id,
        state=said.state,
        cost_usd=said.amount_usd - rerated,
        started_at=AT,
        ended_at=AT,
        call_state="done",
        call_changed_at=AT,
        held_until=None,
    )
    answer = Told(
        tenant=spender.tenant,
        run=spender.run,
        request_id=spender.request_id,
        cost_usd=Decimal(0),
        attempts=(),
        decided_at=AT,
    )
    evidence = Evidence(
        since=AT - HOUR,
        until=AT + HOUR,
        costs_from=AT - HOUR,
        journal_from=AT - HOUR,
        rows=[Row(first.attempt_id, spender, said, standing.conflicts, standing.history, AT)],
        events=[Event(one.attempt_id, one.spender, one.said) for one in entries],
        attempts=[journaled],
        answers=[answer],
        finals={(spender.tenant, spender.request_id)},
    )
    return [one.kind for one in reconcile(evidence)]


@pytest.mark.parametrize(
    "closing",
    [
        cost("a1"),
        cost("a1", "0"),
        cost("a1", state="failed", error_code="invalid_output"),
        cost("a1", state="failed", error_code="content_refused"),
        cost("a1", state="unknown", upper_bound=True),
    ],
    ids=["done", "done for nothing", "invalid output", "refused", "unknown"],
)
def test_what_was_paid_or_done_is_missed_in_an_answer(closing: Cost) -> None:
    assert missed(closing) == ["attempt_not_in_answer"]


def test_what_was_paid_is_missed_after_a_change_of_its_price() -> None:
    closing = cost("a1")
    rerated = correction(closing, "0.10", correction="rerate", incurred_at=AT + HOUR / 2)
    assert missed(closing, rerated) == ["attempt_not_in_answer"]


def test_an_attempt_that_cost_nothing_and_brought_nothing_is_not_missed() -> None:
    assert missed(cost("a1", "0", state="failed", error_code="http_500")) == []


@pytest.mark.parametrize("marked", ["late", ""])
def test_an_outcome_that_came_in_late_is_not_missed(marked: str) -> None:
    closing = cost("a1", "0.90", state="unknown", upper_bound=True)
    late = correction(closing, "0.25", correction=marked, incurred_at=AT + HOUR / 3)
    rerated = replace(
        correction(closing, "0.80", correction="rerate", incurred_at=AT + HOUR / 2),
        meta=replace(closing.meta, event_id="a rerate"),
    )
    assert missed(closing, late) == []
    assert missed(closing, late, rerated) == []
