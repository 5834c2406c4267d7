"""Runs of a replay, and what they would do, as a person reads them."""

from __future__ import annotations

from collections import Counter
from decimal import Decimal
from typing import Any

import pytest

from schemas.errors import RefusedError
from streams.cli.costs_amounts import micro_amount
from streams.cli.replay_survey_text import SHOWN, survey_text
from streams.cli.replay_text import run_text
from streams.replay.calls import Prepared
from streams.replay.desk import Planned
from streams.replay.run import Progress, Run, RunConfig
from streams.replay.survey import Surveyed


def run_of(*stages: str, **fields: Any) -> Run:
    names: dict[str, Any] = dict.fromkeys(("run", "name", "lane"), "r1")
    options: dict[str, Any] = {"target": "shadow", "config": RunConfig()} | fields
    return Run(**names, source_lane="live", stages=stages, code_version="1", **options)


def test_a_dry_run_that_buys_nothing_has_no_amounts_and_no_empty_values() -> None:
    text = survey_text(Planned(run_of("filter"), ()), Surveyed(read=9, taken=7, tenants=Counter(acme=5, other=2)))
    assert text.splitlines() == [
        "dry run of filter into a lane of its own; nothing was begun or spent",
        "offsets: 0, of which 9 records were read",
        "events taken: 7 (acme 5, other 2)",
    ]


def test_a_dry_run_tells_the_price_and_why_calls_are_refused() -> None:
    found = Surveyed(read=9, taken=7)
    found.call(Prepared(model="m1", likely=Decimal("0.25")), most=Decimal(5))
    for error in (RefusedError("prompt_too_long", "too long"), RefusedError("prompt_too_long", "too long"), None):
        found.call(Prepared(error=error), most=Decimal(0))
    lines = survey_text(Planned(run_of("complete", "account"), ()), found).splitlines()
    assert "calls to m1: 1, likely 0.25 USD, at most 5.00 USD" in lines
    assert "  likely: one attempt each, with as many tokens as it may generate" in lines
    reasons = lines[lines.index("refused: 3, which end without a call") + 1 :]
    assert [reason.partition(":")[0] for reason in reasons] == ["  2", "  1"]
    assert "too long" in reasons[0] and "no such route or model" in reasons[1]


def test_many_reasons_and_tenants_are_summed_up() -> None:
    found = Surveyed(tenants=Counter({f"t{number}": 1 for number in range(SHOWN + 2)}))
    for number in range(SHOWN + 3):
        found.call(Prepared(error=RefusedError("code", f"reason {number}")), most=Decimal(0))
    text = survey_text(Planned(run_of("complete"), ()), found)
    assert "and 2 more" in text
    assert "  3: for other reasons\n" in text


def test_a_backfill_tells_what_becomes_of_answers() -> None:
    found = Surveyed(taken=7, answers=Counter(replaced=7))
    text = survey_text(Planned(run_of("filter", target="live"), ()), found)
    assert "into the lane live, as new revisions" in text
    assert "7 answers in the lane live get a new revision\n" in text


@pytest.mark.parametrize(
    ("amount", "shown"),
    [
        ("0E-12", "0"),
        ("0.000000000001", "less than 0.000001"),
        ("0.000001500000", "0.000002"),
        ("12.500000000000", "12.50"),
    ],
)
def test_amounts_are_to_the_micro_dollar(amount: str, shown: str) -> None:
    assert micro_amount(Decimal(amount)) == shown


def test_a_plain_run_shows_what_was_asked_for_and_no_more() -> None:
    config = RunConfig(sets={"prompt": "support@7"}, max_cost_usd=Decimal(3))
    text = run_text(run_of("filter", state="done", config=config), Progress(places=()), ())
    assert text.splitlines()[1:] == [
        "  lane r1, from live into shadow, by version 1",
        "  sets: prompt=support@7",
        "  max cost USD: 3",
        "  filter: 0 of 0",
        "  cost 0 USD, avoided 0 USD",
    ]
