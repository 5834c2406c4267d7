"""Dead letters sent through their stage once more: a real worker, a real broker, a provider that counts its calls."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import psycopg
import pytest
from confluent_kafka import Producer

from schemas.errors import PoisonError
from schemas.record import Record
from schemas.records import Answer, Completion, Cost, Enrichment, Meta, Request, Retrieval, Text
from streams.dead_letters import dead_letter
from streams.headers import event_headers
from streams.redriving import REDRIVE
from tests.faults.evidence import Seen, read_topics
from tests.faults.pipeline import Pipeline, Scene, scene
from tests.faults.traffic import Publisher
from tests.support.commands import Ran, run_headrace
from tests.support.polling import eventually
from tests.support.running import Message
from tests.support.stack import TestStack

RecordT = TypeVar("RecordT", bound=Record)
NOW = datetime(2026, 1, 1, tzinfo=UTC)
# The outcome of a call that breaks off is unknown, and this route forbids to repeat it: a real dead letter.
STRICT = {"deployment": "fake", "k": 0, "unknown_policy": "fail"}


class Stream:
    """A running lane with its letters."""

    def __init__(self, place: Scene) -> None:
        self.place = place
        config = {"bootstrap.servers": place.settings.kafka.bootstrap, "partitioner": "murmur2_random"}
        self._producer = Producer(config)

    def run(self, *arguments: str) -> Ran:
        return run_headrace("dlq", *arguments, "--lane", self.place.lane, "--json", environment=self.place.env)

    def letters(self, *filters: str) -> dict[str, dict[str, Any]]:
        """The listed letters by request id."""
        ran = self.run("list", *filters)
        assert ran.code == 0, ran.err
        return {letter["request_id"]: letter for letter in ran.objects}

    def send(self, kind: str, key: str, value: bytes | None, headers: list[tuple[str, bytes]] | None = None) -> None:
        topic = f"{self.place.lane}.{kind}"
        self._producer.produce(topic, value=value, key=key.encode(), headers=list(headers or ()))
        assert self._producer.flush(60) == 0

    def ask(self, name: str, question: str = "How?", **changes: Any) -> str:
        place, request_id = self.place, f"{self.place.lane}-{name}"
        meta = Meta(event_id=request_id, request_id=request_id, tenant=place.tenant, lane=place.lane, stage="producer")
        given: dict[str, Any] = {"query": Text(inline=question), "retrieval": Retrieval(enabled=False), **changes}
        self.send("requests", request_id, place.codec.encode(Request(meta=meta, **given)))
        return request_id

    def seen(self, kind: str, request_id: str) -> list[Seen]:
        return [one for one in read_topics(self.place, [kind])[kind] if one.key == request_id]

    def records(self, kind: str, request_id: str, record: type[RecordT]) -> list[RecordT]:
        return [self.place.codec.decode(one.value, record) for one in self.seen(kind, request_id)]

    def answers(self, request_id: str, revision: int = 0) -> list[Answer]:
        """Every answer of the request, once there is one of this revision."""
        found: list[Answer] = []

        def there() -> bool:
            found[:] = self.records("answers", request_id, Answer)
            return any(answer.revision == revision for answer in found)

        eventually(there, f"revision {revision} of {request_id}")
        return found

    def bury(self, kind: str, request_id: str, stage: str, value: bytes | None = None, *, days_ago: float = 0) -> None:
        """Write the dead letter that a worker writes when ``stage`` gives up on the request's event."""
        (one,) = self.seen(kind, request_id)[:1]
        record = self.place.codec.decode_any(one.value)
        headers = event_headers(record, record.meta, time=NOW, cause=(), timings=())  # type: ignore[attr-defined]
        message = Message(
            one.value if value is None else value,
            key=request_id.encode(),
            topic=f"{self.place.lane}.{kind}",
            partition=one.partition,
            offset=one.offset,
            headers=headers,
        )
        letter = dead_letter(
            message,
            PoisonError("told to"),
            prefix="",
            lane=self.place.lane,
            run="",
            stage=stage,
            attempts=3,
            first_failure=datetime.now(UTC) - timedelta(days=days_ago),
        )
        self.send("dead-letters", request_id, letter.value, letter.headers)

    def paid(self, request_id: str) -> int:
        return self.place.provider.paid()[request_id]


@pytest.fixture(scope="module")
def stream(stack: TestStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stream]:
    folder: Path = tmp_path_factory.mktemp("dlq")
    lane = f"t{secrets.token_hex(4)}"
    strict = {**STRICT, "prompt": f"faults-{lane}"}
    with (
        scene(stack, folder, lane, routes={"strict": strict}) as place,
        Pipeline(place, [("admit", "enrich", "complete", "filter")]),
    ):
        Publisher(place).push_prompt()
        yield Stream(place)


