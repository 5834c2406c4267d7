"""What a run pays for, what keeps its books, and how a dry run says it."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from streams.cli.replay_text import survey_view
from streams.replay.calls import Prepared
from streams.replay.desk import Planned
from streams.replay.embeddings import Embedded, buying
from streams.replay.paid import pays, with_books
from streams.replay.run import Run, RunConfig
from streams.replay.survey import Surveyed
from tests.support.settings import NOWHERE, bare_settings

PAID = {"base_url": NOWHERE, "model": "e1", "price": 0.02}


def run_of(*stages: str) -> Run:
    names: dict[str, Any] = dict.fromkeys(("run", "name", "lane"), "r1")
    return Run(**names, source_lane="live", target="shadow", stages=stages, config=RunConfig(), code_version="1")


@pytest.mark.parametrize(
    ("stages", "found"),
    [(("enrich",), ("enrich",)), (("filter", "evaluate"), ("evaluate",)), (("enrich", "complete"), ("enrich",))],
)
def test_a_run_that_buys_embeddings_keeps_its_own_books(stages: tuple[str, ...], found: tuple[str, ...]) -> None:
    settings = bare_settings(embeddings=PAID)
    assert buying(settings, stages) == found
    assert pays(stages, settings)
    assert with_books(stages, settings) == (*stages, "account")
    free = bare_settings()
    assert (buying(free, stages), with_books(stages, free)) == ((), stages)


def test_stages_that_need_no_embeddings_keep_none() -> None:
    assert buying(bare_settings(embeddings=PAID), ("complete", "filter", "account")) == ()
    off = {"rate": 1.0, "groundedness": False, "relevance": False}
    settings = bare_settings(embeddings=PAID, evaluate=off)
    assert with_books(("filter", "evaluate"), settings) == ("filter", "evaluate")
    assert not pays(("filter", "evaluate"), settings)


def test_a_dry_run_names_what_its_amounts_are_made_of() -> None:
    found = Surveyed(read=9, taken=7, not_recorded=1)
    found.call(Prepared(model="m1", likely=Decimal(1)), most=Decimal(5))
    found.call(Prepared(model="m1", likely=Decimal(2), reused="live"), most=Decimal(6))
    found.call(Prepared(model="m2", likely=Decimal(2), reused="live"), most=Decimal(7))
    found.embed("enrich", Embedded(1, Decimal("0.5"), Decimal(2)))
    found.embed("enrich", Embedded(1, Decimal("0.5"), Decimal(2)))
    view = survey_view(Planned(run_of("enrich", "complete", "account"), ()), found)
    assert view["calls"] == {
        "m1": {"calls": 1, "likely_usd": "1", "most_usd": "11"},
        # Other passages would make a call of it.
        "m2": {"calls": 0, "likely_usd": "0", "most_usd": "7"},
    }
    assert (view["reused"], view["not_recorded"]) == (2, 1)
    assert "recorded enrichments" in view["likely_usd_by"]
    assert "as many passages as may be retrieved" in view["most_usd_by"]
    assert view["embeddings"] == {"enrich": {"texts": 2, "likely_usd": "1.0", "most_usd": "4"}}
    alone = survey_view(Planned(run_of("complete", "account"), ()), Surveyed())
    assert "recorded" not in alone["likely_usd_by"]
