"""Replays of enrich on the stack: what embeddings cost is told, limited and paid once; the index of then is read."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest

from processors.embeddings import EmbeddingPolicy, OpenAIEmbedder
from processors.event import Incoming
from processors.index import Index
from processors.passages_pg import PgPassages
from processors.postgres import Database
from schemas.records import Admitted, Cost, Document, Enrichment, Meta, Text
from streams.settings import load_settings
from tests.provider.process import ProviderProcess
from tests.support.commands import Commands, Ran
from tests.support.enrichments import enrichment
from tests.support.polling import eventually
from tests.support.replaying import entries, record
from tests.support.stack import TestStack

pytestmark = pytest.mark.stack
KINDS = ("admitted", "enrichments.normal", "enrichments.high", "enrichments.low", "answers", "control", "costs")
EVENTS = 24
SECTIONS = """
[embeddings]
base_url = "{provider}"
model = "e1"
price = 1000
[deployments.local]
base_url = "{provider}"
model = "m1"
price = {{ prompt = 1000, completion = 1000 }}
default_max_tokens = 64
[routes.default]
deployment = "local"
k = 1
minimum_score = -1
"""
OLD, NEW = "Lamps are lit at dusk.", "Lamps are lit at noon."


class Place:
    """A lane with admitted requests, an index, a provider whose embeddings have a price, and the command line."""

    def __init__(self, stack: TestStack, lane: str, folder: Path) -> None:
        self.stack, self.lane = stack, lane
        self.provider = ProviderProcess(folder / "calls.jsonl")
        sections = SECTIONS.format(provider=self.provider.base_url)
        self.commands = Commands(stack, lane, folder, KINDS, sections)
        self.settings = load_settings(self.commands.config)
        self.offset = 0
        self.events = []
        for number in range(EVENTS):
            one = enrichment(f"{lane}-r{number}", f"When are the lamps of house {number} lit?", lane=lane, tenant=lane)
            self.events.append(
                Admitted(meta=replace(one.meta, stage="admit"), request=one.request, admission=one.admission)
            )
        record(self.commands.settings, self.commands.codec, lane, self.events)
        asyncio.run(self.document(OLD))

    async def document(self, text: str) -> None:
        """Have the one document of the lane's tenant say this."""
        database = await Database.open(self.stack.postgres_dsn)
        embedder = OpenAIEmbedder(
            EmbeddingPolicy(model="e1", dimension=384), base_url=self.provider.base_url, api_key="none"
        )
        self.offset += 1
        meta = Meta(event_id=f"d{self.offset}", request_id="", tenant=self.lane, lane=self.lane)
        document = Document(meta=meta, document_id="d", namespace="default", body=Text(inline=text))
        at = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self.offset)
        incoming = Incoming(record=document, meta=meta, raw=b"", appended_at=at, position=(0, self.offset))
        await Index(PgPassages(database), embedder)(incoming)
        await embedder.close()
        await database.close()

    def replay(self, *options: str) -> Ran:
        return self.commands.run("replay", *options, "--since", "1h", "--lane", self.lane, "--json")

    def read(self, lane: str, kind: str, record: type[Any]) -> list[Any]:
        found = entries(self.commands.settings, lane, kind)
        return [self.commands.codec.decode(entry.value or b"", record) for entry in found]

    def texts(self) -> int:
        """Texts that the provider has embedded."""
        with urllib.request.urlopen(f"{self.provider.url}/calls") as reply:
            return int(json.load(reply)["texts"])

    def rows(self, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.stack.postgres_dsn) as connection:
            return connection.execute(statement, parameters).fetchall()  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def place(stack: TestStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    started = Place(stack, f"t{os.urandom(4).hex()}", tmp_path_factory.mktemp("replay"))
    yield started
    started.provider.stop()


def test_a_run_stops_before_its_embeddings_pass_the_limit_and_a_killed_one_pays_for_none_twice(place: Place) -> None:
    before = place.texts()
    dry = place.replay("--stage", "enrich", "--dry-run")
    assert dry.code == 0, dry.err
    embeddings = dry.objects[0]["embeddings"]["enrich"]
    most = Decimal(embeddings["most_usd"])
    assert (embeddings["texts"], place.texts()) == (EVENTS, before)
    assert 0 < Decimal(embeddings["likely_usd"]) < most

    # Room for some of them at their bounds.
    limit, name = most / 8, f"{place.lane}-paid"
    ran = place.replay("--stage", "enrich", "--max-cost", f"{limit:f}", "--name", name)
    assert ran.code == 1, ran.err
    view = ran.objects[0]
    assert (view["state"], "--max-cost" in view["reason"], view["stages"]) == ("stopped", True, ["enrich", "account"])
    first = place.texts() - before
    assert 0 < first < EVENTS
    assert 0 < Decimal(view["cost_usd"]) <= limit
    told = place.read(view["lane"], "costs", Cost)
    assert sum(one.amount_usd for one in told) == Decimal(view["cost_usd"])

    # A kill while embeddings are bought, before anything of it is noted.
    command = [sys.executable, "-c", _SLOW, "replay", "resume", name, "--max-cost", "1000", "--json"]
    with subprocess.Popen(command, env=place.commands.environment, stdout=subprocess.DEVNULL) as process:
        eventually(lambda: place.texts() - before > first, "it goes on", timeout_s=120)
        bought = "SELECT count(*) FROM spends WHERE lane = %s AND state = 'closed'"
        eventually(lambda: place.rows(bought, view["lane"])[0][0] > first, "a reply is booked", timeout_s=120)
        process.send_signal(signal.SIGKILL)
    open_ = place.rows("SELECT count(*) FROM spends WHERE lane = %s AND state = 'open'", view["lane"])[0][0]
    resumed = place.commands.run("replay", "resume", name, "--json")
    assert resumed.code == 0, resumed.err
    done = resumed.objects[0]
    assert done["steps"][0]["counts"] == {"published": EVENTS}
    assert place.texts() - before <= EVENTS + open_, "what came back is never bought again"

    enrichments = place.read(view["lane"], "enrichments.normal", Enrichment)
    assert Counter(one.meta.request_id for one in enrichments) == Counter(one.meta.request_id for one in place.events)
    told = place.read(view["lane"], "costs", Cost)
    ids = [one.meta.event_id for one in told]
    assert len(ids) == len(set(ids)) == EVENTS + open_
    assert {(one.meta.lane, one.meta.run, one.purpose, one.team) for one in told} == {
        (view["lane"], view["run"], "embedding", "search")
    }
    spent = sum(one.amount_usd for one in told)
    assert spent == Decimal(done["cost_usd"])
    ledger = place.commands.run("costs", "--lane", view["lane"], "--json").objects[-1]
    assert Decimal(ledger["total"]["total_usd"]) == spent

    # Another run finds what this one bought.
    paid = place.texts()
    again = place.replay("--stage", "enrich")
    assert again.code == 0, again.err
    assert (place.texts(), Decimal(again.objects[0]["cost_usd"])) == (paid, 0)

    # Also once it is deleted.
    deleted = place.commands.run("replay", "delete", name, "--json")
    assert deleted.code == 0, deleted.err
    last = place.replay("--stage", "enrich")
    assert last.code == 0, last.err
    assert (place.texts(), Decimal(last.objects[0]["cost_usd"])) == (paid, 0)


# Calls of a few texts each, and nothing noted before long.
_SLOW = """
import asyncio, streams.replay.runs as runs, streams.replay.work as work
from processors.spending.postgres import PostgresSpends
from streams.cli import main
work.CONCURRENCY = {**work.CONCURRENCY, "enrich": 3}
close = PostgresSpends.close
async def slow(*arguments):
    await close(*arguments)
    await asyncio.sleep(1.0)
PostgresSpends.close = slow
main()
"""


def test_the_index_of_then_is_searched_and_one_that_is_gone_is_named(place: Place) -> None:
    first = place.replay("--stage", "enrich", "--sample", "0.5")
    assert first.code == 0, first.err
    then: list[Enrichment] = place.read(first.objects[0]["lane"], "enrichments.normal", Enrichment)
    # As live would have recorded them.
    recorded = [replace(one, meta=replace(one.meta, lane=place.lane, run="")) for one in then]
    record(place.commands.settings, place.commands.codec, place.lane, recorded)
    asyncio.run(place.document(NEW))

    options = ("--stage", "enrich", "--sample", "0.5")
    today = place.replay(*options)
    past = place.replay(*options, "--set", "index=recorded")
    assert (today.code, past.code) == (0, 0), past.err
    for ran, text in ((today, NEW), (past, OLD)):
        made: list[Enrichment] = place.read(ran.objects[0]["lane"], "enrichments.normal", Enrichment)
        assert {one.grounding.passages[0].text.inline for one in made} == {text}
        assert {one.grounding.index_as_of is not None for one in made} == {text == OLD}
    report = place.commands.run(
        "replay", "diff", past.objects[0]["run"], "--against", today.objects[0]["run"], "--json"
    )
    assert report.code == 0, report.err
    version = then[0].grounding.index_version
    [group] = report.objects[0]["groups"]["index"]
    assert (group["name"], group["pairs"]) == (f"{version} → {version} (as of then)", len(then))

    # The calls of a later stage are priced by what is recorded, and by the most that may be retrieved.
    dry = place.replay(*options, "--through", "complete", "--dry-run")
    assert dry.code == 0, dry.err
    calls = dry.objects[0]["calls"]["m1"]
    assert (calls["calls"], dry.objects[0]["not_recorded"]) == (len(then), 0)
    assert 0 < Decimal(calls["likely_usd"]) < Decimal(calls["most_usd"])
    whole = place.replay("--stage", "enrich", "--through", "complete", "--dry-run").objects[0]
    assert (whole["calls"]["m1"]["calls"], whole["not_recorded"]) == (EVENTS, EVENTS - len(then))

    # Nobody has the enrichments of the others, which a dry run tells before.
    look = ("--stage", "enrich", "--dry-run", "--set")
    assert place.replay(*look, "index=recorded").objects[0]["index"] == {
        version: len(then),
        "gone": EVENTS - len(then),
    }
    unknown = place.replay("--stage", "enrich", "--set", "index=recorded")
    assert (unknown.code, unknown.objects[0]["state"]) == (1, "failed")
    assert "no enrichment of it is recorded" in unknown.objects[0]["reason"]
    mixed = place.replay("--stage", "enrich", "--set", "index=recorded-or-today")
    assert mixed.code == 0, mixed.err
    made = place.read(mixed.objects[0]["lane"], "enrichments.normal", Enrichment)
    assert Counter(one.grounding.passages[0].text.inline for one in made) == {OLD: len(then), NEW: EVENTS - len(then)}
    early = place.replay("--stage", "enrich", "--set", "index=2020-01-01T00:00")
    assert (early.code, "is kept since" in early.err) == (2, True)
