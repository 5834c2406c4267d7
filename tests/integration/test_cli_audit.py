"""``audit`` on the real broker and Postgres: every event of a request, and nothing of another."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

from processors.account.postgres import PostgresLedger
from processors.finality import PostgresFinality
from processors.postgres import Database
from schemas.ids import request_event_id
from schemas.record import Record
from schemas.records import Admission, Admitted, Answer, Completion, Cost, Enrichment, Grounding, Meta, Request, Text
from streams.publish import Publisher
from streams.reading import partition_for
from streams.requests import parse_request
from streams.topics import admin_client, apply, compare, topic_name
from tests.support.commands import Commands
from tests.support.costs import entry
from tests.support.polling import eventually
from tests.support.stack import TestStack

KINDS = ("requests", "admitted", "enrichments.normal", "completions", "answers", "costs", "dead-letters")
MANY = 200_000


@pytest.fixture
def commands(stack: TestStack, lane: str, tmp_path: Path) -> Commands:
    return Commands(stack, lane, tmp_path, KINDS)


def request(commands: Commands, request_id: str = "r-1", tenant: str = "default") -> Request:
    return parse_request(f'{{"query": "why?", "request_id": "{request_id}"}}', tenant=tenant, lane=commands.lane)


def flow(asked: Request) -> list[Record]:
    """The events of an answered request. The producer's own event id is not what the stages call it."""
    ours = request_event_id(tenant=asked.meta.tenant, lane=asked.meta.lane, request_id=asked.meta.request_id)
    asked = replace(asked, meta=replace(asked.meta, event_id="the-producers-own"))

    def meta(event_id: str, cause: str, stage: str) -> Meta:
        return replace(asked.meta, event_id=event_id, causation_id=cause, stage=stage)

    grounding = Grounding(question=Text(inline="why?"))
    shared: dict[str, Any] = {"request": asked, "admission": Admission()}
    return [
        asked,
        Admitted(meta=meta("e-admitted", ours, "admit"), **shared),
        Enrichment(meta=meta("e-enriched", "e-admitted", "enrich"), grounding=grounding, **shared),
        Completion(meta=meta("e-completed", "e-enriched", "complete"), grounding=grounding, **shared),
        Cost(
            meta=meta("e-cost", "e-enriched", "complete"), attempt_id="e-cost", state="done", amount_usd=Decimal("0.5")
        ),
        Answer(meta=meta("e-answer", "e-completed", "filter"), status="answered", text=Text(inline="because")),
    ]


def publish(commands: Commands, *records: Record) -> None:
    publisher = Publisher(commands.settings, commands.codec, lane=commands.lane)
    for record in records:
        publisher.send(record)
        # One after another, so that the broker's times are in order.
        assert publisher.flush() == []


def raw(commands: Commands, kind: str, key: str, value: bytes, headers: dict[str, str], partition: int = -1) -> None:
    producer = Producer({"bootstrap.servers": commands.settings.kafka.bootstrap, "partitioner": "murmur2_random"})
    producer.produce(
        topic_name("", commands.lane, kind), key=key, value=value, headers=list(headers.items()), partition=partition
    )
    assert producer.flush(20) == 0


def remember(commands: Commands, answer: Answer, *, decided_at: datetime | None = None, call: bool = True) -> None:
    """What admission and finality leave in the database, and a journaled call with one attempt."""

    async def write() -> None:
        meta = answer.meta
        database = await Database.open(commands.settings.postgres.dsn.get_secret_value())
        own = {"tenant": meta.tenant, "lane": meta.lane, "request_id": meta.request_id}
        own |= {"accepted_at": decided_at or datetime.now(UTC)}
        try:
            await database.execute(
                "INSERT INTO idempotency (tenant, lane, scope, key, request_id, body_hash, control_offset, accepted_at)"
                " VALUES (%(tenant)s, %(lane)s, 'request', %(request_id)s, %(request_id)s, 'h', -1, %(accepted_at)s)",
                own,
            )
            if call:
                await database.execute(_CALL, own)
                await database.execute(_ATTEMPT, own)
            final = replace(answer, decided_at=decided_at)
            await PostgresFinality(database).claim(final, commands.codec.encode(final))
        finally:
            await database.close()

    asyncio.run(write())


