"""``tail`` on the real broker: whatever lies in a topic is shown."""

from __future__ import annotations

import base64
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from confluent_kafka import Producer

from schemas.errors import WrongRecordError
from schemas.records import Control, Meta, Request
from streams.publish import Publisher
from streams.requests import parse_request
from streams.topics import topic_name
from tests.support.commands import Commands
from tests.support.stack import TestStack


@pytest.fixture
def commands(stack: TestStack, lane: str, tmp_path: Path) -> Commands:
    return Commands(stack, lane, tmp_path, ("requests", "dead-letters"))


def request(commands: Commands, request_id: str, text: str = "why?", tenant: str = "default") -> Request:
    line = f'{{"query": "{text}", "request_id": "{request_id}"}}'
    return parse_request(line, tenant=tenant, lane=commands.lane)


def publish(commands: Commands, *requests: Request) -> None:
    publisher = Publisher(commands.settings, commands.codec, lane=commands.lane)
    for one in requests:
        publisher.publish("requests", one, one.meta.request_id)
    assert publisher.flush() == []


def raw(
    commands: Commands, kind: str, value: bytes | None, headers: list[tuple[str, bytes | None]] | None = None
) -> None:
    producer = Producer({"bootstrap.servers": commands.settings.kafka.bootstrap, "partitioner": "murmur2_random"})
    producer.produce(topic_name("", commands.lane, kind), key=b"r-1", value=value, headers=headers or [])
    assert producer.flush(60) == 0


def tail(commands: Commands, kind: str, *more: str) -> list[dict[str, object]]:
    ran = commands.run("tail", kind, "--lane", commands.lane, "--json", "--no-follow", *more)
    assert ran.code == 0, ran.err
    return list(ran.objects)


def test_events_are_shown_whole_with_their_place(commands: Commands) -> None:
    publish(commands, request(commands, "r-1"))
    (event,) = tail(commands, "requests", "--from", "earliest")
    assert event["topic"] == f"{commands.lane}.requests"
    assert (event["offset"], event["key"], event["name"]) == (0, "r-1", "headrace.Request")
    assert event["record"]["query"] == "why?"  # type: ignore[index]
    assert event["headers"]["ce_subject"] == "r-1"  # type: ignore[index]


def test_from_limit_and_tenant_choose(commands: Commands) -> None:
    publish(commands, *(request(commands, f"r-{n}", tenant="acme" if n % 2 else "other") for n in range(10)))
    assert len(tail(commands, "requests", "--from", "earliest", "--limit", "3")) == 3
    mine = tail(commands, "requests", "--from", "10m", "--tenant", "acme")
    assert sorted(str(event["key"]) for event in mine) == ["r-1", "r-3", "r-5", "r-7", "r-9"]
    assert tail(commands, "requests", "--from", "latest") == []
    assert tail(commands, "requests", "--from", "2999-01-01T00:00Z") == []


def test_a_line_is_one_line_whatever_the_text(commands: Commands) -> None:
    publish(commands, request(commands, "r-1", text="a\\nb\\u001b[2J" + "x" * 500))
    ran = commands.run("tail", "requests", "--lane", commands.lane, "--from", "earliest", "--no-follow")
    assert len(ran.out.splitlines()) == 1
    assert "\x1b" not in ran.out
    assert "r-1 default a b" in ran.out
    assert len(ran.out) < 300


def test_what_can_not_be_decoded_is_shown_as_such(commands: Commands) -> None:
    for value in (b"hello", b"\x00\x00\x0f\xff\xff{}", b"\x00\x00\x00\x00\x01", None):
        raw(commands, "requests", value)
    publish(commands, request(commands, "r-1"))
    events = tail(commands, "requests", "--from", "earliest")
    assert [event["record"] is None for event in events] == [True, True, True, True, False]
    assert all(event["undecodable"] for event in events[:4])
    assert events[0]["value"] == base64.b64encode(b"hello").decode()
    ran = commands.run("tail", "requests", "--lane", commands.lane, "--from", "earliest", "--no-follow")
    assert ran.out.count("undecodable:") == 4


def test_a_dead_letter_shows_its_reason_and_what_it_was(commands: Commands) -> None:
    reason = {
        "__connect.errors.topic": b"live.requests",
        "__connect.errors.partition": b"2",
        "__connect.errors.offset": b"17",
        "__connect.errors.stage": b"admit",
        "__connect.errors.exception.class.name": WrongRecordError.__name__.encode(),
        "__connect.errors.exception.message": b"expected headrace.Request",
        "headrace.error.class": b"poison",
        "headrace.error.attempts": b"1",
        "headrace.error.first_failure": b"2026-01-01T00:00:00+00:00",
    }
    control = Control(
        meta=Meta(event_id="e", request_id="", tenant="acme", lane=commands.lane), kind="prompt", name="answer"
    )
    headers = [("mine", b"\xff"), ("mine", None), *reason.items()]
    raw(commands, "dead-letters", commands.codec.encode(control), headers)
    raw(commands, "dead-letters", b"junk", list(reason.items()))
    first, second = tail(commands, "dead-letters", "--from", "earliest")
    letter = first["dead_letter"]
    assert isinstance(letter, dict)
    assert (letter["source_topic"], letter["source_partition"], letter["source_offset"]) == ("live.requests", 2, 17)
    assert (letter["failed_stage"], letter["error_class"], letter["attempts"]) == ("admit", "poison", 1)
    assert letter["meta"]["tenant"] == "acme"
    assert [header["key"] for header in letter["headers"]] == ["mine", "mine"]
    assert letter["value"] == base64.b64encode(commands.codec.encode(control)).decode()
    assert first["name"] == "headrace.Control"
    assert second["name"] is None
    assert second["dead_letter"]["value"] == base64.b64encode(b"junk").decode()  # type: ignore[index]
    ran = commands.run("tail", "dead-letters", "--lane", commands.lane, "--from", "earliest", "--no-follow")
    assert "headrace.Control from live.requests/2@17: poison in admit: WrongRecordError" in ran.out
    assert base64.b64encode(b"junk").decode() not in ran.out


def test_an_unknown_kind_and_a_wrong_time_are_bad_usage(commands: Commands) -> None:
    ran = commands.run("tail", "question")
    assert ran.code == 2
    assert "requests" in ran.err
    assert commands.run("tail", "requests", "--from", "soon").code == 2
    assert commands.run("tail", "answers", "--lane", commands.lane).code == 2


def test_following_prints_what_comes_and_control_c_ends_it_quietly(commands: Commands) -> None:
    publish(commands, request(commands, "r-1"))
    with following(commands) as process:
        assert process.stdout is not None
        assert b" r-1 " in process.stdout.readline()
        publish(commands, request(commands, "r-2"))
        assert b" r-2 " in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(120) == 0
        assert process.stderr is not None
        assert process.stderr.read() == b""


def test_a_reader_that_has_enough_ends_it_quietly(commands: Commands) -> None:
    publish(commands, request(commands, "r-1"))
    with following(commands) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        publish(commands, request(commands, "r-2"))
        assert process.wait(120) == 0
        assert process.stderr is not None
        assert process.stderr.read() == b""


@contextmanager
def following(commands: Commands) -> Iterator[subprocess.Popen[bytes]]:
    """``tail`` as a process. Control-C reaches it even where the tests run in the background, which ignores it."""
    argv = [sys.executable, "-m", "streams", "tail", "requests", "--lane", commands.lane, "--from", "earliest"]
    environment = {**os.environ, **commands.environment}
    with subprocess.Popen(
        argv,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 (nothing else runs there)
    ) as process:
        try:
            yield process
        finally:
            process.kill()
