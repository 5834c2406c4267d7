"""The demonstration's summary."""

from __future__ import annotations

from decimal import Decimal

import pytest

from schemas.records import Answer, Citation, Meta, Timing, Usage
from streams.demo.summary import Arrival, Quantiles, plain_number, summarise


def arrival(
    request_id: str,
    *,
    status: str = "answered",
    latency_ms: float = 100.0,
    timings: tuple[Timing, ...] = (),
    citations: int = 0,
    usage: Usage | None = None,
    cost_usd: str = "0",
) -> Arrival:
    answer = Answer(
        meta=Meta(event_id=f"event of {request_id}", request_id=request_id, tenant="default", lane="live"),
        status=status,
        timings=timings,
        citations=tuple(Citation(passage_id=str(number), document_id="d") for number in range(citations)),
        usage=usage or Usage(),
        cost_usd=Decimal(cost_usd),
    )
    return Arrival(answer, latency_ms)


def test_every_request_is_counted_once_as_answered_rejected_failed_or_lost() -> None:
    statuses = {"a": "answered", "b": "rejected", "c": "blocked", "d": "failed", "e": "expired"}
    summary = summarise([*statuses, "f", "g"], [arrival(name, status=status) for name, status in statuses.items()])
    assert (summary.answered, summary.rejected, summary.failed, summary.lost) == (1, 2, 2, 2)
    assert summary.requests == 7


def test_an_answer_that_comes_twice_hides_no_lost_request() -> None:
    summary = summarise(["a", "b"], [arrival("a"), arrival("a", status="failed")])
    assert (summary.answered, summary.failed, summary.lost) == (1, 0, 1)


def test_an_answer_to_somebody_elses_request_does_not_count() -> None:
    summary = summarise(["a"], [arrival("other")])
    assert (summary.answered, summary.lost) == (0, 1)


@pytest.mark.parametrize(
    ("ids", "arrivals", "good"),
    [
        (["a"], [arrival("a")], True),
        (["a", "b"], [arrival("a"), arrival("b", status="failed")], True),
        (["a", "b"], [arrival("a")], False),
        (["a"], [arrival("a", status="rejected")], False),
    ],
)
def test_it_is_good_when_nothing_is_lost_and_something_is_answered(
    ids: list[str], arrivals: list[Arrival], good: bool
) -> None:
    assert summarise(ids, arrivals).good is good


def test_quantiles_are_values_that_were_measured() -> None:
    assert Quantiles.of(range(1, 101)) == Quantiles(50, 95)
    assert Quantiles.of([30.0, 10.0, 20.0]) == Quantiles(20.0, 30.0)
    assert Quantiles.of([7.04]) == Quantiles(7.0, 7.0)
    assert Quantiles.of([]) == Quantiles(None, None)


def test_waiting_and_service_are_kept_apart_for_each_stage() -> None:
    summary = summarise(
        ["a", "b"],
        [
            arrival("a", latency_ms=900, timings=(Timing(stage="admit", waited_ms=1, service_ms=2),)),
            arrival(
                "b",
                latency_ms=500,
                timings=(
                    Timing(stage="admit", waited_ms=3, service_ms=4),
                    Timing(stage="complete", waited_ms=50, service_ms=400),
                ),
            ),
        ],
    )
    assert list(summary.waited) == ["admit", "complete"]
    assert summary.waited["admit"] == Quantiles(1, 3)
    assert summary.service["admit"] == Quantiles(2, 4)
    assert summary.service["complete"] == Quantiles(400, 400)
    assert summary.latency == Quantiles(500, 900)


def test_tokens_and_cost_add_up_over_all_answers() -> None:
    usage = Usage(prompt_tokens=100, completion_tokens=10)
    summary = summarise(
        ["a", "b"],
        [
            arrival("a", usage=usage, cost_usd="0.000000000001"),
            arrival("b", status="failed", usage=usage, cost_usd="0.2"),
        ],
    )
    assert (summary.prompt_tokens, summary.completion_tokens) == (200, 20)
    assert summary.cost_usd == Decimal("0.200000000001")


def test_citations_are_averaged_over_what_was_answered() -> None:
    arrivals = [arrival("a", citations=3), arrival("b", citations=2), arrival("c", status="failed")]
    assert summarise(["a", "b", "c"], arrivals).citations_per_answer == 2.5
    assert summarise(["c"], arrivals).citations_per_answer is None


def test_the_json_object_has_exactly_the_promised_keys() -> None:
    timings = (Timing(stage="admit", waited_ms=1, service_ms=2),)
    found = summarise(["a"], [arrival("a", timings=timings)]).to_json({"kafka": "4.1.1", "java": "21"})
    assert list(found) == [
        *("requests", "answered", "rejected", "failed", "lost", "latency_ms", "stages"),
        *("tokens", "cost_usd", "citations_per_answer", "versions"),
    ]
    assert found["latency_ms"] == {"p50": 100.0, "p95": 100.0}
    assert found["stages"] == {"admit": {"waited_ms": {"p50": 1, "p95": 1}, "service_ms": {"p50": 2, "p95": 2}}}
    assert list(found["versions"]) == ["kafka", "registry", "postgres", "pgvector", "model", "embedding"]
    assert found["versions"]["kafka"] == "4.1.1"


@pytest.mark.parametrize(("amount", "shown"), [("0E-12", "0"), ("0.000000120000", "0.00000012"), ("100", "100")])
def test_money_is_shown_without_exponent(amount: str, shown: str) -> None:
    assert plain_number(Decimal(amount)) == shown
