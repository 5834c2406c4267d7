"""What is no fault: corrections, what is too young or too old to be judged, what others than the journal spent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

from processors.account.ledger import FakeLedger
from processors.account.reconcile import Event, Evidence, Journaled, Row, Told, reconcile
from schemas.records import Cost
from tests.support.costs import AT, correction, cost, entry

UNKNOWN = cost("a1", "0.90", state="unknown", upper_bound=True, request_id="r1")
LATE = correction(UNKNOWN, "0.25", incurred_at=AT + timedelta(minutes=1), correction="late")
RERATE = replace(
    UNKNOWN,
    meta=replace(UNKNOWN.meta, event_id="rerated", stage="rerate"),
    amount_usd=Decimal("0.10"),
    correction="rerate",
    incurred_at=AT + timedelta(minutes=2),
)


async def evidence(costs: Sequence[Cost], *, booked: Sequence[Cost] | None = None, **changes: object) -> Evidence:
    """The ledger after these events, the events, and the journal of ``a1``, settled late."""
    ledger = FakeLedger()
    for one in costs if booked is None else booked:
        await ledger.record([entry(one)])
    rows = [
        Row(name, spender, standing.said, standing.conflicts, standing.history, AT)
        for name, (spender, standing) in ledger.rows.items()
    ]
    attempt = Journaled(
        attempt_id="a1",
        tenant="acme",
        run="",
        request_id="r1",
        state="done",
        cost_usd=Decimal("0.25"),
        started_at=AT,
        ended_at=AT,
        late_at=LATE.incurred_at,
        call_state="done",
        call_changed_at=AT,
        held_until=None,
    )
    told = [entry(one) for one in costs]
    values = Evidence(
        since=AT - timedelta(days=1),
        until=AT + timedelta(days=1),
        costs_from=AT - timedelta(days=90),
        journal_from=AT - timedelta(days=45),
        rows=rows,
        events=[Event(one.attempt_id, one.spender, one.said) for one in told],
        attempts=[attempt],
        finals={("acme", "r1")},
    )
    return replace(values, **changes)  # type: ignore[arg-type]


async def kinds(costs: Sequence[Cost], **changes: object) -> list[str]:
    return [one.kind for one in reconcile(await evidence(costs, **changes))]  # type: ignore[arg-type]


async def test_corrections_for_late_outcomes_and_other_prices_agree() -> None:
    assert await kinds([UNKNOWN, LATE, RERATE, UNKNOWN]) == []
    # A correction that the ledger does not have.
    assert await kinds([UNKNOWN, LATE, RERATE], booked=[UNKNOWN, LATE]) == ["event_not_booked"]
    # A price that changed does not hide that the journal knows more.
    assert await kinds([UNKNOWN, RERATE]) == ["row_differs_from_journal"]


async def test_what_is_too_young_is_on_its_way() -> None:
    assert await kinds([UNKNOWN], booked=[], attempts=()) == ["event_not_booked"]
    assert await kinds([UNKNOWN], booked=[], attempts=(), until=AT) == []
    assert await kinds([UNKNOWN, LATE], booked=[UNKNOWN], until=AT + timedelta(seconds=30)) == []


async def test_a_correction_of_what_was_before_the_stretch_is_not_missed_in_the_ledger() -> None:
    since = AT + timedelta(seconds=30)
    assert await kinds([LATE], booked=[], attempts=(), since=since) == []


async def test_what_a_topic_or_the_journal_no_longer_holds_is_not_missed() -> None:
    later = AT + timedelta(hours=1)
    rows = {"booked": [UNKNOWN, LATE]}
    assert await kinds([], **rows, costs_from=later) == []
    assert await kinds([], **rows) == ["row_without_event"]
    assert await kinds([UNKNOWN, LATE], attempts=(), journal_from=later) == []
    assert await kinds([UNKNOWN, LATE], attempts=()) == ["row_without_attempt"]


async def test_what_other_stages_spend_and_what_was_reused_has_no_attempt() -> None:
    embedded = cost("e1", "0.01", purpose="embedding")
    embedded = replace(embedded, meta=replace(embedded.meta, stage="evaluate"))
    reused = cost("c1", "0", served_by="cache-exact", avoided_cost_usd=Decimal(1))
    assert await kinds([embedded, reused], attempts=()) == []


async def test_an_answer_of_no_attempts_costs_nothing() -> None:
    answer = Told(tenant="acme", run="", request_id="r9", cost_usd=Decimal(0), attempts=(), decided_at=AT)
    assert await kinds([UNKNOWN, LATE], answers=[answer]) == []
    assert await kinds([UNKNOWN, LATE], answers=[replace(answer, cost_usd=Decimal(1))]) == ["answer_differs"]
