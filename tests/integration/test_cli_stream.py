"""``ask --stream`` and ``stream`` on the real broker; the test plays the pipeline."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from processors.release.chunks import ChunkWriter
from schemas.record import Record
from schemas.records import Answer, Chunk, Failure, Meta, Request, Text
from streams.publish import Publisher
from streams.reading import TopicReader
from streams.topics import topic_name
from tests.support.commands import Commands, Ran
from tests.support.polling import eventually
from tests.support.stack import TestStack

pytestmark = pytest.mark.stack

# A text among the records: what follows it is published once the command has printed it.
Reply = Callable[[Request], Sequence[Record | str]]


@pytest.fixture
def commands(stack: TestStack, lane: str, tmp_path: Path) -> Commands:
    return Commands(stack, lane, tmp_path, ("requests", "answers", "chunks"))


def writer(request: Request) -> ChunkWriter:
    return ChunkWriter(meta=request.meta)


def answer(request: Request, text: str | None, **fields: object) -> Answer:
    known = {"status": "answered", "text": None if text is None else Text(inline=text)}
    return Answer(meta=replace(request.meta, event_id="answer"), **{**known, **fields})  # type: ignore[arg-type]


def asking(commands: Commands, reply: Reply, *options: str) -> Ran:
    """Ask, and publish what the reply makes of the request when it comes."""
    topic, end = topic_name("", commands.lane, "requests"), threading.Event()

    def play() -> None:
        with TopicReader(commands.settings) as reader:
            stretches = reader.ends(reader.places([topic]))
            reader.start({place: stretch.end for place, stretch in stretches.items()})
            ready.set()
            while not end.is_set():
                for entry in reader.poll():
                    request = commands.codec.decode(entry.value or b"", Request)
                    publish(commands, *reply(request))

    ready = threading.Event()
    player = threading.Thread(target=play)
    player.start()
    assert ready.wait(120)
    try:
        return commands.run("ask", "What?", "--stream", "--lane", commands.lane, "--timeout", "150", *options)
    finally:
        end.set()
        player.join()


def publish(commands: Commands, *records: Record | str) -> None:
    publisher = Publisher(commands.settings, commands.codec, lane=commands.lane)
    for record in records:
        if isinstance(record, str):
            assert not publisher.flush()
            # The command runs in this process, and what it prints is kept in place of stdout.
            eventually(lambda text=record: text in sys.stdout.getvalue(), f"{record!r} printed")  # type: ignore[attr-defined]
            continue
        kind = "chunks" if isinstance(record, Chunk) else "answers"
        publisher.publish(kind, record, record.meta.request_id)  # type: ignore[attr-defined]
    assert not publisher.flush()


def well(request: Request) -> list[Record | str]:
    chunks = writer(request)
    first, second = chunks.text(0, 0, 0, "A stream is "), chunks.text(0, 1, 12, "text on its way.\n")
    end = chunks.end(0, 2, 29, "stop")
    return [first, first, second, end, "its way", answer(request, "A stream is text on its way.\n")]


def test_a_stream_is_printed_as_it_comes_and_the_answer_not_again(commands: Commands) -> None:
    ran = asking(commands, well)
    assert (ran.code, ran.out) == (0, "A stream is text on its way.\n"), ran.err
    printed = asking(commands, well, "--json")
    *chunks, last = printed.objects
    assert [(one["kind"], one["text"]) for one in chunks[:2]] == [
        ("text", "A stream is "),
        ("text", "text on its way.\n"),
    ]
    assert (chunks[2]["kind"], chunks[2]["finish_reason"], len(chunks)) == ("end", "stop", 3)
    assert last["status"] == "answered"


def test_a_restart_a_failure_and_another_answer_are_said_plainly(commands: Commands) -> None:
    def restarted(request: Request) -> list[Record | str]:
        chunks = writer(request)
        texts = [chunks.text(0, 0, 0, "A strea"), chunks.restart(1), chunks.text(1, 0, 0, "Water.")]
        return [*texts, chunks.end(1, 1, 6, "stop"), "Water.", answer(request, "Water.")]

    ran = asking(commands, restarted)
    assert (ran.code, ran.out) == (0, "A strea\nWater.\n") and "begins again" in ran.err

    def failed(request: Request) -> list[Record | str]:
        chunks = writer(request)
        begun = chunks.text(0, 0, 0, "A strea")
        return [begun, chunks.failed(0, "stream_stalled"), "A strea", answer(request, "A stream is text.")]

    ran = asking(commands, failed)
    assert (ran.code, ran.out) == (0, "A strea\nA stream is text.\n")
    assert "stream_stalled" in ran.err and "not what was streamed" in ran.err

    def refused(request: Request) -> list[Record | str]:
        chunks = writer(request)
        failure = Failure(code="output_truncated", error_class="policy", message="too long")
        end = [chunks.text(0, 0, 0, "A strea"), chunks.end(0, 1, 7, "length")]
        return [*end, "A strea", answer(request, None, status="failed", failure=failure)]

    ran = asking(commands, refused)
    assert ran.code == 1 and "it is void" in ran.err and "output_truncated" in ran.err

    def rejected(request: Request) -> list[Record | str]:
        failure = Failure(code="invalid_request", error_class="policy", message="no")
        return [answer(request, None, status="rejected", failure=failure)]

    ran = asking(commands, rejected)
    assert (ran.code, ran.out) == (1, "") and "invalid_request" in ran.err


def test_who_comes_late_has_the_whole_stream_from_the_topic(commands: Commands) -> None:
    meta = Meta(event_id="e", request_id="r1", tenant="acme", lane=commands.lane)
    chunks = ChunkWriter(meta=meta)
    late = chunks.text(0, 1, 12, "text on its way.")
    told = answer(Request(meta=meta), "A stream is text on its way.")
    publish(commands, late, chunks.end(0, 2, 28, "stop"), chunks.text(0, 0, 0, "A stream is "), late, told)
    ran = commands.run("stream", "r1", "--lane", commands.lane)
    assert (ran.code, ran.out) == (0, "A stream is text on its way.\n"), ran.err
    assert [one.get("kind") for one in commands.run("stream", "r1", "--lane", commands.lane, "--json").objects] == [
        "text",
        "end",
        "text",
        None,
    ]
    assert commands.run("stream", "r1", "--lane", commands.lane, "--tenant", "other", "--timeout", "1").code == 1
    lines = commands.run("tail", "chunks", "--from", "earliest", "--no-follow", "--lane", commands.lane).out
    assert "end after 2 chunks: stop" in lines and "1: text on its way." in lines


def test_a_stream_ends_at_once_for_a_request_that_is_over(commands: Commands) -> None:
    def asked(name: str) -> Request:
        return Request(meta=Meta(event_id="e", request_id=name, tenant="acme", lane=commands.lane))

    long_ago = datetime.now(UTC) - timedelta(minutes=1)
    cancelled = Failure(code="cancelled", error_class="policy", message="the request was cancelled")
    ended = {"status": "failed", "failure": cancelled, "decided_at": long_ago}
    publish(
        commands,
        answer(asked("early"), None, **ended),
        writer(asked("begun")).text(0, 0, 0, "A strea"),
        answer(asked("begun"), None, **ended),
        answer(asked("plain"), "Text at once.", decided_at=long_ago),
    )
    # Each would wait for ten minutes else, and the test end it.
    options = ("--lane", commands.lane, "--timeout", "600")
    early = commands.run("stream", "early", *options)
    assert (early.code, early.out) == (1, "") and "failed: the request was cancelled (cancelled)" in early.err
    begun = commands.run("stream", "begun", *options)
    assert (begun.code, begun.out) == (1, "A strea\n") and "it is void" in begun.err
    plain = commands.run("stream", "plain", *options)
    assert (plain.code, plain.out) == (0, "Text at once.\n") and "no chunks came" in plain.err
    assert commands.run("stream", "plain", *options, "--json").objects[-1]["status"] == "answered"