def test_a_failed_call_that_is_retried_is_answered_as_the_next_revision_and_once(stream: Stream) -> None:
    request_id = stream.ask("complete", "How? [[fault:disconnect_stream,ok]]", route="strict")
    (first,) = stream.answers(request_id)
    assert (first.status, first.revision, first.meta.run) == ("failed", 0, "")
    # It may come before or after the answer.
    chosen = ("--class", "unknown", "--stage", "complete")
    eventually(lambda: request_id in stream.letters(*chosen), "the letter")
    letter = stream.letters(*chosen)[request_id]
    assert (letter["tenant"], letter["record"], letter["state"]) == (stream.place.tenant, "headrace.Enrichment", "open")
    dry = stream.run("retry", letter["id"], "--dry-run")
    assert dry.objects == [{"id": letter["id"], "outcome": "would_retry", "topic": letter["source"]["topic"]}]
    (done,) = stream.run("retry", letter["id"]).objects
    answers = stream.answers(request_id, 1)
    second = next(answer for answer in answers if answer.revision == 1)
    assert (second.status, second.supersedes, second.meta.run) == ("answered", first.meta.event_id, done["run"])
    assert stream.paid(request_id) == 2, "the broken call, and the one of the retry"
    # Once more by id, and by filter: nothing happens.
    again = stream.run("retry", letter["id"])
    assert (again.code, [one["outcome"] for one in again.objects]) == (0, ["skipped"])
    assert stream.run("retry", "--stage", "complete", "--tenant", stream.place.tenant, "--yes").objects == []
    # A crash between the broker's acknowledgement and the note of it: the retry goes on under the same run.
    _unfinish(stream.place, done["run"])
    assert [one["run"] for one in stream.run("retry", letter["id"]).objects] == [done["run"]]
    topic = letter["source"]["topic"].removeprefix(f"{stream.place.lane}.")
    eventually(lambda: len(stream.seen(topic, request_id)) == 3, "the event was published again")
    eventually(lambda: len(stream.records("answers", request_id, Answer)) == 3, "the answer came again")
    answers = stream.records("answers", request_id, Answer)
    assert sorted(answer.revision for answer in answers) == [0, 1, 1]
    assert len({stream.place.codec.encode(answer) for answer in answers}) == 2, "the same bytes"
    assert stream.paid(request_id) == 2
    shown = stream.run("show", letter["id"]).objects[0]
    assert [(retry["number"], retry["revision"]) for retry in shown["retries"]] == [(1, 1)]
    assert shown["state"] == "retried"


def test_a_completion_is_filtered_again_without_another_call(stream: Stream) -> None:
    request_id = stream.ask("filter")
    (first,) = stream.answers(request_id)
    stream.bury("completions", request_id, "filter")
    # What a crash between the letter and its acknowledgement leaves: the same letter once more.
    stream.bury("completions", request_id, "filter")
    letter = stream.letters("--stage", "filter")[request_id]
    listed = [one for one in stream.run("list", "--stage", "filter").objects if one["request_id"] == request_id]
    assert len(listed) == 1, "copies are one letter"
    (done,) = stream.run("retry", "--stage", "filter", "--yes").objects
    assert done["outcome"] == "retried"
    second = next(answer for answer in stream.answers(request_id, 1) if answer.revision == 1)
    assert (second.status, second.supersedes, second.meta.run) == ("answered", first.meta.event_id, done["run"])
    assert second.text == first.text
    assert stream.paid(request_id) == 1
    # On purpose it is done again, and that is the revision after.
    assert stream.run("retry", letter["id"], "--again").objects[0]["run"].endswith("-2")
    third = next(answer for answer in stream.answers(request_id, 2) if answer.revision == 2)
    assert third.supersedes == second.meta.event_id
    assert stream.paid(request_id) == 1
    assert stream.letters("--state", "retried")[request_id]["retries"][1]["number"] == 2


def test_a_call_that_was_paid_is_used_again_when_its_input_is_the_same(stream: Stream) -> None:
    request_id = stream.ask("reuse")
    (first,) = stream.answers(request_id)
    stream.bury("enrichments.normal", request_id, "complete")
    letter = stream.letters("--stage", "complete")[request_id]
    (done,) = stream.run("retry", letter["id"]).objects
    second = next(answer for answer in stream.answers(request_id, 1) if answer.revision == 1)
    assert (second.text, second.cost_usd, second.served_by) == (first.text, 0, "journal")
    assert second.avoided_cost_usd == first.cost_usd > 0
    costs = stream.records("costs", request_id, Cost)
    assert [cost.amount_usd > 0 for cost in costs if not cost.meta.run] == [True]
    assert [(c.amount_usd, c.avoided_cost_usd) for c in costs if c.meta.run] == [(0, first.cost_usd)]
    assert stream.paid(request_id) == 1
    assert {c.meta.run for c in stream.records("completions", request_id, Completion)} == {"", done["run"]}


def test_a_request_goes_the_whole_way_again_under_its_run(stream: Stream) -> None:
    request_id = stream.ask("whole", idempotency_key=f"key-{stream.place.lane}")
    (first,) = stream.answers(request_id)
    stream.bury("requests", request_id, "admit")
    (done,) = stream.run("retry", "--stage", "admit", "--since", "1h", "--yes").objects
    assert done["outcome"] == "retried", done
    second = next(answer for answer in stream.answers(request_id, 1) if answer.revision == 1)
    assert (second.status, second.supersedes, second.meta.run) == ("answered", first.meta.event_id, done["run"])
    assert second.meta.accepted_at == first.meta.accepted_at
    assert stream.paid(request_id) == 1


