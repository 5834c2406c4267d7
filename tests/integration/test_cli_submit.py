"""``submit`` and ``ask`` against the real broker; a thread of the test stands for the stages."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path

import pytest

from schemas.ids import event_id
from schemas.records import Answer, Citation, Failure, Meta, Request, Text, Timing, Verdict
from streams.publish import Publisher
from streams.reading import TopicReader
from streams.topics import topic_name
from tests.support.commands import Commands
from tests.support.stack import TestStack

KEYS = {
    "request_id",
    "status",
    "text",
    "citations",
    "model",
    "prompt_version",
    "usage",
    "cost_usd",
    "timings_ms",
    "verdicts",
    "event_id",
}
Reply = Callable[[Request], list[Answer]]


@pytest.fixture
def commands(stack: TestStack, lane: str, tmp_path: Path) -> Commands:
    return Commands(stack, lane, tmp_path, ("requests", "answers"))


def answer(request: Request, **changes: object) -> Answer:
    meta = request.meta
    own = event_id(tenant=meta.tenant, lane=meta.lane, run="", stage="filter", causation_id=meta.event_id)
    given = Answer(
        meta=Meta(event_id=own, request_id=meta.request_id, tenant=meta.tenant, lane=meta.lane, stage="filter"),
        status="answered",
        text=Text(inline=f"answer to {request.query.inline if request.query else ''} [1]"),
        citations=(Citation(number=1, passage_id="p", document_id="d", title="A [bold] title", score=0.5),),
        model="m",
        prompt_version="answer@1",
        cost_usd=Decimal("0.0015"),
        timings=(Timing(stage="admit", waited_ms=1.25, service_ms=2.5),),
        verdicts=(Verdict(guard="pii", outcome="pass"),),
    )
    return Answer(**{**{name: getattr(given, name) for name in Answer.__slots__}, **changes})  # type: ignore[arg-type]


@contextmanager
def stages(commands: Commands, reply: Reply) -> Iterator[None]:
    """Publishes ``reply`` to every request of the lane."""
    stopped = threading.Event()
    ready = threading.Event()

    def work() -> None:
        publisher = Publisher(commands.settings, commands.codec, lane=commands.lane)
        with TopicReader(commands.settings) as reader:
            places = reader.places([topic_name("", commands.lane, "requests")])
            reader.start({place: stretch.end for place, stretch in reader.ends(places).items()})
            ready.set()
            while not stopped.is_set():
                for entry in reader.poll(0.05):
                    for one in reply(commands.codec.decode(entry.value or b"", Request)):
                        publisher.publish("answers", one, one.meta.request_id)
                publisher.flush()

    thread = threading.Thread(target=work)
    thread.start()
    assert ready.wait(120)
    try:
        yield
    finally:
        stopped.set()
        thread.join()


def requests_of(commands: Commands) -> list[Request]:
    with TopicReader(commands.settings) as reader:
        stretches = reader.ends(reader.places([topic_name("", commands.lane, "requests")]))
        return [commands.codec.decode(entry.value or b"", Request) for entry in reader.read(stretches)]


def written(path: Path, *lines: object) -> str:
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return str(path)


def test_every_line_is_published_and_acknowledged(commands: Commands, tmp_path: Path) -> None:
    file = written(tmp_path / "a.jsonl", {"query": "a", "request_id": "r-1"}, {"query": "b", "tenant": "acme"})
    ran = commands.run("submit", file, "--lane", commands.lane, "--json")
    assert (ran.code, len(ran.objects)) == (0, 2)
    published = {request.meta.request_id: request for request in requests_of(commands)}
    assert published.keys() == {one["request_id"] for one in ran.objects}
    assert published["r-1"].meta.tenant == "default"
    assert {one["tenant"] for one in ran.objects} == {"default", "acme"}


def test_one_bad_line_and_nothing_is_published(commands: Commands, tmp_path: Path) -> None:
    file = written(tmp_path / "a.jsonl", {"query": "a"}, {"query": "b", "colour": "red"}, "nope")
    ran = commands.run("submit", file, "--lane", commands.lane)
    assert (ran.code, ran.out) == (2, "")
    assert f"{file}:2: colour: unknown field" in ran.err
    assert f"{file}:3: the line: no valid JSON" in ran.err
    assert requests_of(commands) == []


def test_stdin_is_a_file_too_and_a_batch_gives_the_same_ids_again(commands: Commands) -> None:
    lines = b'{"query":"a"}\n{"query":"a"}\n'
    first, second = (
        commands.run("submit", "-", "--lane", commands.lane, "--json", "--batch", "b", stdin=lines) for _ in range(2)
    )
    ids = [one["request_id"] for one in first.objects]
    assert len(set(ids)) == 2
    assert sorted(ids) == sorted(one["request_id"] for one in second.objects)


def test_the_answers_come_one_a_line_and_a_repeated_event_comes_once(commands: Commands, tmp_path: Path) -> None:
    file = written(tmp_path / "a.jsonl", *({"query": f"q{number}", "request_id": f"r{number}"} for number in range(20)))
    with stages(commands, lambda request: [answer(request)] * 3):
        ran = commands.run("submit", file, "--lane", commands.lane, "--wait", "--json", "--timeout", "150")
    assert ran.code == 0, ran.err
    assert sorted(one["request_id"] for one in ran.objects) == sorted(f"r{number}" for number in range(20))
    one = next(one for one in ran.objects if one["request_id"] == "r7")
    assert one.keys() == KEYS
    assert (one["text"], one["status"], one["cost_usd"]) == ("answer to q7 [1]", "answered", "0.0015")
    assert one["timings_ms"] == {"admit": {"waited": 1.25, "service": 2.5}}
    assert one["citations"][0]["title"] == "A [bold] title"
    assert "20 requests: 20 answered, 0 missing" in ran.err


def test_the_same_request_again_gets_the_answer_that_is_published_again(commands: Commands, tmp_path: Path) -> None:
    file = written(tmp_path / "a.jsonl", {"query": "a", "request_id": "r-1"})
    with stages(commands, lambda request: [answer(request)]):
        first, second = (
            commands.run("submit", file, "--lane", commands.lane, "--wait", "--timeout", "150") for _ in range(2)
        )
    assert (first.code, second.code) == (0, 0)
    assert first.objects == second.objects


def test_a_request_that_is_not_answered_is_named_and_fails_the_command(commands: Commands, tmp_path: Path) -> None:
    failure = Failure(code="empty_output", error_class="policy", message="The model gave no text.")

    def reply(request: Request) -> list[Answer]:
        if request.meta.request_id == "silent":
            return []
        refused = request.meta.request_id == "refused"
        return [answer(request, status="failed", text=None, failure=failure) if refused else answer(request)]

    ids = ("fine", "refused", "silent")
    file = written(tmp_path / "a.jsonl", *({"query": "q", "request_id": one} for one in ids))
    with stages(commands, reply):
        ran = commands.run("submit", file, "--lane", commands.lane, "--wait", "--timeout", "30")
    assert ran.code == 1
    by_id = {one["request_id"]: one for one in ran.objects}
    assert by_id.keys() == {"fine", "refused"}
    assert "failure" not in by_id["fine"]
    assert by_id["refused"]["failure"]["code"] == "empty_output"
    assert "failed: refused: empty_output: The model gave no text." in ran.err
    assert "no answer after 30 s: silent" in ran.err


def test_an_answer_of_another_tenant_under_the_same_id_is_not_taken(commands: Commands, tmp_path: Path) -> None:
    def reply(request: Request) -> list[Answer]:
        foreign = Meta(event_id="e-2", request_id=request.meta.request_id, tenant="other", lane=commands.lane)
        return [answer(request, meta=foreign), answer(request)]

    file = written(tmp_path / "a.jsonl", {"query": "a", "request_id": "r-1", "tenant": "acme"})
    with stages(commands, reply):
        ran = commands.run("submit", file, "--lane", commands.lane, "--wait", "--timeout", "150")
    assert ran.code == 0
    assert len(ran.objects) == 1
    assert ran.objects[0]["event_id"] != "e-2"


def test_a_lane_without_topics_is_bad_usage(commands: Commands, tmp_path: Path) -> None:
    file = written(tmp_path / "a.jsonl", {"query": "a"})
    ran = commands.run("submit", file, "--lane", "nowhere")
    assert ran.code == 2
    assert "nowhere.requests" in ran.err


def test_ask_shows_the_text_and_its_citations(commands: Commands) -> None:
    with stages(commands, lambda request: [answer(request)]):
        ran = commands.run("ask", "why?", "--lane", commands.lane, "--namespace", "docs", "--k", "2")
        data = commands.run("ask", "why?", "--lane", commands.lane, "--json")
    assert ran.code == 0, ran.err
    assert "answer to why? [1]" in ran.out
    assert "[1] A [bold] title · d (0.50)" in ran.out
    assert data.objects[0].keys() == KEYS
    asked = {(request.retrieval.namespaces, request.retrieval.k) for request in requests_of(commands)}
    assert asked == {(("docs",), 2), ((), None)}


def test_ask_wants_json_by_a_schema_in_a_file(commands: Commands, tmp_path: Path) -> None:
    file, bad = tmp_path / "lamp.json", tmp_path / "bad.json"
    file.write_text('{"required": ["lamp"]}')
    bad.write_text('{"$ref": "https://example.com/lamp.json"}')
    with stages(commands, lambda request: [answer(request, text=Text(inline='{"lamp": 1}'))]):
        ran = commands.run("ask", "why?", "--lane", commands.lane, "--schema", str(file))
        commands.run("ask", "how?", "--lane", commands.lane, "--json-mode")
    assert (ran.code, ran.out.splitlines()[0]) == (0, '{"lamp": 1}')
    asked = [(r.response_format.type, r.response_format.schema_json) for r in requests_of(commands)]
    assert sorted(asked, key=str) == [("json_object", None), ("json_schema", Text(inline='{"required":["lamp"]}'))]
    for options, said in [
        (("--schema", str(bad)), "bad.json: references must stay inside"),
        (("--schema", str(tmp_path / "none.json")), "can't be read"),
        (("--schema", str(file), "--json-mode"), "give one of them"),
    ]:
        refused = commands.run("ask", "why?", "--lane", commands.lane, *options)
        assert refused.code == 2 and said in " ".join(refused.err.replace("│", "").split())


def test_ask_fails_with_the_reason(commands: Commands) -> None:
    failure = Failure(code="invalid_request", error_class="policy", message="query: must be shorter", field="query")
    with stages(commands, lambda request: [answer(request, status="rejected", text=None, failure=failure)]):
        ran = commands.run("ask", "why?", "--lane", commands.lane)
    assert ran.code == 1
    assert "rejected: query: must be shorter (invalid_request)" in ran.err


def test_ask_gives_up_in_time_and_says_where_to_look(commands: Commands) -> None:
    started = time.monotonic()
    ran = commands.run("ask", "why?", "--lane", commands.lane, "--timeout", "1")
    assert ran.code == 1
    assert "headrace audit" in ran.err
    assert time.monotonic() - started < 30
    assert requests_of(commands)[0].ttl_ms == 1000
