"""Replays of the stage that pays: reuse, limits, another prompt over the recorded passages, and backfill."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest

from processors.clock import DatabaseClock
from processors.complete.processor import Complete
from processors.control import FakeControl
from processors.event import Incoming
from processors.finality import PostgresFinality
from processors.journal import PostgresJournal
from processors.model import ModelClients
from processors.postgres import Database
from processors.prompts import PgPrompts
from schemas.records import Admitted, Answer, Completion, Cost, Feedback, Meta, Passage, Retrieval, Text
from streams.deployed import routes
from streams.reading import Entry
from streams.replay.run import RunConfig
from streams.replay.selection import Selection
from streams.settings import load_settings
from tests.provider.process import ProviderProcess
from tests.support.commands import NO_EMBEDDINGS, Commands, Ran
from tests.support.enrichments import enrichment
from tests.support.polling import eventually
from tests.support.replaying import entries, record
from tests.support.stack import TestStack

pytestmark = pytest.mark.stack
KINDS = ("enrichments.normal", "enrichments.high", "enrichments.low", "answers", "control", "completions", "costs")
EVENTS = 12
SECTIONS = (
    NO_EMBEDDINGS
    + """
[deployments.local]
base_url = "{provider}"
model = "m1"
price = {{ prompt = 1000, completion = 1000 }}
default_max_tokens = 64
[routes.default]
deployment = "local"
"""
)
PROMPT = "Answer from these.\n{{ passages | numbered }}\nBe brief."


class Place:
    """A lane whose first half was answered live, with its calls in the journal; and the command line."""

    def __init__(self, stack: TestStack, lane: str, folder: Path) -> None:
        self.stack, self.lane = stack, lane
        self.provider = ProviderProcess(folder / "calls.jsonl")
        self.sections = SECTIONS.format(provider=self.provider.base_url)
        self.commands = Commands(stack, lane, folder, KINDS, self.sections)
        self.settings = load_settings(self.commands.config)
        passage = Passage(
            passage_id="p1", document_id="d1", namespace="default", number=1, digest="ab" * 32, score=0.9,
            text=Text(inline="Lamps are lit at dusk."),
        )  # fmt: skip
        self.events = []
        for number in range(EVENTS):
            one = enrichment(f"{lane}-r{number}", f"Question {number}?", lane=lane)
            self.events.append(replace(one, grounding=replace(one.grounding, passages=(passage,))))
        record(self.commands.settings, self.commands.codec, lane, self.events)
        self.prompt = f"{lane}p"
        asyncio.run(self._live())

    async def _live(self) -> None:
        database = await Database.open(self.stack.postgres_dsn)
        clock, client = DatabaseClock(), ModelClients()
        clock.set(await database.now())
        stage = Complete(
            PostgresJournal(database),
            client,
            routes=routes(self.settings),
            codec=self.commands.codec,
            clock=clock,
            control=FakeControl(),
            owner="live",
        )
        stage.start()
        for one in self.events[: EVENTS // 2]:
            wanted = replace(one, admission=replace(one.admission, expires_at=None))
            raw = self.commands.codec.encode(wanted)
            await stage(Incoming(record=wanted, meta=wanted.meta, raw=raw, appended_at=datetime.now(UTC)))
        await stage.stop()
        await client.close()
        await PgPrompts(database).push(self.prompt, PROMPT)
        await database.close()

    def replay(self, *options: str) -> Ran:
        return self.commands.run("replay", *options, "--lane", self.lane, "--json")

    def read(self, lane: str, kind: str, record: type[Any]) -> list[Any]:
        found = entries(self.commands.settings, lane, kind)
        return [self.commands.codec.decode(entry.value or b"", record) for entry in found]

    def rows(self, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.stack.postgres_dsn) as connection:
            return connection.execute(statement, parameters).fetchall()  # type: ignore[arg-type]

    def booked(self, lane: str) -> list[tuple[str, Decimal]]:
        """State and amount of what the ledger has of a lane."""
        found = self.rows("SELECT state, amount_usd FROM ledger WHERE lane = %s ORDER BY amount_usd", lane)
        return [(state, amount) for state, amount in found]

    def latency(self, ms: float) -> None:
        """Have the provider take so long."""
        body = json.dumps({"latency": {"median_ms": ms, "slow_ms": 0.0, "slow_share": 0.0, "seed": 0}}).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.provider.url}/script", body, headers, method="POST")
        urllib.request.urlopen(request, timeout=60).close()

    def paid(self) -> int:
        return sum(self.provider.paid().values())


@pytest.fixture(scope="module")
def place(stack: TestStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    started = Place(stack, f"t{id(stack) % 10**8:08d}", tmp_path_factory.mktemp("replay"))
    yield started
    started.provider.stop()


def test_only_what_was_not_asked_before_is_paid_and_a_dry_run_says_so(place: Place) -> None:
    assert place.paid() == EVENTS // 2
    options = ("--stage", "complete", "--since", "1h")
    dry = place.replay(*options, "--dry-run")
    assert dry.code == 0, dry.err
    found = dry.objects[0]
    assert (found["events"], found["reused"], found["calls"]["m1"]["calls"]) == (EVENTS, EVENTS // 2, EVENTS // 2)
    assert 0 < Decimal(found["calls"]["m1"]["likely_usd"]) <= Decimal(found["calls"]["m1"]["most_usd"])
    assert place.paid() == EVENTS // 2, "a dry run buys nothing"

    ran = place.replay(*options, "--through", "filter", "--name", f"{place.lane}-again")
    assert ran.code == 0, ran.err
    view = ran.objects[0]
    assert view["stages"] == ["complete", "filter", "account"]
    assert [step["counts"]["published"] for step in view["steps"]] == [EVENTS, EVENTS, EVENTS]
    assert place.paid() == EVENTS
    completions: list[Completion] = place.read(view["lane"], "completions", Completion)
    assert sorted(one.served_by for one in completions) == ["journal"] * (EVENTS // 2) + ["model"] * (EVENTS // 2)
    assert {answer.meta.request_id for answer in place.read(view["lane"], "answers", Answer)} == {
        one.meta.request_id for one in place.events
    }
    assert place.read(place.lane, "completions", Completion) == []
    spent = place.commands.run("costs", "--lane", view["lane"], "--json").objects[-1]
    assert Decimal(view["cost_usd"]) > 0
    assert Decimal(spent["total"]["total_usd"]) == Decimal(view["cost_usd"])

    # A further run finds the calls of that one too.
    again = place.replay(*options)
    assert again.code == 0, again.err
    assert place.paid() == EVENTS
    assert Decimal(again.objects[0]["cost_usd"]) == 0
    assert Decimal(again.objects[0]["avoided_usd"]) > 0


def test_a_limit_stops_a_run_before_it_is_passed_and_a_higher_one_goes_on(place: Place) -> None:
    options = ("--stage", "complete", "--since", "1h", "--set", "temperature=0.3", "--name", f"{place.lane}-limit")
    most = place.replay(*options, "--dry-run").objects[0]["calls"]["m1"]
    assert most["calls"] == EVENTS
    one = place.replay(*options[:4], "--set", "temperature=0.4", "--sample", "0.4").objects[0]
    each, before = Decimal(one["cost_usd"]) / one["steps"][0]["counts"]["published"], place.paid()
    # Room for the worst case of one call once three or four are paid.
    limit = Decimal(most["most_usd"]) / EVENTS + 4 * each
    ran = place.replay(*options, "--max-cost", f"{limit:f}", "--workers", "2")
    assert ran.code == 1, ran.err
    view = ran.objects[0]
    assert (view["state"], "--max-cost" in view["reason"]) == ("stopped", True)
    first = place.paid() - before
    assert 0 < first < EVENTS
    assert Decimal(view["cost_usd"]) <= limit
    # It did not come to its last step, and is in the books all the same.
    stopped = place.booked(view["lane"])
    assert (len(stopped), sum(amount for _, amount in stopped)) == (first, Decimal(view["cost_usd"]))
    spent = place.commands.run("costs", "--lane", view["lane"], "--json").objects[-1]
    assert Decimal(spent["total"]["total_usd"]) == Decimal(view["cost_usd"])
    resumed = place.commands.run("replay", "resume", f"{place.lane}-limit", "--max-cost", "50", "--json")
    assert resumed.code == 0, resumed.err
    assert place.paid() - before == EVENTS
    assert resumed.objects[0]["counts"]["published"] == 2 * EVENTS
    ids = [one.meta.event_id for one in place.read(view["lane"], "completions", Completion)]
    assert len(ids) == len(set(ids)) == EVENTS
    booked = place.booked(view["lane"])
    assert (len(booked), sum(amount for _, amount in booked)) == (EVENTS, Decimal(resumed.objects[0]["cost_usd"]))


def test_a_killed_run_that_is_cancelled_has_its_open_calls_booked_at_their_bounds_before_it_is_deleted(
    place: Place,
) -> None:
    name, workers = f"{place.lane}-killed", 2
    place.latency(600_000)
    command = [sys.executable, "-m", "streams", "replay", "--stage", "complete", "--since", "1h", "--lane", place.lane]
    options = ("--set", "temperature=0.7", "--workers", str(workers), "--name", name)
    open_ = (
        "SELECT upper_bound_usd FROM attempts JOIN calls USING (call_id) JOIN replay_runs USING (lane)"
        " WHERE name = %s AND attempts.state = 'calling'"
    )
    with subprocess.Popen([*command, *options], env=place.commands.environment, stderr=subprocess.DEVNULL) as process:
        try:
            eventually(lambda: len(place.rows(open_, name)) == workers, "calls are open", timeout_s=180)
        finally:
            process.kill()
    place.latency(0)
    bounds = sorted(bound for (bound,) in place.rows(open_, name))
    [(lane,)] = place.rows("SELECT lane FROM replay_runs WHERE name = %s", name)
    # Leases of the dead are waited for; the test does not.
    place.rows("UPDATE replay_runs SET lease_until = '-infinity' WHERE lane = %s RETURNING 1", lane)
    place.rows("UPDATE calls SET lease_until = clock_timestamp() WHERE lane = %s RETURNING 1", lane)
    assert place.booked(lane) == []
    cancelled = place.commands.run("replay", "cancel", name, "--json")
    assert cancelled.code == 0, cancelled.err
    assert place.booked(lane) == [("unknown", bound) for bound in bounds]
    told: list[Cost] = place.read(lane, "costs", Cost)
    assert sorted(one.amount_usd for one in told) == bounds
    assert {(one.meta.lane, one.error_code, one.upper_bound) for one in told} == {(lane, "worker_lost", True)}
    deleted = place.commands.run("replay", "delete", name, "--json")
    assert (deleted.code, f"{lane}.costs" in str(deleted.objects)) == (0, True), deleted.err
    assert place.booked(lane) == [("unknown", bound) for bound in bounds]
    spent = place.commands.run("costs", "--lane", lane, "--json").objects[-1]
    assert Decimal(spent["total"]["total_usd"]) == sum(bounds)


def test_what_a_run_paid_is_not_bought_again_after_it_was_deleted(place: Place) -> None:
    name = f"{place.lane}-deleted"
    options = ("--stage", "complete", "--since", "1h", "--sample", "0.4", "--set", "temperature=0.9")
    before = place.paid()
    ran = place.replay(*options, "--name", name)
    assert (ran.code, Decimal(ran.objects[0]["cost_usd"]) > 0) == (0, True), ran.err
    paid = place.paid()
    assert paid > before
    deleted = place.commands.run("replay", "delete", name, "--json")
    assert deleted.code == 0, deleted.err
    again = place.replay(*options, "--name", name)
    assert again.code == 0, again.err
    assert place.paid() == paid
    assert (Decimal(again.objects[0]["cost_usd"]), Decimal(again.objects[0]["avoided_usd"]) > 0) == (0, True)


def test_another_prompt_is_put_over_the_passages_of_then(place: Place) -> None:
    options = ("--stage", "complete", "--since", "1h", "--sample", "0.4")
    ran = place.replay(*options, "--set", f"prompt={place.prompt}@1")
    assert ran.code == 0, ran.err
    completions: list[Completion] = place.read(ran.objects[0]["lane"], "completions", Completion)
    assert 0 < len(completions) < EVENTS
    for one in completions:
        assert one.grounding.prompt_version == f"{place.prompt}@1"
        system = one.grounding.messages[0].content[0].text
        assert system is not None and "Lamps are lit at dusk." in (system.inline or "")
    missing = place.replay(*options, "--set", f"prompt={place.prompt}@9")
    assert (missing.code, f"there are {place.prompt}@1" in missing.err) == (2, True)
    model = place.replay(*options, "--set", "model=m9")
    assert (model.code, "there are m1" in model.err) == (2, True)


def test_a_field_that_old_events_lack_ends_the_run_and_is_supplied(place: Place) -> None:
    lane = f"{place.lane}o"
    old = Commands(place.stack, lane, place.commands.config.parent, KINDS, place.sections)
    events = [enrichment(f"{lane}-r{number}", "Why?", lane=lane, route="") for number in range(2)]
    record(old.settings, old.codec, lane, events)
    ran = place.commands.run("replay", "--stage", "complete", "--since", "1h", "--lane", lane, "--name", lane, "--json")
    assert (ran.code, ran.objects[0]["state"]) == (1, "failed")
    assert "admission.route is empty" in ran.objects[0]["reason"]
    resumed = place.commands.run("replay", "resume", lane, "--set", "admission.route=default", "--json")
    assert resumed.code == 0, resumed.err
    assert {
        one.grounding.prompt_version for one in place.read(f"replay-{ran.objects[0]['run']}", "completions", Completion)
    }


def test_enrichments_without_messages_end_the_run_and_are_asked_with_another_prompt(place: Place) -> None:
    lane = f"{place.lane}m"
    old = Commands(place.stack, lane, place.commands.config.parent, KINDS, place.sections)
    events = [enrichment(f"{lane}-r{number}", "Why?", lane=lane) for number in range(2)]
    bare = [replace(one, grounding=replace(one.grounding, messages=())) for one in events]
    record(old.settings, old.codec, lane, bare)
    options = ("--stage", "complete", "--since", "1h", "--lane", lane, "--json")
    ran = place.commands.run("replay", *options)
    assert (ran.code, ran.objects[0]["state"]) == (1, "failed")
    assert "grounding.messages is empty" in ran.objects[0]["reason"]
    assert "--set prompt=NAME@N" in ran.objects[0]["reason"]
    other = place.commands.run("replay", *options, "--set", f"prompt={place.prompt}@1")
    assert other.code == 0, other.err
    completions: list[Completion] = place.read(other.objects[0]["lane"], "completions", Completion)
    assert {one.grounding.prompt_version for one in completions} == {f"{place.prompt}@1"}
    assert len(completions) == len(bare)


def test_a_backfill_replaces_answers_but_not_those_that_were_corrected(place: Place) -> None:
    corrected, plain = f"{place.lane}-r0", f"{place.lane}-r1"
    asyncio.run(_answered(place, (corrected, plain), corrected))
    options = ("--stage", "complete", "--through", "filter", "--since", "1h", "--into", "live")
    asked = place.replay(*options)
    assert asked.code == 2
    assert f"1 answers in the lane {place.lane} get a new revision" in asked.err
    assert f"{EVENTS - 2} requests without one" in asked.err
    assert "left alone: 1 that consumers corrected" in asked.err
    ran = place.replay(*options, "--yes", "--name", f"{place.lane}-fill")
    assert ran.code == 0, ran.err
    view = ran.objects[0]
    assert [one["request_id"] for one in view["left_alone"]] == [corrected]
    answers: dict[str, Answer] = {one.meta.request_id: one for one in place.read(place.lane, "answers", Answer)}
    assert corrected not in answers
    assert len(answers) == EVENTS - 1
    found = answers[plain]
    assert (found.revision, found.meta.lane, found.meta.run) == (1, place.lane, view["run"])
    assert found.supersedes == f"first of {plain}"
    assert {answers[f"{place.lane}-r5"].revision} == {0}
    with psycopg.connect(place.stack.postgres_dsn) as connection:
        kept = connection.execute(
            "SELECT max(revision) FROM finals WHERE lane = %s AND request_id = ANY(%s) GROUP BY request_id ORDER BY 1",
            (place.lane, [corrected, plain]),
        ).fetchall()
    assert kept == [(0,), (1,)]
    # Its own revisions change nothing of what it takes when it is resumed.
    assert asyncio.run(_taken(place, view["run"])) == {corrected, plain}
    answered = {one.meta.request_id for one in answers.values() if one.status == "answered"}
    assert asyncio.run(_taken(place, "another")) == {corrected, *answered}


def test_a_run_from_enrich_to_the_answer_takes_the_prompt_along(place: Place) -> None:
    lane = f"{place.lane}e"
    source = Commands(place.stack, lane, place.commands.config.parent, (*KINDS, "admitted"), place.sections)
    events = []
    for number in range(3):
        one = enrichment(f"{lane}-r{number}", "Why?", lane=lane)
        request = replace(one.request, retrieval=Retrieval(enabled=False))
        events.append(Admitted(meta=replace(one.meta, stage="admit"), request=request, admission=one.admission))
    record(source.settings, source.codec, lane, events)
    options = ("--through", "filter", "--since", "1h", "--lane", lane, "--set", f"prompt={place.prompt}@1", "--json")
    # Nothing is recorded of what they were asked with: the longest prompt is taken.
    dry = place.commands.run("replay", "--stage", "enrich", *options, "--dry-run").objects[0]
    assert (dry["calls"]["m1"]["calls"], dry["not_recorded"], dry["embeddings"]["enrich"]["texts"]) == (3, 3, 0)
    assert 0 < Decimal(dry["calls"]["m1"]["likely_usd"]) <= Decimal(dry["calls"]["m1"]["most_usd"])
    ran = place.commands.run("replay", "--stage", "enrich", *options)
    assert ran.code == 0, ran.err
    view = ran.objects[0]
    assert [step["counts"].get("published") for step in view["steps"]] == [3, 3, 3, 3]
    answers: list[Answer] = place.read(view["lane"], "answers", Answer)
    assert {(one.status, one.prompt_version) for one in answers} == {("answered", f"{place.prompt}@1")}


async def _taken(place: Place, run: str) -> set[str]:
    """The answered ones, as a run sees them."""
    database = await Database.open(place.stack.postgres_dsn)
    config, now = RunConfig(where="status = answered or score.none > 2"), datetime.now(UTC)
    selection = Selection(config, database, source_lane=place.lane, run=run)
    batch = [
        (
            Entry(topic="t", partition=0, offset=number, time=now, key=b"", value=b"", headers=()),
            Incoming(record=one, meta=one.meta, raw=b"", appended_at=now),
        )
        for number, one in enumerate(place.events)
    ]
    takes = await selection.takes(batch)
    await database.close()
    return {incoming.meta.request_id for (_, incoming), yes in zip(batch, takes, strict=True) if yes}


async def _answered(place: Place, request_ids: tuple[str, ...], corrected: str) -> None:
    """Answers of then, one of them corrected by a consumer."""
    database, codec = await Database.open(place.stack.postgres_dsn), place.commands.codec
    for request_id in request_ids:
        meta = Meta(event_id=f"first of {request_id}", request_id=request_id, tenant="acme", lane=place.lane)
        answer = Answer(meta=meta, status="answered", text=Text(inline="old"))
        await PostgresFinality(database).claim(answer, codec.encode(answer))
    meta = Meta(event_id=f"told {corrected}", request_id=corrected, tenant="acme", lane=place.lane)
    value = codec.encode(Feedback(meta=meta, correction=Text(inline="better")))
    await database.execute(
        "INSERT INTO feedback (tenant, lane, event_id, request_id, digest, value) VALUES ('acme', %s, %s, %s, '', %s)",
        (place.lane, meta.event_id, corrected, value),
    )
    await database.close()
