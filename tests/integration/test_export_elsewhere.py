"""An export is loaded beside another database, and replayed there with the prompts that its events name."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from confluent_kafka import Producer

from infra import migrate
from processors.postgres import Database
from processors.prompts import PgPrompts, StoredPrompt, digest_of
from schemas.errors import ConfigurationError
from schemas.records import Admitted, Answer, Completion, Control, Document, Meta, Retrieval, Text
from streams.exporting.formats import read_rows
from streams.reading import TopicReader
from streams.topics import topic_name
from tests.provider.process import ProviderProcess
from tests.support.catalogue import Catalogue, catalogue, checked
from tests.support.commands import NO_EMBEDDINGS, Commands, Ran, config_toml, run_headrace
from tests.support.enrichments import enrichment
from tests.support.recorded import answered
from tests.support.replaying import entries, record
from tests.support.stack import TestStack

pytestmark = pytest.mark.stack
KINDS = ("admitted", "enrichments.normal", "control", "answers", "documents")
COUNT = 3
FIRST, SECOND = "First.\n{{ passages | numbered }}", "Second, and brief.\n{{ passages | numbered }}"
SECTIONS = (
    NO_EMBEDDINGS
    + """
[deployments.local]
base_url = "{provider}"
model = "m1"
price = {{ prompt = 0, completion = 0 }}
[routes.default]
deployment = "local"
prompt = "{prompt}"
[lineage]
url = "{lineage}"
timeout_s = 60
"""
)


class Place:
    """A lane, and another database beside it, each with its own settings."""

    def __init__(self, stack: TestStack, folder: Path, elsewhere: str, lineage: Catalogue) -> None:
        self.stack, self.folder, self.lane = stack, folder, f"x{secrets.token_hex(4)}"
        self.catalogue = lineage
        self.provider = ProviderProcess(folder / "calls.jsonl")
        self.commands = Commands(stack, self.lane, folder, KINDS)
        self.prompt, self.elsewhere = f"{self.lane}p", elsewhere
        self.here = self._config("here.toml", stack.postgres_dsn)
        self.there = self._config("there.toml", elsewhere)
        asyncio.run(self._push())
        self._record()

    def _config(self, name: str, dsn: str) -> dict[str, str]:
        path = self.folder / name
        values = {"provider": self.provider.base_url, "prompt": self.prompt, "lineage": self.catalogue.url}
        path.write_text(config_toml(self.stack, SECTIONS.format(**values), dsn=dsn))
        return {"HEADRACE_CONFIG": str(path)}

    async def _push(self) -> None:
        database = await Database.open(self.stack.postgres_dsn)
        for name in (self.prompt, f"{self.prompt}-unused"):
            for text in (FIRST, SECOND):
                await PgPrompts(database).push(name, text)
        await database.close()

    def _record(self) -> None:
        live = Control(
            meta=Meta(event_id="c", request_id="", tenant="", lane=self.lane),
            kind="prompt",
            name=self.prompt,
            version="2",
            digest=digest_of(SECOND),
        )
        events: list[Any] = [live]
        for number in range(COUNT):
            one = enrichment(f"{self.lane}-r{number}", "Why?", lane=self.lane)
            meta = replace(one.meta, control_offset=0)
            request = replace(one.request, retrieval=Retrieval(enabled=False))
            events.append(Admitted(meta=replace(meta, stage="admit"), request=request, admission=one.admission))
            grounding = replace(
                one.grounding,
                prompt_name=self.prompt,
                prompt_version=f"{self.prompt}@1",
                prompt_digest=digest_of(FIRST),
            )
            events.append(replace(one, meta=meta, grounding=grounding))
        record(self.commands.settings, self.commands.codec, self.lane, events)

    def export(self, to: str, *more: str, lane: str = "") -> tuple[Path, dict[str, Any]]:
        path = self.folder / to
        options = ("--lane", lane or self.lane, "--to", str(path), "--format", "jsonl", "--json", *more)
        ran = run_headrace("export", *options, environment=self.here)
        assert ran.code == 0, ran.err
        return path, ran.objects[0]

    def load(self, export: Path, lane: str, *more: str, here: bool = False) -> Ran:
        environment = self.here if here else self.there
        return run_headrace("import", str(export), "--lane", lane, "--json", *more, environment=environment)

    def topics(self, lane: str) -> list[str]:
        with TopicReader(self.commands.settings) as reader:
            return [name for name in reader.everything() if name.startswith(f"{lane}.")]


@pytest.fixture(scope="module")
def place(stack: TestStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    name = f"elsewhere_{secrets.token_hex(4)}"
    with psycopg.connect(stack.postgres_dsn, autocommit=True) as connection, catalogue() as lineage:
        connection.execute(f"CREATE DATABASE {name}")  # type: ignore[call-overload]
        dsn = stack.postgres_dsn.rsplit("/", 1)[0] + f"/{name}"
        migrate.apply(dsn)
        started = Place(stack, tmp_path_factory.mktemp("elsewhere"), dsn, lineage)
        yield started
        started.provider.stop()
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")  # type: ignore[call-overload]


def test_a_replay_elsewhere_has_the_prompts_that_were_recorded(place: Place) -> None:
    export, told = place.export("whole", "--since", "1h")
    lines = [json.loads(line) for line in (export / "prompts.jsonl").read_text().splitlines()]
    # What the events name and what was live; not what nobody used.
    assert [(one["name"], one["version"]) for one in lines] == [(place.prompt, 1), (place.prompt, 2)]
    assert told["records"]["prompts"] == 2 and told["prompts_missing"] == []
    _, every = place.export("prompts", "--kind", "prompts")
    assert every["records"]["prompts"] >= 5 and set(every["records"]) == {"prompts"}

    lane = f"{place.lane}there"
    with psycopg.connect(place.elsewhere, autocommit=True) as connection:
        row = (place.prompt, 1, digest_of("Mine."), "Mine.")
        connection.execute("INSERT INTO prompts (name, version, digest, template) VALUES (%s, %s, %s, %s)", row)
        refused = place.load(export, lane)
        assert (refused.code, f"{place.prompt}@1 has another text here" in refused.err) == (2, True)
        assert place.topics(lane) == [], "nothing is loaded then"
        kept = connection.execute("SELECT template FROM prompts WHERE name = %s", (place.prompt,)).fetchall()
        assert kept == [("Mine.",)], "and nothing is overwritten"
        connection.execute("DELETE FROM prompts WHERE name = %s", (place.prompt,))
    alone = place.load(export, lane, "--without-prompts")
    assert (alone.code, alone.objects[0]["prompts"]) == (0, 0), alone.err
    ran = place.load(export, lane)
    assert ran.code == 0, ran.err
    # The events are there already.
    assert (ran.objects[0]["prompts"], ran.objects[0]["loaded"]) == (2, 0)
    assert place.load(export, lane).objects[0]["prompts"] == 0

    options = ("--through", "filter", "--since", "1h", "--lane", lane, "--json")
    # As recorded: the route's prompt, in the version that was live under each event's control offset.
    plain = run_headrace("replay", "--stage", "enrich", *options, environment=place.there)
    assert plain.code == 0, plain.out + plain.err
    found = _completions(place, plain)
    assert [one.grounding.prompt_version for one in found] == [f"{place.prompt}@2"] * COUNT
    assert all("Second, and brief." in _system(one) for one in found)
    other = run_headrace(
        "replay", "--stage", "complete", "--set", f"prompt={place.prompt}@1", *options, environment=place.there
    )
    assert other.code == 0, other.out + other.err
    assert {one.grounding.prompt_digest for one in _completions(place, other)} == {digest_of(FIRST)}
    status = run_headrace(
        "replay", "--stage", "complete", "--where", "status = answered", *options, environment=place.there
    )
    assert (status.code, "no final answers of the lane" in status.err) == (2, True)
    _check_lineage(place, export, told["digest"], plain)


def _system(one: Completion) -> str:
    text = one.grounding.messages[0].content[0].text
    return "" if text is None else text.inline or ""


def _completions(place: Place, ran: Ran) -> list[Completion]:
    found = entries(place.commands.settings, ran.objects[0]["lane"], "completions")
    return [place.commands.codec.decode(entry.value or b"", Completion) for entry in found]


def _check_lineage(place: Place, export: Path, digest: str, ran: Ran) -> None:
    """What was told meanwhile: the export and the import meet in the digest, and the run is told from end to end."""
    bodies = [checked(body) for body in place.catalogue.bodies]
    ended = [body for body in bodies if body["eventType"] == "COMPLETE"]
    [exported] = [
        body
        for body in ended
        if body["job"]["name"] == f"{place.lane}.export" and body["outputs"][0]["name"] == str(export)
    ]
    assert exported["outputs"][0]["facets"]["version"]["datasetVersion"] == digest
    sources = {one["name"]: one["inputFacets"] for one in exported["inputs"]}
    assert sources[f"{place.lane}.admitted"]["inputStatistics"]["rowCount"] == COUNT
    imports = [body for body in bodies if body["job"]["name"] == f"{place.lane}there.import"]
    assert {body["inputs"][0]["facets"]["version"]["datasetVersion"] for body in imports} == {digest}
    assert {body["eventType"] for body in imports} == {"START", "COMPLETE", "FAIL"}
    view = ran.objects[0]
    run = [body for body in bodies if body["run"]["facets"].get("headrace_replay", {}).get("run") == view["run"]]
    assert [body["eventType"] for body in run] == ["START", "COMPLETE"]
    assert {one["name"] for one in run[1]["inputs"]} == {f"{place.lane}there.admitted"}
    counts = {one["name"]: one["outputFacets"].get("outputStatistics", {}).get("rowCount") for one in run[1]["outputs"]}
    assert counts[f"{view['lane']}.answers"] == COUNT
    shown = run_headrace("replay", "lineage", view["run"], "--send", environment=place.there)
    assert shown.code == 0, shown.err
    assert [(one["eventType"], one["run"]["runId"]) for one in shown.objects] == [
        (body["eventType"], body["run"]["runId"]) for body in run
    ]
    assert len(place.catalogue.of(run[0]["run"]["runId"])) == 4
    # A catalogue that refuses fails nothing.
    place.catalogue.status = 500
    again = run_headrace("export", "--lane", place.lane, "--to", str(place.folder / "quiet"), environment=place.here)
    assert again.code == 0 and again.err.count("was not taken") == 1
    place.catalogue.status = 201


def test_what_was_erased_or_removed_does_not_come_back(place: Place) -> None:
    lane = f"{place.lane}e"
    commands = Commands(place.stack, lane, place.folder, KINDS)
    answers = [answered(lane, f"r-{number}", datetime.now(UTC))["answers"] for number in range(2)]
    documents = [_document(lane, name) for name in ("kept", "nulled", "gone")]
    record(commands.settings, commands.codec, lane, [*answers, *documents])
    producer = Producer({"bootstrap.servers": commands.settings.kafka.bootstrap, "partitioner": "murmur2_random"})
    headers = [("headrace-tenant", b"acme"), ("headrace-namespace", b"default")]
    producer.produce(topic_name("", lane, "documents"), key=b"nulled", value=None, headers=headers)
    assert producer.flush(60) == 0
    before, told = place.export("before", lane=lane)
    assert (told["records"]["documents"], told["rejected"], told["erased"]) == (4, {}, 0)

    sealed = run_headrace("audit", "seal", "--lane", lane, environment=place.here)
    assert sealed.code == 0, sealed.err
    [one] = [entry for entry in entries(commands.settings, lane, "answers") if entry.key == b"r-0"]
    where = f"{one.topic}-{one.partition}@{one.offset}"
    noted = run_headrace("audit", "tombstone", where, "--reason", "asked for", environment=place.here)
    assert noted.code == 0, noted.err
    after, told = place.export("after", lane=lane)
    assert (told["records"]["answers"], told["erased"]) == (1, 1)
    with psycopg.connect(place.stack.postgres_dsn, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO documents (tenant, namespace, document_id, digest, content_digest, index_version, title, uri,"
            ' passage_count, deleted, lane, partition, "offset", appended_at)'
            " VALUES (%s, 'default', 'gone', '', '', '', '', '', 0, true, %s, 0, 9, now())",
            (f"{lane}t", lane),
        )
    loaded = place.load(before, f"{lane}copy", here=True)
    assert loaded.code == 0, loaded.err
    assert loaded.objects[0]["erased"] == 3
    kept = entries(commands.settings, f"{lane}copy", "answers")
    assert [entry.key for entry in kept] == [b"r-1"]
    found = [
        commands.codec.decode(entry.value or b"", Document)
        for entry in entries(commands.settings, f"{lane}copy", "documents")
    ]
    assert {(document.document_id, document.deleted) for document in found} == {("kept", False), ("nulled", True)}
    # Another cluster knows of no tombstone unless it is told.
    seals = place.folder / "seals.jsonl"
    printed = run_headrace("audit", "seals", "export", "--lane", lane, "--to", str(seals), environment=place.here)
    assert printed.code == 0, printed.err
    told_so = place.load(before, f"{lane}far", "--erased", str(seals))
    assert told_so.code == 0, told_so.err
    assert [entry.key for entry in entries(commands.settings, f"{lane}far", "answers")] == [b"r-1"]
    [part] = (after / "answers").iterdir()
    rows = list(read_rows("jsonl", Answer, part))
    assert [place_["_key"] for place_, _ in rows] == [b"r-1"]


def _document(lane: str, name: str) -> Document:
    # A tenant of the test's own: documents are of no lane.
    tenant = "acme" if name == "nulled" else f"{lane}t"
    meta = Meta(event_id=f"{lane}-{name}", request_id="", tenant=tenant, lane=lane)
    return Document(meta=meta, document_id=name, body=Text(inline=f"The text of {name}."))


async def test_postgres_keeps_loaded_versions_as_they_were(place: Place) -> None:
    database = await Database.open(place.stack.postgres_dsn)
    store, name, made = PgPrompts(database), f"{place.lane}-loaded", datetime(2026, 1, 2, tzinfo=UTC)

    def one(version: int, text: str) -> StoredPrompt:
        return StoredPrompt(name=name, version=version, digest=digest_of(text), text=text, created_at=made)

    assert await store.load([one(3, "Three"), one(5, "Five")]) == 2
    assert await store.get(name, 5) == one(5, "Five")
    assert await store.push(name, "Six") == 6
    with pytest.raises(ConfigurationError, match=f"{name}@4 is {name}@3 here"):
        await store.load([one(4, "Three"), one(7, "Seven")])
    assert await store.show(name, 7) is None
    await database.close()
