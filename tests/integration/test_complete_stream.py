"""What the complete stage streams: a real worker on real broker and Postgres, and a provider that breaks off.

One worker takes every request. It is killed while two calls are open, and judged by topics, journal and provider.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, TypeVar

import pytest
from confluent_kafka import Producer

from processors.journal import AttemptRow, CallKey, PostgresJournal
from processors.postgres import Database
from processors.release.window import cleared
from schemas.codec import Codec
from schemas.ids import derive_id
from schemas.record import Record
from schemas.records import Answer, Completion, Control, Cost, Delta, Meta, ResponseFormat
from tests.faults.evidence import Seen, provider_calls, read_topics
from tests.faults.pipeline import Scene, scene
from tests.faults.worker import WorkerProcess
from tests.support.enrichments import enrichment
from tests.support.polling import eventually
from tests.support.stack import TestStack

pytestmark = pytest.mark.stack

CODEC = Codec.offline()
RecordT = TypeVar("RecordT", bound=Record)
WORDS = "[[words:30]] [[vary]]"
ROUTES = {
    "default": {"deployment": "fake"},
    "fragile": {"deployment": "fake", "on_break": "failed"},
    "whole": {"deployment": "fake", "stream": False},
}
# A call that hangs is ended by a cancel or a kill, and not by a deadline before it.
LONG = {"fake": {"total_timeout_s": 50.0, "first_token_timeout_s": 45.0, "between_chunks_timeout_s": 45.0}}
# Both end with the worker; the first is asked again by the next one.
KILLED, KILLED_FRAGILE = "killed", "killed-fragile"


@dataclass
class Bench:
    """A lane with one worker of the stage."""

    place: Scene
    worker: WorkerProcess
    producer: Producer
    # Read once, when all is over.
    topics: dict[str, list[Seen]] = field(default_factory=dict)

    def send(self, kind: str, key: str, record: Record) -> None:
        value = self.place.codec.encode(record)
        self.producer.produce(f"{self.place.lane}.{kind}", value=value, key=key.encode())
        assert self.producer.flush(60) == 0

    def ask(self, name: str, said: str, *, route: str = "default", **asked: Any) -> str:
        """Publish an enrichment as the stage before would; its request id."""
        place, request_id = self.place, f"{self.place.lane}-{name}"
        record = enrichment(
            request_id,
            f"{said} {WORDS}",
            tenant=place.tenant,
            lane=place.lane,
            route=route,
            expires_at=None,
            stream=True,
            **asked,
        )
        record = replace(record, meta=replace(record.meta, accepted_at=datetime.now(UTC)))
        self.send("enrichments.normal", request_id, record)
        return request_id

    def cancel(self, name: str) -> None:
        place, request_id = self.place, self.id_of(name)
        meta = Meta(event_id=derive_id("cancel", request_id), request_id="", tenant="", lane=place.lane)
        control = Control(meta=meta, kind="cancel", name=f"{place.tenant}/{request_id}")
        self.send("control", f"cancel/{control.name}", control)

    def id_of(self, name: str) -> str:
        return f"{self.place.lane}-{name}"

    def seen(self, kind: str, name: str, record: type[RecordT]) -> list[RecordT]:
        topics = self.topics or read_topics(self.place, (kind,))
        found = [one for one in topics[kind] if one.key == self.id_of(name)]
        return [self.place.codec.decode(one.value, record) for one in found]

    def unique(self, kind: str, name: str, record: type[RecordT]) -> list[RecordT]:
        """Each record once, however often it was published in the same bytes."""
        values = {one.value for one in self.topics[kind] if one.key == self.id_of(name)}
        return [self.place.codec.decode(value, record) for value in values]

    def streaming(self, name: str) -> bool:
        return bool(self.seen("deltas", name, Delta))

    def ended(self) -> set[str]:
        topics = read_topics(self.place, ("completions", "answers"))
        return {one.key for records in topics.values() for one in records}

    def calls(self, name: str) -> list[Any]:
        return [call for call in provider_calls(self.place.provider.log) if call.request_id == self.id_of(name)]

    def attempts(self, name: str) -> tuple[AttemptRow, ...]:
        return asyncio.run(self._attempts(name))

    async def _attempts(self, name: str) -> tuple[AttemptRow, ...]:
        database = await Database.open(self.place.dsn, min_size=1, max_size=1)
        try:
            key = CallKey(tenant=self.place.tenant, lane=self.place.lane, run="", request_id=self.id_of(name))
            return await PostgresJournal(database).attempts_of(key)
        finally:
            await database.close()


@pytest.fixture(scope="module")
def bench(stack: TestStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """The worker has taken every request, and was killed in the middle of two."""
    lane = f"d{derive_id(str(datetime.now(UTC)))[:8]}"
    folder = tmp_path_factory.mktemp("streams")
    with scene(stack, folder, lane, partitions=1, routes=ROUTES, deployments=LONG, deltas={"interval_ms": 20}) as place:
        worker = WorkerProcess(("complete",), lane=lane, slot="w0", env=place.env, folder=folder, cpu=None)
        bench = Bench(place, worker, Producer({"bootstrap.servers": place.settings.kafka.bootstrap, "log_level": 0}))
        worker.start()
        try:
            worker.wait_ready()
            _traffic(bench)
            bench.topics = read_topics(place, ("deltas", "completions", "answers", "costs"))
            yield bench
            assert worker.stop() == 0, worker.tail()
        finally:
            if worker.code is None:
                worker.kill()


def _traffic(bench: Bench) -> None:
    plain = {
        bench.ask("plain", "[[fault:trickle:0.02]]"),
        bench.ask("restarted", "[[fault:break_at:80:3,ok]]"),
        bench.ask("broken", "[[fault:break_at:80:3,ok]]", route="fragile"),
        bench.ask("early", "[[fault:break_at:8:0.7,ok]]", route="fragile"),
        bench.ask("whole", "", route="whole"),
        bench.ask("json", "", response_format=ResponseFormat(type="json_object")),
        bench.ask("refused", "[[fault:400]]"),
    }
    bench.ask("cancelled", "[[fault:hang_at:80]]")
    eventually(lambda: bench.streaming("cancelled"), "the call to be cancelled streams")
    bench.cancel("cancelled")
    plain.add(bench.id_of("cancelled"))
    eventually(lambda: plain <= bench.ended(), "every request has ended")
    bench.ask(KILLED, "[[fault:hang_at:80,ok]]")
    bench.ask(KILLED_FRAGILE, "[[fault:hang_at:80,ok]]", route="fragile")
    eventually(lambda: bench.streaming(KILLED) and bench.streaming(KILLED_FRAGILE), "both calls stream")
    # The offsets of what has ended are perhaps not committed: they come again.
    bench.worker.kill()
    bench.worker.start()
    bench.worker.wait_ready()
    killed = {bench.id_of(KILLED), bench.id_of(KILLED_FRAGILE)}
    eventually(lambda: killed <= bench.ended(), "the next life has ended what was open")


def joined(deltas: list[Delta], attempt: int) -> str:
    """The live text of an attempt; fails on a gap."""
    text = ""
    for delta in deltas:
        if delta.attempt == attempt and delta.text is not None and not delta.final:
            assert delta.start_char == len(text)
            text += delta.text.inline or ""
    return text


def closings(deltas: list[Delta]) -> list[Delta]:
    """What closed the stream; copies of it are one."""
    found = {CODEC.encode(delta): delta for delta in deltas if delta.final}
    return list(found.values())


def test_a_stream_grows_while_the_model_writes_and_is_closed_with_the_whole_text(bench: Bench) -> None:
    deltas = bench.seen("deltas", "plain", Delta)
    [completion] = bench.unique("completions", "plain", Completion)
    live = joined(deltas, 0)
    assert completion.text is not None and completion.text.inline is not None
    assert live and completion.text.inline.startswith(live) and len([d for d in deltas if not d.final]) > 1
    [closing] = closings(deltas)
    assert (closing.text, closing.attempt, closing.start_char) == (completion.text, 0, 0)
    assert deltas[-1] == closing and completion.streamed
    assert len({delta.meta.event_id for delta in deltas}) == len(bench.unique("deltas", "plain", Delta))


def test_a_stream_that_breaks_off_begins_anew_where_the_route_says_so(bench: Bench) -> None:
    deltas = bench.seen("deltas", "restarted", Delta)
    [completion] = bench.unique("completions", "restarted", Completion)
    first, whole = joined(deltas, 0), (completion.text and completion.text.inline) or ""
    assert cleared(first) > 0 and not whole.startswith(first)
    assert [delta.attempt for delta in deltas if delta.aborted] == [0]
    [closing] = closings(deltas)
    assert (closing.attempt, closing.text) == (1, completion.text)
    assert [call.paid for call in bench.calls("restarted")] == [True, True]


def test_a_stream_that_breaks_off_in_public_ends_where_the_route_says_so(bench: Bench) -> None:
    deltas = bench.seen("deltas", "broken", Delta)
    [answer] = bench.unique("answers", "broken", Answer)
    assert cleared(joined(deltas, 0)) > 0
    assert answer.failure is not None and answer.failure.code == "stream_broken"
    [closing] = closings(deltas)
    assert (closing.aborted, closing.finish_reason, closing.text) == (True, "stream_broken", None)
    assert len(bench.calls("broken")) == 1
    [row] = bench.attempts("broken")
    assert (row.state, row.upper_bound) == ("unknown", True)


def test_what_broke_off_before_anything_was_public_is_tried_again_on_any_route(bench: Bench) -> None:
    deltas = bench.seen("deltas", "early", Delta)
    assert cleared(joined(deltas, 0)) == 0
    [completion] = bench.unique("completions", "early", Completion)
    assert len(bench.calls("early")) == 2 and [closing.text for closing in closings(deltas)] == [completion.text]


@pytest.mark.parametrize("name", ["whole", "json"])
def test_a_buffered_request_has_no_delta(bench: Bench, name: str) -> None:
    assert bench.seen("deltas", name, Delta) == []
    [completion] = bench.unique("completions", name, Completion)
    assert not completion.streamed


def test_a_call_that_failed_closes_its_stream(bench: Bench) -> None:
    [closing] = bench.unique("deltas", "refused", Delta)
    assert (closing.aborted, closing.final, closing.finish_reason) == (True, True, "http_400")


def test_a_cancel_closes_the_connection_and_ends_the_request(bench: Bench) -> None:
    [call] = bench.calls("cancelled")
    assert call.outcome == "broken" and call.ended is not None
    [answer] = bench.unique("answers", "cancelled", Answer)
    assert (answer.status, answer.failure and answer.failure.code) == ("failed", "cancelled")
    [row] = bench.attempts("cancelled")
    assert (row.state, row.error_code, row.cost_usd) == ("unknown", "cancelled", row.target.bound.usd)
    [cost] = bench.unique("costs", "cancelled", Cost)
    assert cost.amount_usd == row.cost_usd and cost.amount_usd > Decimal(0)
    [closing] = closings(bench.seen("deltas", "cancelled", Delta))
    assert (closing.aborted, closing.finish_reason) == (True, "cancelled")


def test_a_stream_whose_worker_was_killed_is_told_to_have_broken_off_and_begins_anew(bench: Bench) -> None:
    deltas = bench.seen("deltas", KILLED, Delta)
    [completion] = bench.unique("completions", KILLED, Completion)
    assert {delta.attempt for delta in deltas if delta.aborted} == {0}
    [closing] = closings(deltas)
    assert (closing.attempt, closing.text) == (1, completion.text)
    assert [row.state for row in bench.attempts(KILLED)] == ["unknown", "done"]


def test_a_stream_whose_worker_was_killed_is_not_paid_again_where_the_route_says_so(bench: Bench) -> None:
    [answer] = bench.unique("answers", KILLED_FRAGILE, Answer)
    assert answer.failure is not None and answer.failure.code == "stream_broken"
    assert len(bench.calls(KILLED_FRAGILE)) == 1
    [closing] = closings(bench.seen("deltas", KILLED_FRAGILE, Delta))
    assert (closing.attempt, closing.aborted) == (0, True)
    [row] = bench.attempts(KILLED_FRAGILE)
    assert (row.state, row.error_code, row.upper_bound) == ("unknown", "worker_lost", True)


def test_first_tokens_and_gaps_are_on_the_metrics_page(bench: Bench) -> None:
    counted = bench.worker.metrics()
    assert counted["headrace_time_to_first_token_seconds_count"] >= 1
    assert "headrace_token_gap_seconds_count" in counted and "headrace_live_deltas_total" in counted
