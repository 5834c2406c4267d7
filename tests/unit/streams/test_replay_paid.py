"""A run is not begun where nobody could tell or limit what it pays."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from schemas.errors import ConfigurationError
from streams.cli.replay_text import survey_view
from streams.replay.desk import Planned
from streams.replay.paid import check_embeddings, check_limit
from streams.replay.run import Run, RunConfig
from streams.replay.survey import Surveyed
from streams.settings import Settings
from tests.support.settings import NOWHERE, bare_settings

PAID = {"base_url": NOWHERE, "model": "e1", "price": 0.02}


def run_of(*stages: str, most: str | None = None) -> Run:
    config = RunConfig(max_cost_usd=None if most is None else Decimal(most))
    names: dict[str, Any] = dict.fromkeys(("run", "name", "lane"), "r1")
    return Run(**names, source_lane="live", target="shadow", stages=stages, config=config, code_version="1")


def priced(price: float) -> Settings:
    price_ = {"prompt": price, "completion": price}
    return bare_settings(deployments={"local": {"base_url": NOWHERE, "model": "none", "price": price_}})


@pytest.mark.parametrize("stages", [("enrich",), ("filter", "evaluate"), ("enrich", "complete", "account")])
def test_embeddings_that_have_a_price_are_not_bought_by_a_replay(stages: tuple[str, ...]) -> None:
    with pytest.raises(ConfigurationError, match="would buy embeddings of e1"):
        check_embeddings(bare_settings(embeddings=PAID), stages)
    check_embeddings(bare_settings(), stages)


def test_stages_that_need_no_embeddings_are_replayed_whatever_these_cost() -> None:
    check_embeddings(bare_settings(embeddings=PAID), ("complete", "filter", "account"))
    free = {"rate": 1.0, "groundedness": False, "relevance": False}
    check_embeddings(bare_settings(embeddings=PAID, evaluate=free), ("filter", "evaluate"))


def test_calls_that_a_dry_run_can_not_price_need_a_limit() -> None:
    with pytest.raises(ConfigurationError, match="--max-cost"):
        check_limit(run_of("enrich", "complete", "account"), priced(1.0))
    check_limit(run_of("enrich", "complete", "account", most="1"), priced(1.0))
    check_limit(run_of("enrich", "complete", "account"), priced(0.0))
    check_limit(run_of("complete", "account"), priced(1.0))
    check_limit(run_of("enrich"), priced(1.0))


def test_a_dry_run_says_how_many_calls_it_can_not_price() -> None:
    found = Surveyed(read=9, taken=7)
    view = survey_view(Planned(run_of("enrich", "complete", "account"), ()), found)
    assert (view["calls"], view["calls_not_priced"]) == ({}, 7)
    assert survey_view(Planned(run_of("complete", "account"), ()), found)["calls_not_priced"] == 0