_CALL = """
    INSERT INTO calls (call_id, tenant, lane, run, request_id, purpose, ordinal, input_hash, input, state, result)
    VALUES (gen_random_uuid(), %(tenant)s, %(lane)s, '', %(request_id)s, 'completion', 0, 'h', 'i', 'done', 'r')
"""
_ATTEMPT = """
    INSERT INTO attempts (
        attempt_id, call_id, ordinal, epoch, route, deployment, provider, model, price_source, account, stage_version,
        control_offset, bound_prompt_tokens, bound_completion_tokens, upper_bound_usd, state, started_at, ended_at,
        cost_usd)
    SELECT gen_random_uuid(), call_id, 0, 1, 'default', 'local', 'p', 'm', '', '', '1', -1, 1, 1, 1, 'done', now(),
        now(), 0.0015
    FROM calls WHERE tenant = %(tenant)s AND lane = %(lane)s AND request_id = %(request_id)s
"""


def book(commands: Commands, *costs: Cost) -> None:
    """What the account stage does with cost events."""

    async def write() -> None:
        database = await Database.open(commands.settings.postgres.dsn.get_secret_value())
        try:
            await PostgresLedger(database).record([entry(one) for one in costs])
        finally:
            await database.close()

    asyncio.run(write())


def audit(commands: Commands, request_id: str = "r-1", *more: str) -> dict[str, Any]:
    ran = commands.run("audit", request_id, "--lane", commands.lane, "--json", *more)
    assert ran.code == 0, ran.err
    (found,) = ran.objects
    return found


def test_every_event_comes_in_causal_order_with_place_attempts_and_final_answer(commands: Commands) -> None:
    events = flow(request(commands))
    # Another request's events lie between them, and the order of arrival is not the order of causes.
    publish(commands, *flow(request(commands, "r-2")), *reversed(events))
    answer = events[-1]
    assert isinstance(answer, Answer)
    remember(commands, answer)
    found = audit(commands)
    kinds = [event["kind"] for event in found["events"]]
    assert kinds[:3] == ["requests", "admitted", "enrichments.normal"]
    # Costs and completion have one cause, and come in the order of arrival.
    assert sorted(kinds[3:]) == ["answers", "completions", "costs"]
    assert kinds.index("completions") < kinds.index("answers")
    assert found["status"] == "answered"
    partition = partition_for(b"r-1", commands.settings.partitions)
    for event in found["events"]:
        assert event["topic"] == topic_name("", commands.lane, event["kind"])
        assert event["partition"] == partition
        assert event["copies"] == [{"partition": partition, "offset": event["offset"], "time": event["time"]}]
        assert event["record"]["meta"]["request_id"] == "r-1"
    (attempt,) = found["attempts"]
    assert (attempt["state"], attempt["deployment"], attempt["cost_usd"]) == ("done", "local", "0.0015")
    assert (found["final"]["status"], found["final"]["event_id"]) == ("answered", "e-answer")
    assert found["window"]["since"] is not None


def test_copies_of_a_redelivered_event_are_one_event_with_every_place(commands: Commands) -> None:
    events = flow(request(commands))
    publish(commands, *events, events[1], events[-1])
    found = audit(commands)
    assert len(found["events"]) == len(events)
    answer = next(event for event in found["events"] if event["kind"] == "answers")
    assert len(answer["copies"]) == 2
    assert answer["same_bytes"] is True
    publish(commands, replace(events[-1], status="failed"))  # type: ignore[type-var]
    answer = next(event for event in audit(commands)["events"] if event["kind"] == "answers")
    assert (len(answer["copies"]), answer["same_bytes"]) == (3, False)


