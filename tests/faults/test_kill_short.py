"""The short form of ``make faults``, and a verifier that finds what it is told to look for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from schemas.records import Answer
from tests.faults.evidence import Evidence, ProviderCall, Seen
from tests.faults.pipeline import scene
from tests.faults.run import Options, Outcome, run
from tests.faults.verifier import verify
from tests.support.stack import TestStack

pytestmark = [pytest.mark.stack, pytest.mark.faults, pytest.mark.timeout(900)]

SLOW = ("--median-ms", "40", "--slow-ms", "2000", "--slow-share", "0.08")
STAGES = ("complete", "enrich", "filter", "account")
OPTIONS = Options(requests=400, kills=len(STAGES), seed=7, rate=150.0, stages=STAGES, prompts=1, stall_s=180.0)


@pytest.fixture(scope="module")
def outcome(stack: TestStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outcome]:
    folder = tmp_path_factory.mktemp("kill")
    with scene(stack, folder, f"k{folder.stat().st_ino:x}", *SLOW, "--seed", str(OPTIONS.seed)) as where:
        yield run(where, OPTIONS)


def test_kills_under_load_lose_nothing_and_pay_for_nothing_twice(outcome: Outcome) -> None:
    verdict = outcome.verdict
    assert verdict.violations == ()
    assert verdict.lost == ()
    assert verdict.requests >= OPTIONS.requests
    assert sum(verdict.kills.values()) == OPTIONS.kills
    assert verdict.extra_paid_calls <= verdict.calls_open_at_kills
    # Kills that nothing was redelivered after would have proved nothing.
    assert sum(verdict.duplicates.values()) > 0


def test_the_verifier_misses_nothing_that_is_wrong(outcome: Outcome) -> None:
    found = len(verify(outcome.evidence).violations)
    for what, spoil in SPOILED.items():
        assert len(verify(spoil(outcome.evidence)).violations) > found, what


def _without_answer(evidence: Evidence) -> Evidence:
    key = evidence.topics["answers"][0].key
    return _topic(evidence, "answers", [seen for seen in evidence.topics["answers"] if seen.key != key])


def _other_answer(evidence: Evidence) -> Evidence:
    first = evidence.topics["answers"][0]
    answer = evidence.codec.decode(first.value, Answer)
    other = replace(answer, meta=replace(answer.meta, event_id="another"))
    return _topic(
        evidence, "answers", [*evidence.topics["answers"], replace(first, value=evidence.codec.encode(other))]
    )


def _phantom(evidence: Evidence) -> Evidence:
    return _topic(
        evidence, "answers", [*evidence.topics["answers"], replace(evidence.topics["answers"][0], key="nobody")]
    )


def _without_cost(evidence: Evidence) -> Evidence:
    key = evidence.topics["costs"][0].key
    return _topic(evidence, "costs", [seen for seen in evidence.topics["costs"] if seen.key != key])


def _paid_again(evidence: Evidence) -> Evidence:
    call = next(call for call in evidence.provider if call.paid)
    return _calls(evidence, replace(call, number=10**6))


def _paid_without_row(evidence: Evidence) -> Evidence:
    call = next(call for call in evidence.provider if call.paid)
    return _calls(evidence, replace(call, number=10**6, attempt_id="unknown"))


def _paid_too_early(evidence: Evidence) -> Evidence:
    first, *rest = evidence.provider
    return replace(evidence, provider=[replace(first, began=first.began - 5), *rest])


def _two_finals(evidence: Evidence) -> Evidence:
    return replace(evidence, finals=[*evidence.finals, replace(evidence.finals[0], revision=1)])


def _left_open(evidence: Evidence) -> Evidence:
    first, *rest = evidence.attempts
    return replace(evidence, attempts=[replace(first, state="calling", ended_at=None), *rest])


def _not_booked(evidence: Evidence) -> Evidence:
    return replace(evidence, ledger=evidence.ledger[1:])


def _booked_otherwise(evidence: Evidence) -> Evidence:
    first, *rest = evidence.ledger
    return replace(evidence, ledger=[replace(first, amount_usd=first.amount_usd * 2), *rest])


def _booked_for_nothing(evidence: Evidence) -> Evidence:
    return replace(evidence, ledger=[*evidence.ledger, replace(evidence.ledger[0], attempt_id="another")])


def _stale_document(evidence: Evidence) -> Evidence:
    return replace(evidence, documents={**evidence.documents, "lamp": "Another text."})


def _not_committed(evidence: Evidence) -> Evidence:
    return replace(evidence, uncommitted={"filter": 1})


SPOILED: dict[str, Callable[[Evidence], Evidence]] = {
    "a request without an answer": _without_answer,
    "a second answer": _other_answer,
    "an answer that nobody asked for": _phantom,
    "an attempt without a cost": _without_cost,
    "an attempt that was sent twice": _paid_again,
    "a call without a row": _paid_without_row,
    "a call before its row": _paid_too_early,
    "a second final row": _two_finals,
    "an attempt left open": _left_open,
    "an attempt that is not in the ledger": _not_booked,
    "a row with another amount than its events": _booked_otherwise,
    "a row of no attempt": _booked_for_nothing,
    "a document whose change was lost": _stale_document,
    "an event that was not committed": _not_committed,
}


def _topic(evidence: Evidence, kind: str, records: list[Seen]) -> Evidence:
    topics: dict[str, Any] = {**evidence.topics, kind: records}
    return replace(evidence, topics=topics)


def _calls(evidence: Evidence, extra: ProviderCall) -> Evidence:
    return replace(evidence, provider=[*evidence.provider, extra])
