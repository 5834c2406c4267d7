"""What is told of a replay: each time it is led has a beginning and an end, and nothing of anybody's is in it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from schemas.codec import Codec
from schemas.errors import DependencyDownError
from streams.lineage.happening import FakeLineage, Happening, NoLineage
from streams.lineage.openlineage import Events
from streams.lineage.replays import NOT_TOLD, ReplayLineage, lineage_id, once_more
from streams.lineage.topics import Topics, kafka_namespace
from streams.replay.run import Place, Progress, Run, RunConfig
from streams.replay.runs import FakeRuns
from tests.support.catalogue import checked
from tests.support.settings import bare_settings

SETTINGS = bare_settings(kafka={"bootstrap": "SASL_SSL://k1:9093,k2:9093"})
TOPICS = Topics(SETTINGS, Codec.offline())
SINCE = datetime(2026, 5, 1, 10, tzinfo=UTC)
CANARY = "jo@example.com"


def run_of(**changes: Any) -> Run:
    config = RunConfig(
        since=SINCE,
        sets={"prompt": "support@7", "temperature": "0.2", "policy.rate": "1", "request.user": CANARY},
        where=f'user = "{CANARY}" and score.groundedness < 0.5',
        ids=(f"id-{CANARY}",),
        max_cost_usd=Decimal("2.50"),
    )
    values: dict[str, Any] = {
        "run": "7f3a", "name": "n", "lane": "replay-7f3a", "source_lane": "live", "target": "shadow",
        "stages": ("complete", "filter", "account"), "config": config, "code_version": "0.1.0",
    }  # fmt: skip
    return Run(**{**values, **changes})


def places(next_: int = 40) -> list[Place]:
    written = {"replay-7f3a.completions": {0: 20, 1: 5}, "live.answers": {0: 999}}
    first = Place(
        step=0, topic="live.enrichments.normal", partition=0, first=10, end=40, next=next_,
        counts={"published": 25, "not_selected": 5}, cost_usd=Decimal("0.125"), written=written,
    )  # fmt: skip
    other = Place(step=0, topic="live.enrichments.normal", partition=3, first=7, end=8, next=8, counts={"published": 1})
    return [first, other]


def facts(told: Happening) -> Mapping[str, Any]:
    return told.facts


async def scene(run: Run | None = None) -> tuple[ReplayLineage, FakeLineage, FakeRuns, Run]:
    runs, lineage, made = FakeRuns(), FakeLineage(), run or run_of()
    await runs.create(made, places())
    return ReplayLineage(SETTINGS, runs, Codec.offline(), lineage), lineage, runs, made


def body(told: Happening, parent: tuple[str, str, str] | None = None) -> dict[str, Any]:
    from openlineage.client.serde import Serde  # noqa: PLC0415

    return checked(json.loads(Serde.to_json(Events("team", parent).event(told))))


async def test_an_event_says_what_is_read_and_written_what_was_asked_for_and_what_it_cost() -> None:
    telling, lineage, _, run = await scene()
    await telling.begun(run, 1)
    await telling.ended(run, 1, "done", "")
    begun, ended = (
        body(one, ("http://air/flow", "dag.task", "0190b7b2-0000-7000-8000-000000000000")) for one in lineage.told
    )
    assert (begun["eventType"], ended["eventType"]) == ("START", "COMPLETE")
    assert begun["job"]["name"] == "live.replay.complete-filter-account"
    assert begun["job"]["facets"]["jobType"]["processingType"] == "BATCH"
    [source] = ended["inputs"]
    assert (source["namespace"], source["name"]) == ("kafka://k1:9093", "live.enrichments.normal")
    ranges = source["inputFacets"]["subset"]["inputCondition"]["partitions"]
    assert [one["dimensions"] for one in ranges] == [
        {"partition": 0, "first_offset": 10, "end_offset": 40},
        {"partition": 3, "first_offset": 7, "end_offset": 8},
    ]
    assert source["inputFacets"]["inputStatistics"]["rowCount"] == 31
    assert source["facets"]["headrace_schema"]["record"] == "headrace.Enrichment"
    assert isinstance(source["facets"]["headrace_schema"]["schema_id"], int)
    columns = [field["name"] for field in begun["inputs"][0]["facets"]["schema"]["fields"]]
    assert columns[0] == "meta" and "grounding" in columns
    written = {one["name"]: one["outputFacets"].get("outputStatistics", {}).get("rowCount") for one in ended["outputs"]}
    assert written["replay-7f3a.completions"] == 25
    assert "live.answers" not in written
    own = ended["run"]["facets"]["headrace_replay"]
    assert (own["cost_usd"], own["offsets"], own["counts"]["complete"]["published"]) == ("0.125", 31, 26)
    assert own["selected_by"] == ["score", "user"]
    asked = {one["key"]: one["value"] for one in ended["run"]["facets"]["executionParameters"]["parameters"]}
    assert asked == {
        "--set prompt": "support@7",
        "--set temperature": "0.2",
        "--set policy.rate": "1",
        "--set request.user": NOT_TOLD,
        "--max-cost": "2.50",
    }
    assert ended["run"]["facets"]["parent"]["job"] == {"namespace": "http://air/flow", "name": "dag.task", "facets": {}}
    assert ended["run"]["facets"]["nominalTime"]["nominalStartTime"] == "2026-05-01T10:00:00.000Z"
    assert CANARY not in json.dumps([begun, ended])


async def test_what_was_read_of_a_run_that_was_stopped_ends_where_it_stopped() -> None:
    runs, lineage = FakeRuns(), FakeLineage()
    run = run_of()
    await runs.create(run, places(next_=12))
    await ReplayLineage(SETTINGS, runs, Codec.offline(), lineage).ended(run, 1, "stopped", "--max-cost is reached")
    [told] = lineage.told
    assert (told.phase, told.error) == ("ABORT", "--max-cost is reached")
    assert told.inputs[0].stretches[0] == (10, 12)
    assert body(told)["run"]["facets"]["errorMessage"]["message"] == "--max-cost is reached"


async def test_a_run_that_is_led_again_has_an_id_of_its_own_and_names_the_first() -> None:
    telling, lineage, _, run = await scene()
    await telling.begun(replace(run, state="stopped", epoch=1), 2)
    [told] = lineage.told
    assert told.run_id == lineage_id("7f3a", 2) != lineage_id("7f3a", 1)
    assert told.facts["first_run_id"] == str(lineage_id("7f3a", 1))


async def test_one_whose_process_died_is_ended_by_whoever_takes_it_up() -> None:
    telling, lineage, _, run = await scene()
    await telling.begun(replace(run, state="running", epoch=1), 2)
    assert [(told.phase, told.run_id) for told in lineage.told] == [
        ("ABORT", lineage_id("7f3a", 1)),
        ("START", lineage_id("7f3a", 2)),
    ]


async def test_a_backfill_names_the_answers_that_it_revises() -> None:
    told = once_more(run_of(target="live", state="failed", epoch=1), Progress(tuple(places())), TOPICS, "")
    assert [one.phase for one in told] == ["START", "FAIL"]
    answers = [one for one in told[1].outputs if one.name == "live.answers"]
    assert [one.records for one in answers] == [None]


async def test_what_can_not_be_told_is_counted_and_fails_nothing() -> None:
    class Away(FakeRuns):
        async def progress(self, run: str) -> Progress:
            raise DependencyDownError("postgres", "away")

    lineage = FakeLineage()
    telling = ReplayLineage(SETTINGS, Away(), Codec.offline(), lineage)
    await telling.begun(run_of(), 1)
    assert lineage.told == [] and "postgres" in lineage.missed[0]


async def test_nothing_is_gathered_where_nothing_is_told() -> None:
    class Asked(FakeRuns):
        async def progress(self, run: str) -> Progress:
            raise AssertionError("nobody needs it")

    telling = ReplayLineage(SETTINGS, Asked(), Codec.offline(), NoLineage())
    await telling.begun(run_of(), 1)
    await telling.follow(run_of(), 1)


@pytest.mark.parametrize(
    ("bootstrap", "name"), [("a:9092,b:9092", "kafka://a:9092"), ("SASL_SSL://a:9093", "kafka://a:9093")]
)
def test_a_cluster_is_named_by_its_first_broker(bootstrap: str, name: str) -> None:
    assert kafka_namespace(bootstrap) == name


@pytest.mark.parametrize(
    "reason",
    [
        "the index version of the request {} is not known, because no enrichment of it is recorded: take today's",
        "the index version v1 of the request {}, as of 2026-05-01T10:00:00Z, is gone: what was replaced is kept since",
    ],
)
async def test_a_reason_that_names_a_request_is_told_without_its_id(reason: str) -> None:
    telling, lineage, _, run = await scene()
    await telling.ended(run, 1, "failed", reason.format(f"order of {CANARY}, as ever"))
    [failed] = lineage.told
    assert failed.error == reason.format(NOT_TOLD)
    assert CANARY not in json.dumps(body(failed))


async def test_a_text_that_looks_like_a_number_is_not_told() -> None:
    made = run_of()
    sets = {**made.config.sets, "request.user": "4155550123", "max_tokens": "64"}
    telling, lineage, _, run = await scene(replace(made, config=replace(made.config, sets=sets)))
    await telling.begun(run, 1)
    [begun] = lineage.told
    assert (begun.parameters["--set request.user"], begun.parameters["--set max_tokens"]) == (NOT_TOLD, "64")
