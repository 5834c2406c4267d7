"""What a report says of pairs, what the page shows of it, and what a gate makes of it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import pytest

from processors.embeddings import HashingEmbedder
from schemas.errors import ConfigurationError, DependencyDownError
from schemas.records import Answer, Citation, Timing, Verdict
from streams.cli.replay_diff_text import checks_text, report_text
from streams.replay.diff.gate import Bounds, check, passed
from streams.replay.diff.lanes import both
from streams.replay.diff.making import compare_all, heading
from streams.replay.diff.meaning import embedder, look_at_meaning
from streams.replay.diff.page import page, write_page
from streams.replay.diff.report import report
from streams.replay.diff.said import of_answer
from streams.replay.diff.store import Pairs, Side
from tests.support.browser import dump
from tests.support.comparing import answer, run_of
from tests.support.settings import NOWHERE, bare_settings

EVIL = "<script>document.title = 'owned'</script><img src=x onerror=alert(1)>"


@pytest.fixture
def pairs() -> Iterator[Pairs]:
    with Pairs() as made:
        yield made


def put(pairs: Pairs, base: Answer | None, run: Answer | None, **scores: tuple[float | None, float | None]) -> None:
    for side, said in ((Side.BASE, base), (Side.RUN, run)):
        if said is not None:
            pairs.put(side, of_answer(said))
            pairs.want(said.meta.tenant, said.meta.request_id)
            named = {name: both_[side] for name, both_ in scores.items()}
            pairs.put_scores(side, said.meta.tenant, said.meta.request_id, named)


def reported(pairs: Pairs, *, shown: int = 10, decide: tuple[str, ...] = (), **changes: Any) -> dict[str, Any]:
    compare_all(pairs, decide, 0.05)
    run = run_of(stages=("complete", "filter", "evaluate"), **changes)
    made = {**heading(run, None, both(run, None)), "notes": ["a note"], **report(pairs, shown=shown, seed=1)}
    # It has to be JSON.
    return orjson.loads(orjson.dumps(made))


def forty(pairs: Pairs) -> dict[str, Any]:
    """Forty pairs: one is blocked now, one was, four score less, ten cost double, ten say something else."""
    for number in range(40):
        name = f"r{number:02}"
        base, run = answer(name), answer(name, run="r1")
        before, now = 0.5, 0.5
        if number == 0:
            run = answer(name, None, run="r1", verdicts=(Verdict(guard="pii", outcome="blocked", category="card"),))
        if number == 1:
            base = answer(name, None)
        if 2 <= number < 6:
            now = 0.5 - number / 10
        if 10 <= number < 20:
            run = replace(run, cost_usd=Decimal("0.002"), timings=(Timing(stage="complete", service_ms=200.0),))
        if 20 <= number < 30:
            cited = (Citation(passage_id="p2", document_id="d1"),)
            run = answer(name, "It is not so.", run="r1", citations=cited, prompt_version="support@2")
        put(pairs, base, run, groundedness=(before, now), length=(1.0, None if number == 9 else 1.0))
    put(pairs, answer("lost"), None)
    put(pairs, None, answer("new", run="r1"))
    pairs.want("acme", "nobody")
    return reported(pairs)


def test_every_kind_of_change_is_counted_once(pairs: Pairs) -> None:
    found = forty(pairs)
    assert found["pairs"] == 40
    assert (found["status"]["worse"], found["status"]["better"], found["status"]["p"]) == (1, 1, 1.0)
    assert (found["regressions"]["count"], found["improvements"]["count"]) == (5, 1)
    assert [one["request_id"] for one in found["regressions"]["shown"]] == ["r00", "r05", "r04", "r03", "r02"]
    assert found["improvements"]["shown"][0]["base"]["text"] is None
    assert (found["text"]["same"], found["text"]["changed"]) == (28, 12)
    # "It is so." and "It is not so.": 18 of 22 characters stay.
    assert found["text"]["edit"] | {"histogram": None} == pytest.approx(
        {"pairs": 10, "mean": 18 / 22, "p10": 18 / 22, "median": 18 / 22, "p90": 18 / 22, "histogram": None}
    )
    assert found["verdicts"]["changes"][0] == {"guard": "pii", "base": "pass", "run": "blocked card", "count": 1}
    assert (found["citations"]["changed"], found["citations"]["gone"], found["citations"]["new"]) == (10, 10, 10)
    assert {name: one["count"] for name, one in found["alone"].items()} == {"run_only": 1, "base_only": 1, "neither": 1}
    assert found["alone"]["base_only"]["requests"] == [{"tenant": "acme", "request_id": "lost"}]


def test_figures_have_their_means_intervals_and_tests(pairs: Pairs) -> None:
    found = forty(pairs)
    scores = {one["name"]: one for one in found["scores"]}
    grounded = scores["groundedness"]
    assert (grounded["pairs"], grounded["worse"], grounded["better"], grounded["unscored"]) == (40, 4, 0, 0)
    assert grounded["difference"] == pytest.approx(-1.4 / 40)
    assert grounded["interval"]["low"] < -1.4 / 40 < grounded["interval"]["high"] < 0
    # Four of one sign: two of the sixteen ways are as far.
    assert grounded["p"] == 2 / 16
    assert (scores["length"]["pairs"], scores["length"]["unscored"], scores["length"]["p"]) == (39, 1, 1.0)
    cost = found["cost"]
    assert (cost["base_usd"], cost["run_usd"], cost["increase"]) == ("0.04", "0.05", 0.25)
    assert cost["a_request"]["difference"] == pytest.approx(0.00025)
    assert (found["latency"]["base"], found["latency"]["run"]) == (100.0, 125.0)
    assert [one["run"] for one in found["latency"]["quantiles"]][-1] == 200.0


def test_groups_tell_where_it_changed(pairs: Pairs) -> None:
    groups = forty(pairs)["groups"]
    assert {one["name"]: one["pairs"] for one in groups["prompt"]} == {"support@1": 30, "support@1 → support@2": 10}
    [tenant] = groups["tenant"]
    assert (tenant["name"], tenant["regressions"], tenant["changed_texts"]) == ("acme", 5, 12)


def test_many_small_groups_are_summed_in_one(pairs: Pairs) -> None:
    for number in range(45):
        put(pairs, answer("a", tenant=f"t{number}"), answer("a", tenant=f"t{number}", run="r1"))
    rows = reported(pairs)["groups"]["tenant"]
    assert (len(rows), rows[-1]["name"], rows[-1]["pairs"]) == (31, None, 15)


def test_reused_calls_cost_what_they_would_and_say_nothing_of_latency(pairs: Pairs) -> None:
    reused = {"cost_usd": Decimal(0), "avoided_cost_usd": Decimal("0.001"), "served_by": "journal"}
    put(pairs, answer("a"), answer("a", run="r1", **reused))
    found = reported(pairs)
    assert (found["cost"]["increase"], found["cost"]["paid_run_usd"]) == (0.0, "0")
    assert found["latency"]["pairs"] == 0


def test_only_the_scores_that_are_named_decide(pairs: Pairs) -> None:
    put(pairs, answer("a"), answer("a", run="r1"), groundedness=(0.5, 0.9), length=(1.0, 0.1))
    assert reported(pairs, decide=("groundedness",))["improvements"]["count"] == 1


async def test_changed_texts_are_compared_in_meaning_up_to_a_number(pairs: Pairs) -> None:
    forty(pairs)
    by = HashingEmbedder()
    assert await look_at_meaning(pairs, by, most=4) is None
    assert len(by.embedded) == 8
    found = report(pairs, shown=1, seed=1)["text"]["cosine"]
    assert found["pairs"] == 4
    # Three of four words are shared.
    assert 0.6 < found["mean"] < 0.99


async def test_an_embedder_that_is_away_or_has_a_price_leaves_a_note(pairs: Pairs) -> None:
    forty(pairs)
    by = HashingEmbedder()
    by.failure = DependencyDownError("embeddings", "it could not be connected to")
    assert "only 0 of 10" in (await look_at_meaning(pairs, by, most=100) or "")
    assert "has a price" in (await look_at_meaning(pairs, None, most=100) or "")
    assert "--embed 0" in (await look_at_meaning(pairs, by, most=0) or "")


def test_bounds_that_hold_and_bounds_that_are_broken_say_their_figures(pairs: Pairs) -> None:
    found = forty(pairs)
    held = check(
        found,
        Bounds(
            min_score={"groundedness": 0.46, "": 0.4},
            max_score_drop={"groundedness": 0.04},
            max_cost_increase=0.25,
            max_latency_increase=0.3,
            max_regressions=6,
        ),
    )
    assert passed(held), checks_text(held)
    assert [one.name for one in held] == [
        "run", "score groundedness", "score length", "drop of groundedness", "cost increase", "latency increase",
        "regressions",
    ]  # fmt: skip
    broken = check(found, Bounds(min_score={"": 0.47}, max_cost_increase=0.249, max_regressions=5, min_pairs=10))
    assert [one.name for one in broken if not one.passed] == ["score groundedness", "cost increase", "regressions"]
    # Five regressions, and the request that the run has no output for.
    assert "6 of 41 (14.63%), 1 without an output" in checks_text(broken)
    sampled = {**found, "what": "evaluations"}
    assert "5 of 40" in checks_text(check(sampled, Bounds(max_regressions=5)))
    share = Bounds(max_regressions=0.15, regressions_share=True)
    assert passed(check(found, share))


def test_too_few_pairs_a_run_that_has_not_ended_and_no_scores_fail(pairs: Pairs) -> None:
    put(pairs, answer("a"), answer("a", run="r1"))
    found = reported(pairs, state="stopped")
    few = check(found, Bounds(max_cost_increase=1.0))
    assert [one.passed for one in few] == [False, False]
    assert "1 pairs tell it, 30 are needed" in checks_text(few)
    ended = {**found, "run": {**found["run"], "state": "done"}}
    assert passed(check(ended, Bounds(max_cost_increase=1.0, min_pairs=1)))
    assert not passed(check(ended, Bounds(min_score={"": 0.1}, min_pairs=1)))
    assert not passed(check(ended, Bounds(max_score_drop={"relevance": 1.0}, min_pairs=1)))


def test_a_cost_that_was_nothing_before_is_an_increase_beyond_any_bound(pairs: Pairs) -> None:
    put(pairs, answer("a", cost_usd=Decimal(0)), answer("a", run="r1"))
    found = check(reported(pairs), Bounds(max_cost_increase=100.0, min_pairs=1))
    assert [one.figure for one in found if not one.passed] == ["from nothing"]


def test_a_score_that_is_mistyped_is_named_with_the_nearest(pairs: Pairs) -> None:
    with pytest.raises(ConfigurationError, match="did you mean groundedness"):
        check(forty(pairs), Bounds(min_score={"groundednes": 0.5}))


def test_the_terminal_shows_both_texts_and_no_control_characters(pairs: Pairs) -> None:
    put(pairs, answer("a", "before \x1b[31m", feature="x\x1b"), answer("a", None, run="r1"))
    shown = report_text(reported(pairs))
    assert "regression acme/a: answered > blocked" in shown
    assert "- before" in shown and "+ blocked" in shown
    assert "\x1b" not in shown


def test_the_page_is_one_file_without_script_or_address_and_every_text_is_escaped(pairs: Pairs) -> None:
    put(pairs, answer("a", EVIL, feature=EVIL), answer("a", EVIL + "!", run="r1"), **{EVIL: (0.9, 0.1)})
    put(pairs, answer(EVIL), None)
    shown = page(reported(pairs))
    assert "<script" not in shown and "<img" not in shown
    assert "&lt;script&gt;" in shown
    # Nothing is loaded: no element or style names an address.
    assert not re.search(r"(src|href|action)\s*=|url\(|@import", re.sub(r"&[^;]+;", "", shown).replace(" src=x", ""))
    assert "default-src 'none'" in shown


def test_a_browser_shows_the_page_with_its_plots_and_runs_nothing_in_it(pairs: Pairs, tmp_path: Path) -> None:
    for number in range(3):
        put(
            pairs,
            answer(f"r{number}", EVIL),
            answer(f"r{number}", "Something else.", run="r1"),
            groundedness=(0.9, 0.1 * number),
        )
    file = tmp_path / "diff.html"
    write_page(reported(pairs), file)
    assert [one.name for one in tmp_path.iterdir()] == ["diff.html"]
    shown = dump(file, tmp_path)
    assert "<title>name-r1 against live</title>" in shown
    assert "<script" not in shown and "<img" not in shown
    assert shown.count("<svg") == 3 and shown.count("<rect") == 20
    assert "Something else." in shown


def test_an_empty_comparison_is_a_report_and_a_page_too(pairs: Pairs) -> None:
    put(pairs, answer("a"), None)
    found = reported(pairs)
    assert found["pairs"] == 0
    assert "0 pairs" in report_text(found)
    assert "<b>0</b> pairs" in page(found)


def test_the_texts_lie_in_a_file_without_a_name() -> None:
    def opened() -> list[str]:
        # How SQLite calls its temporary files.
        links = [os.fspath(link.readlink()) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
        return [link for link in links if "etilqs_" in link]

    with Pairs() as made:
        for number in range(4_000):
            # More than is kept in memory.
            put(made, answer(f"r{number}", f"{number} " * 4_000), None)
        there = opened()
        assert there, "they are on disk"
        assert all(name.endswith(" (deleted)") for name in there)
    assert opened() == []


async def test_embeddings_that_cost_something_are_not_asked() -> None:
    endpoint = {"base_url": NOWHERE, "model": "none"}
    async with embedder(bare_settings(embeddings={**endpoint, "price": "0.02"})) as priced:
        assert priced is None
    async with embedder(bare_settings()) as free:
        assert free is not None and free.model == "none"