def test_a_dead_letter_hangs_under_its_event_and_bytes_that_are_no_avro_are_shown(commands: Commands) -> None:
    asked, admitted, *_ = flow(request(commands))
    publish(commands, asked, admitted)
    reason = {"__connect.errors.stage": "enrich", "headrace.error.class": "poison"}
    raw(commands, "dead-letters", "r-1", commands.codec.encode(admitted), reason)
    raw(commands, "completions", "r-1", b"no avro", {"ce_id": "e-bad", "ce_causationid": "e-admitted"})
    found = audit(commands)
    assert found["status"] == "dead_lettered"
    assert {event["kind"] for event in found["events"]} == {"requests", "admitted", "dead-letters", "completions"}
    letter = next(event for event in found["events"] if event["kind"] == "dead-letters")
    assert (letter["event_id"], letter["dead_letter"]["failed_stage"]) == ("e-admitted", "enrich")
    bad = next(event for event in found["events"] if event["kind"] == "completions")
    assert (bad["event_id"], bad["record"]) == ("e-bad", None)
    ran = commands.run("audit", "r-1", "--lane", commands.lane)
    wanted = ("requests", "admitted", "dead-letters")
    lines = {kind: line for line in ran.out.splitlines() for kind in wanted if kind in line.split("@")[0]}
    indent = {kind: len(line) - len(line.lstrip(" │├└─")) for kind, line in lines.items()}
    assert indent["requests"] < indent["admitted"] < indent["dead-letters"]


def test_a_request_that_its_producer_put_into_another_partition_is_found(commands: Commands) -> None:
    asked = request(commands)
    wrong = (partition_for(b"r-1", 4) + 1) % 4
    raw(commands, "requests", "r-1", commands.codec.encode(asked), {}, partition=wrong)
    (event,) = audit(commands)["events"]
    assert event["partition"] == wrong


def test_an_answer_published_long_after_it_became_final_is_found(commands: Commands) -> None:
    events = flow(request(commands))
    publish(commands, *events)
    answer = events[-1]
    assert isinstance(answer, Answer)
    remember(commands, answer, decided_at=datetime.now(UTC) - timedelta(days=1), call=False)
    assert "answers" in {event["kind"] for event in audit(commands)["events"]}


def test_a_price_that_was_changed_later_is_in_the_tree_and_the_attempt_shows_what_is_booked(commands: Commands) -> None:
    events = flow(request(commands))
    publish(commands, *events)
    answer = events[-1]
    assert isinstance(answer, Answer)
    remember(commands, answer)
    (attempt,) = audit(commands)["attempts"]
    assert attempt["booked_usd"] is None
    closed = next(one for one in events if isinstance(one, Cost))
    closed = replace(
        closed,
        attempt_id=attempt["attempt_id"],
        amount_usd=Decimal("0.0015"),
        meta=replace(closed.meta, event_id=attempt["attempt_id"]),
    )
    rerated = replace(
        closed,
        correction="rerate",
        amount_usd=Decimal("0.0005"),
        meta=replace(closed.meta, event_id="e-rerated", causation_id=closed.meta.event_id, stage="rerate"),
    )
    publish(commands, rerated)
    # As long after the request's last trace as may be: nothing that came after it is looked for.
    briefly = ("--after", "0")
    assert "e-rerated" not in {event["event_id"] for event in audit(commands, "r-1", *briefly)["events"]}
    book(commands, closed, rerated)
    found = audit(commands, "r-1", *briefly)
    assert "e-rerated" in {event["event_id"] for event in found["events"]}
    assert [(one["cost_usd"], one["booked_usd"]) for one in found["attempts"]] == [("0.0015", "0.002")]
    ran = commands.run("audit", "r-1", "--lane", commands.lane, *briefly)
    assert "· $0.0015 · booked at $0.002 since" in ran.out


