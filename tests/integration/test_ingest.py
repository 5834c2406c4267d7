"""``headrace ingest`` and ``headrace prompt`` on the real broker, registry and Postgres."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from processors.embeddings import HashingEmbedder
from processors.event import Incoming
from processors.index import Index
from processors.passages_pg import PgPassages
from processors.postgres import Database
from schemas.codec import Codec
from schemas.files import event_schemas
from schemas.records import Control, Document
from schemas.registry import Registry
from streams.cli import build
from streams.reading import Entry, TopicReader
from streams.settings import Settings
from streams.topics import apply, compare, topic_name
from tests.support.settings import settings_for
from tests.support.stack import TestStack

pytestmark = pytest.mark.stack


@pytest.fixture
def settings(stack: TestStack, lane: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A lane with its topics, and an environment that points the command line at it."""
    settings = settings_for(stack)
    apply(settings, lane, compare(settings, lane, ["documents", "control"]))
    asyncio.run(Registry(stack.registry_url).register(event_schemas()))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    for name, value in {
        "STACK": "external",
        "KAFKA__BOOTSTRAP": stack.kafka_bootstrap,
        "REGISTRY__URL": stack.registry_url,
        "POSTGRES__DSN": stack.postgres_dsn,
        "EMBEDDINGS": settings.embeddings.model_dump_json(),
        "DEPLOYMENTS": json.dumps({"local": {"base_url": "http://127.0.0.1:9/v1", "model": "none"}}),
        "ROUTES": json.dumps({"default": {"deployment": "local"}}),
    }.items():
        monkeypatch.setenv(f"HEADRACE_{name}", value)
    return settings


def headrace(*arguments: str) -> Result:
    return CliRunner().invoke(build(list(arguments)), list(arguments))


def entries(settings: Settings, lane: str, kind: str) -> list[Entry]:
    with TopicReader(settings) as reader:
        places = reader.places([topic_name(settings.prefix, lane, kind)])
        return list(reader.read(reader.ends(places)))


def index(settings: Settings, lane: str) -> None:
    """What the index stage does with the lane's documents."""

    async def run() -> None:
        codec = await Codec.connect(settings.registry.url)
        database = await Database.open(settings.postgres.dsn.get_secret_value())
        stage = Index(PgPassages(database), HashingEmbedder())
        for entry in entries(settings, lane, "documents"):
            document = codec.decode(entry.value or b"", Document)
            incoming = Incoming(
                record=document,
                meta=document.meta,
                raw=b"",
                appended_at=entry.time,
                position=(entry.partition, entry.offset),
            )
            await stage(incoming)
        await database.close()

    asyncio.run(run())


def test_good_documents_are_published_and_bad_ones_are_named(settings: Settings, lane: str) -> None:
    Path("good.md").write_text("# Heading\n\nText.")
    Path("lines.jsonl").write_text('{"id": "one", "text": "first"}\n{oops\n')
    Path("bad.txt").write_bytes(b"\xff")
    Path("huge.txt").write_text("x" * 1_100_000)

    result = headrace("ingest", ".", "--tenant", lane, "--namespace", "docs", "--lane", lane, "--json")

    assert result.exit_code == 1, result.output
    report = json.loads(result.stdout)
    assert (report["published"], report["problems"], report["indexed"]) == (2, 3, None)
    by_file = {file["file"]: file["problems"] for file in report["files"]}
    assert by_file["good.md"] == []
    assert [problem["line"] for problem in by_file["lines.jsonl"]] == [2]
    assert "not published" in by_file["huge.txt"][0]["what"]
    assert "lines.jsonl, line 2: is not JSON" in result.stderr
    assert sorted((entry.key or b"").decode() for entry in entries(settings, lane, "documents")) == ["good.md", "one"]


def test_waiting_ends_when_the_index_holds_the_documents(settings: Settings, lane: str) -> None:
    Path("a.txt").write_text("Some text.")
    arguments = ("ingest", "a.txt", "--tenant", lane, "--lane", lane, "--wait", "--timeout", "0.5", "--json")

    before = headrace(*arguments)
    index(settings, lane)
    after = headrace(*arguments)

    assert before.exit_code == 1
    assert json.loads(before.stdout)["not_indexed"] == ["a.txt"]
    assert "not indexed after 0.5 s" in before.stderr
    assert after.exit_code == 0, after.output
    assert json.loads(after.stdout)["indexed"] == 1


def test_a_folder_without_documents_is_a_problem(settings: Settings, lane: str) -> None:
    result = headrace("ingest", ".", "--lane", lane)
    assert result.exit_code == 1
    assert "holds no file that is read" in result.stderr


def test_a_pushed_prompt_is_stored_and_made_live(settings: Settings, lane: str) -> None:
    Path("support.j2").write_text("For {{ product }}.\n{{ passages | numbered }}")
    arguments = ("prompt", "push", "support.j2", "--name", lane, "--lane", lane, "--reason", "why", "--json")

    first, again = headrace(*arguments), headrace(*arguments, "--no-activate")

    assert first.exit_code == again.exit_code == 0, first.output
    pushed = json.loads(first.stdout)
    assert (pushed["prompt"], pushed["variables"], pushed["live"]) == (f"{lane}@1", ["product"], True)
    assert json.loads(again.stdout)["version"] == 1
    [entry] = entries(settings, lane, "control")
    codec = asyncio.run(Codec.connect(settings.registry.url))
    control = codec.decode(entry.value or b"", Control)
    assert (control.kind, control.name, control.version, control.reason) == ("prompt", lane, "1", "why")
    assert control.digest == pushed["digest"]

    shown = headrace("prompt", "show", f"{lane}@1")
    assert shown.stdout == "For {{ product }}.\n{{ passages | numbered }}\n"
    assert headrace("prompt", "show", f"{lane}@2").exit_code == 1
    listed = [json.loads(line) for line in headrace("prompt", "list", "--json").stdout.splitlines()]
    assert {f"{lane}@1", "answer@1"} <= {prompt["prompt"] for prompt in listed}


def test_a_broken_template_is_not_stored(settings: Settings, lane: str) -> None:
    Path("broken.j2").write_text("fine\n{{ product")
    result = headrace("prompt", "push", "broken.j2", "--name", lane, "--lane", lane)
    assert "broken.j2, line 2" in str(result.exception)
    assert not entries(settings, lane, "control")
    assert headrace("prompt", "show", lane).exit_code == 1
