"""``headrace audit seal`` and what it proves, on the real broker and Postgres."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from schemas.records import Answer, Text
from streams.publish import Publisher
from streams.topics import topic_name
from tests.support.commands import Commands
from tests.support.polling import eventually
from tests.support.recorded import answered
from tests.support.stack import TestStack

pytestmark = pytest.mark.stack
KINDS = ("requests", "answers", "control")


@pytest.fixture
def commands(stack: TestStack, lane: str, tmp_path: Path) -> Commands:
    return Commands(stack, lane, tmp_path, KINDS)


def publish(commands: Commands, count: int, *, request_id: str = "r-1", user: str = "") -> None:
    """So many answers of one request, so that they share a partition."""
    given = answered(commands.lane, request_id, datetime.now(UTC))["answers"]
    assert isinstance(given, Answer)
    publisher = Publisher(commands.settings, commands.codec, lane=commands.lane)
    for number in range(count):
        publisher.publish("answers", replace(given, user=user, text=Text(inline=f"answer {number}")), request_id)
    assert publisher.flush() == []


def seal(commands: Commands, *more: str) -> dict[str, Any]:
    ran = commands.run("audit", "seal", "--lane", commands.lane, "--json", *more)
    assert ran.code == 0, ran.err
    return ran.objects[0]


def sealed_kinds(commands: Commands, *more: str) -> tuple[set[str], dict[str, Any]]:
    """What verifying says of seals, and the counts; the lane's other faults are not looked at."""
    ran = commands.run("audit", "verify", "--lane", commands.lane, "--no-costs", "--json", *more)
    *findings, summary = ran.objects
    about = ("record_", "seal_", "gone_", "log_")
    return {one["kind"] for one in findings if one["kind"].startswith(about)}, summary["seals"]


def change(commands: Commands, statement: str) -> None:
    with psycopg.connect(commands.settings.postgres.dsn.get_secret_value(), autocommit=True) as connection:
        connection.execute(statement, {"topic": topic_name("", commands.lane, "answers")})  # type: ignore[arg-type]


def truncate(commands: Commands, partition: int, before: int) -> None:
    admin = AdminClient({"bootstrap.servers": commands.settings.kafka.bootstrap})
    place = TopicPartition(topic_name("", commands.lane, "answers"), partition, before)
    for future in admin.delete_records([place]).values():
        future.result(20)


def last(commands: Commands) -> dict[str, Any]:
    (one,) = commands.run("audit", "seals", "list", "--lane", commands.lane, "--json").objects
    return one


