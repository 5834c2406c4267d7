"""``headrace audit verify`` on the real broker and Postgres: a lane in order, and faults planted in it."""

from __future__ import annotations

from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest

from schemas.record import Record
from schemas.records import Answer, Evaluation, Text
from streams.publish import Publisher
from tests.support.audited import evaluated
from tests.support.commands import Commands
from tests.support.recorded import answered
from tests.support.stack import TestStack

pytestmark = pytest.mark.stack
KINDS = (
    "requests",
    "admitted",
    "enrichments.normal",
    "completions",
    "answers",
    "evaluations",
    "costs",
    "dead-letters",
    "control",
)
_FINAL = """
    INSERT INTO finals (tenant, lane, request_id, revision, event_id, status, answer)
    VALUES (%(tenant)s, %(lane)s, %(request_id)s, 0, %(event_id)s, 'answered', %(value)s)
"""
SOON = ("--grace-s", "0", "--since", "1h")


@pytest.fixture
def commands(stack: TestStack, lane: str, tmp_path: Path) -> Commands:
    return Commands(stack, lane, tmp_path, KINDS)


def publish(commands: Commands, *flows: dict[str, Record]) -> None:
    publisher = Publisher(commands.settings, commands.codec, lane=commands.lane)
    with psycopg.connect(commands.settings.postgres.dsn.get_secret_value(), autocommit=True) as connection:
        for flow in flows:
            given = flow.get("answers")
            if isinstance(given, Answer):
                connection.execute(_FINAL, {**asdict(given.meta), "value": commands.codec.encode(given)})
    for flow in flows:
        for kind, record in flow.items():
            publisher.publish(kind, record, record.meta.request_id)  # type: ignore[attr-defined]
    assert publisher.flush() == []


def verify(commands: Commands, *more: str, code: int = 0) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    ran = commands.run("audit", "verify", "--lane", commands.lane, *SOON, "--json", *more)
    assert ran.code == code, ran.err + ran.out
    *findings, summary = ran.objects
    return findings, summary


def flow(commands: Commands, name: str) -> dict[str, Record]:
    flow = answered(commands.lane, name, datetime.now(UTC), ttl_ms=1)
    given = flow["answers"]
    assert isinstance(given, Answer)
    return flow | {"evaluations": evaluated(given)}


def test_a_lane_is_verified_and_each_planted_fault_is_listed(commands: Commands) -> None:
    publish(commands, *(flow(commands, f"r-{number}") for number in range(3)))
    found, summary = verify(commands, "--no-costs")
    assert (found, summary["fits"], summary["requests"], summary["filtered_again"]) == ([], True, 3, 3)
    assert (summary["scores"], summary["scored_again"]) == (6, 6)
    # None of what was spent is in the ledger.
    found, summary = verify(commands, code=1)
    assert summary["findings"] == {"costs": 3} and "event_not_booked" in found[0]["detail"]
    names = ("lost", "changed", "caused", "kept", "scored")
    lost, changed, caused, kept, scored = (flow(commands, name) for name in names)
    forged = kept["answers"]
    assert isinstance(forged, Answer)
    del lost["answers"], lost["evaluations"], changed["evaluations"], caused["admitted"]
    judged = scored["evaluations"]
    assert isinstance(judged, Evaluation)
    scored["evaluations"] = replace(judged, scores=tuple(replace(one, value=0.1) for one in judged.scores))
    given = changed["answers"]
    assert isinstance(given, Answer)
    changed["answers"] = replace(given, text=Text(inline="forged"))
    publish(commands, lost, changed, caused, kept, scored)
    # An answer that nobody decided, and one that is final and on no topic.
    publisher = Publisher(commands.settings, commands.codec, lane=commands.lane)
    publisher.publish("answers", replace(forged, revision=1, supersedes=forged.meta.event_id), "kept")
    assert publisher.flush() == []
    with psycopg.connect(commands.settings.postgres.dsn.get_secret_value(), autocommit=True) as connection:
        unpublished = {**asdict(forged.meta), "request_id": "unpublished", "value": commands.codec.encode(forged)}
        connection.execute(_FINAL, unpublished)
    found, summary = verify(commands, "--no-costs", code=1)
    assert {(one["kind"], one["request_id"]) for one in found} == {
        ("no_answer", "lost"),
        ("filter_differs", "changed"),
        ("cause_missing", "caused"),
        ("copies_differ", "kept"),
        ("answer_not_final", "kept"),
        ("final_unpublished", "unpublished"),
        ("scores_differ", "scored"),
    }
    ran = commands.run("audit", "verify", "--lane", commands.lane, *SOON, "--no-costs")
    assert ran.code == 1 and "no_answer (1): a request has no final answer" in ran.out
    # Two scores of one evaluation.
    assert "8 things are off" in ran.out


def test_a_stretch_without_time_and_a_lane_without_topics_are_refused(commands: Commands) -> None:
    ran = commands.run("audit", "verify", "--since", "1h", "--until", "2h", "--lane", commands.lane)
    assert ran.code == 2 and "nothing can lie between" in ran.err
    assert commands.run("audit", "verify", "--lane", "nowhere").code == 2