def test_a_letter_older_than_what_is_known_of_its_request_is_not_retried(stream: Stream) -> None:
    request_id = stream.ask("old")
    stream.answers(request_id)
    stream.bury("requests", request_id, "admit", days_ago=200)
    letter = stream.letters("--stage", "admit")[request_id]
    ran = stream.run("retry", letter["id"])
    assert ran.code == 1 and [one["outcome"] for one in ran.objects] == ["refused"]
    assert stream.letters("--stage", "admit")[request_id]["state"] == "open"


def test_a_request_whose_time_is_over_has_it_again_from_the_retry_on(stream: Stream) -> None:
    request_id = stream.ask("late")
    stream.answers(request_id)
    (known,) = stream.records("enrichments.normal", request_id, Enrichment)
    late = replace(known, admission=replace(known.admission, expires_at=datetime.now(UTC) - timedelta(hours=2)))
    stream.bury("enrichments.normal", request_id, "complete", stream.place.codec.encode(late))
    letter = stream.letters("--stage", "complete")[request_id]
    stream.run("retry", letter["id"])
    assert next(a for a in stream.answers(request_id, 1) if a.revision == 1).status == "answered"


def test_bytes_that_are_no_record_go_back_as_they_are_and_fail_again_as_a_letter_of_their_own(stream: Stream) -> None:
    stream.send("requests", "no-avro", b"no avro", [("x-own", b"mine"), ("tracestate", b"a=b")])
    eventually(lambda: "no-avro" in stream.letters(), "the letter")
    letter = stream.letters()["no-avro"]
    assert (letter["tenant"], letter["record"]) == ("", None)
    (done,) = stream.run("retry", letter["id"]).objects
    again = lambda: [one for one in stream.run("list").objects if one["run"] == done["run"]]  # noqa: E731
    eventually(lambda: bool(again()), "the letter of the retry")
    (second,) = again()
    assert second["id"] != letter["id"] and second["bytes"] == letter["bytes"]
    shown = stream.run("show", second["id"], "--content").objects[0]
    assert shown["headers"]["x-own"] == "mine"
    assert "value" in shown and "value" not in stream.run("show", second["id"]).objects[0]
    ran = stream.run("drop", second["id"], "--reason", "a producer's mistake")
    assert ran.objects == [{"id": second["id"], "outcome": "dropped"}]
    dropped = {one["id"]: one for one in stream.run("list", "--state", "dropped").objects}[second["id"]]
    assert dropped["changed"]["reason"] == "a producer's mistake" and "@" in dropped["changed"]["by"]
    assert "no-avro" not in stream.letters()
    # What was retried is with its stage again: its history is not written over.
    ran = stream.run("drop", letter["id"], "--reason", "too late")
    assert ran.objects == [{"id": letter["id"], "outcome": "skipped"}]
    assert letter["id"] in {one["id"] for one in stream.run("list", "--state", "retried").objects}


def test_a_producer_that_forges_a_retry_opens_no_revision(stream: Stream) -> None:
    request_id = stream.ask("forged")
    (first,) = stream.answers(request_id)
    run = f"redrive-{secrets.token_hex(8)}-1"
    (one,) = stream.seen("requests", request_id)
    claimed = stream.place.codec.decode(one.value, Request)
    forged = stream.place.codec.encode(replace(claimed, meta=replace(claimed.meta, run=run)))
    for value in (one.value, forged):
        stream.send("requests", request_id, value, [(REDRIVE, run.encode())])
    # A run that somebody began, for another event. It names no request, so only its bytes tell.
    stream.send("requests", f"{request_id}-other", b"no avro either")
    eventually(lambda: f"{request_id}-other" in stream.letters(), "the letter")
    letter = stream.letters()[f"{request_id}-other"]
    real = stream.run("retry", letter["id"]).objects[0]["run"]
    stream.send("requests", request_id, one.value, [(REDRIVE, real.encode())])
    # The record that names a run itself is refused as another body; the other two are copies.
    eventually(lambda: len(stream.records("answers", request_id, Answer)) == 3, "three answers")
    answers = stream.records("answers", request_id, Answer)
    assert {answer.meta.event_id for answer in answers} == {first.meta.event_id}
    assert {(answer.revision, answer.meta.run) for answer in answers} == {(0, "")}
    assert stream.paid(request_id) == 1


def _unfinish(place: Scene, run: str) -> None:
    """What a crash before the last step of a retry leaves."""
    with psycopg.connect(place.dsn) as connection:
        connection.execute("UPDATE redrives SET published_at = NULL WHERE run = %s", (run,))
        connection.execute(
            "UPDATE dead_letters SET state = 'retrying' WHERE letter = (SELECT letter FROM redrives WHERE run = %s)",
            (run,),
        )