def test_what_is_removed_altered_or_sealed_otherwise_is_found(commands: Commands, tmp_path: Path) -> None:
    publish(commands, 10)
    assert seal(commands, "--every-records", "4") == {"lane": commands.lane, "records": 10, "seals": 3}
    assert seal(commands)["seals"] == 0
    publish(commands, 2)
    assert seal(commands)["seals"] == 1
    kinds, counts = sealed_kinds(commands)
    assert kinds == set() and counts.pop("sealed_at") is not None
    nothing = {"erased": 0, "expired": 0, "gone_before": 0, "unsealed": 0}
    assert counts == {"seals": 4, "records": 12, "partitions": 1, **nothing}
    export = tmp_path / "seals.jsonl"
    assert commands.run("audit", "seals", "export", "--lane", commands.lane, "--to", str(export)).code == 0
    assert len(export.read_text().splitlines()) >= 4
    since = {}
    for time in ("2h", "2999-01-01"):
        file = tmp_path / f"{time}.jsonl"
        told = ("audit", "seals", "export", "--lane", commands.lane, "--to", str(file), "--since", time)
        assert "seals and tombstones" in commands.run(*told).err
        since[time] = file.read_text().count(f'"{commands.lane}.')
    assert since == {"2h": export.read_text().count(f'"{commands.lane}.'), "2999-01-01": 0}
    assert sealed_kinds(commands, "--exported", str(export))[0] == set()

    # One record is proved, without broker or database, by the seal that was exported.
    one = last(commands)
    topic, partition = one["topic"], one["partition"]
    ran = commands.run("audit", "seals", "prove", f"{topic}-{partition}@11")
    assert ran.code == 0, ran.err
    proof = tmp_path / "proof.json"
    proof.write_text(ran.out)
    assert commands.run("audit", "seals", "check", str(proof), "--seal", one["seal"]).code == 0
    assert commands.run("audit", "seals", "check", str(proof), "--seal", "00").code == 1
    proof.write_text(ran.out.replace('"offset":11', '"offset":10'))
    assert commands.run("audit", "seals", "check", str(proof)).code == 2

    # Two records go, one of them with a tombstone; then both have one.
    places = [f"{topic}-{partition}@{offset}" for offset in (0, 1)]
    assert commands.run("audit", "tombstone", places[0], "--reason", "asked for").code == 0
    ran = commands.run("audit", "tombstone", places[1], "--reason", " ")
    assert ran.code == 2 and "say why" in ran.err
    with_second = commands.run("audit", "tombstone", places[1], "--reason", "asked for", "--json")
    assert with_second.objects[0]["offset"] == 1
    told = commands.run("audit", "r-1", "--lane", commands.lane, "--json").objects[0]["erasures"]
    assert [(one["offset"], one["reason"]) for one in told] == [(0, "asked for"), (1, "asked for")]
    truncate(commands, partition, 3)
    kinds, counts = sealed_kinds(commands)
    assert (kinds, counts["erased"]) == ({"record_missing"}, 2)
    ran = commands.run("audit", "tombstone", places[0], "--reason", "again")
    assert ran.code == 2 and "is not on the broker" in ran.err

    # Whoever alters the table breaks the chain; whoever makes it anew differs from the export.
    change(commands, "UPDATE seals SET leaves = NULL, offsets = NULL WHERE topic = %(topic)s AND number = 1")
    assert "seal_broken" in sealed_kinds(commands)[0]
    change(commands, "UPDATE seals SET records = 5 WHERE topic = %(topic)s AND number = 1")
    assert "seal_broken" in sealed_kinds(commands)[0]
    change(commands, "DELETE FROM seals WHERE topic = %(topic)s")
    assert "seal_differs" in sealed_kinds(commands, "--exported", str(export))[0]


def test_a_sealer_follows_waits_for_another_and_ends_on_sigterm(commands: Commands, tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "streams", "audit", "seal", "--follow", "--every-s", "0.2", "--lane", commands.lane]
    said = (tmp_path / "said").open("w+")
    process = subprocess.Popen(argv, env={**os.environ, **commands.environment}, stderr=said)
    try:
        publish(commands, 3)

        def sealed() -> bool:
            ran = commands.run("audit", "seals", "list", "--lane", commands.lane, "--json")
            return bool(ran.objects) and ran.objects[0]["to_offset"] == 2

        eventually(sealed, "the records are sealed")
        ran = commands.run("audit", "seal", "--lane", commands.lane)
        assert ran.code == 1 and "another sealer is at work" in ran.err
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0, (tmp_path / "said").read_text()
    finally:
        process.kill()
        process.wait()
        said.close()
    assert seal(commands)["records"] == 0


def test_a_lane_that_was_never_sealed_says_so(commands: Commands) -> None:
    publish(commands, 1)
    ran = commands.run("audit", "verify", "--lane", commands.lane, "--no-costs")
    assert "nothing of this lane is sealed" in ran.out
    assert commands.run("audit", "seal", "--lane", "nowhere").code == 2
    ran = commands.run("audit", "seals", "prove", f"{commands.lane}.answers-9@0")
    assert ran.code == 2 and "no partition 9" in ran.err
    assert commands.run("audit", "seals", "prove", "what").code == 2