def test_two_tenants_under_one_id_have_to_be_told_apart(commands: Commands) -> None:
    publish(commands, request(commands, tenant="acme"), request(commands, tenant="other"))
    ran = commands.run("audit", "r-1", "--lane", commands.lane)
    assert ran.code == 2
    assert "acme, other" in ran.err
    (event,) = audit(commands, "r-1", "--tenant", "acme")["events"]
    assert event["record"]["meta"]["tenant"] == "acme"


def test_nothing_found_is_a_failure(commands: Commands) -> None:
    ran = commands.run("audit", "nobody", "--lane", commands.lane)
    assert ran.code == 1
    assert "nothing was found" in ran.err
    assert commands.run("audit", "r-1", "--lane", "nowhere").code == 2


def test_a_request_is_found_quickly_among_many(commands: Commands) -> None:
    """Processor time, because the machine is shared: what reads keys alone costs about a microsecond each."""
    producer = Producer(
        {
            "bootstrap.servers": commands.settings.kafka.bootstrap,
            "partitioner": "murmur2_random",
            "linger.ms": 50,
            "queue.buffering.max.messages": MANY,
        }
    )
    topic = topic_name("", commands.lane, "requests")
    for number in range(MANY):
        producer.produce(topic, key=f"other-{number}", value=b"x" * 100)
    assert producer.flush(60) == 0
    publish(commands, *flow(request(commands)))
    started = time.process_time()
    assert len(audit(commands)["events"]) == 6
    assert time.process_time() - started < 2.0


def test_what_a_replay_made_of_the_request_hangs_in_the_tree_and_the_page_tells_it(
    commands: Commands, stack: TestStack, tmp_path: Path
) -> None:
    events = flow(request(commands))
    publish(commands, *events)
    completion = events[3]
    assert isinstance(completion, Completion)
    (tmp_path / "run").mkdir()
    run = Commands(stack, f"replay-{commands.lane}", tmp_path / "run", ("answers",))
    meta = replace(
        completion.meta, event_id="e-again", causation_id=completion.meta.event_id, stage="filter", lane=run.lane
    )
    publish(run, Answer(meta=replace(meta, run="run-1"), status="answered", text=Text(inline="<b>again</b>")))
    file = tmp_path / "audit.html"
    found = audit(commands, "r-1", "--html", str(file))
    again = next(event for event in found["events"] if event["event_id"] == "e-again")
    parent = next(event for event in found["events"] if event["event_id"] == "e-completed")
    assert (again["topic"], again["depth"]) == (topic_name("", run.lane, "answers"), parent["depth"] + 1)
    assert again["schema_id"] > 0
    # The answer of the request is its own, not the replay's.
    shown = file.read_text()
    assert "<pre>because</pre>" in shown and "<b>again" not in shown and "&lt;b&gt;again" in shown
    assert len(audit(commands, "r-1", "--no-replays")["events"]) == len(events)
    nowhere = commands.run("audit", "r-1", "--lane", commands.lane, "--html", str(tmp_path / "none" / "x.html"))
    assert nowhere.code == 2 and "make it first" in nowhere.err


def test_what_came_before_its_topics_grew_is_found(commands: Commands) -> None:
    before, after = commands.settings.partitions, commands.settings.partitions + 3
    moved = next(
        name for name in (f"r-{n}" for n in range(100))
        if partition_for(name.encode(), before) != partition_for(name.encode(), after)
    )  # fmt: skip
    records = flow(request(commands, moved))
    publish(commands, *records)
    remember(commands, records[-1])  # type: ignore[arg-type]
    grown = commands.settings.model_copy(update={"partitions": after})
    apply(grown, commands.lane, compare(grown, commands.lane, KINDS), grow=True)
    eventually(lambda: partitions_of(commands, "answers") == after, "the topics grown")
    found = audit(commands, moved)
    assert sorted(one["kind"] for one in found["events"]) == sorted(kind for kind in KINDS if kind != "dead-letters")


def partitions_of(commands: Commands, kind: str) -> int:
    name = topic_name("", commands.lane, kind)
    return len(admin_client(commands.settings).list_topics(name, timeout=20).topics[name].partitions)
