"""``headrace ingest`` and ``headrace prompt`` on the real broker, registry and Postgres."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

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


def by_file(result: Result) -> dict[str, dict[str, Any]]:
    return {one["file"]: one for one in map(json.loads, result.stdout.splitlines())}


def test_good_documents_are_published_and_bad_ones_are_named(
    settings: Settings, lane: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADRACE_BODIES__MAX_BYTES", "2000000")
    Path("good.md").write_text("# Heading\n\nText.")
    Path("lines.jsonl").write_text('{"id": "one", "text": "first"}\n{oops\n')
    Path("bad.txt").write_bytes(b"\xff")
    # Over the topic's limit, so by reference; and over the most that is taken at all.
    Path("large.jsonl").write_text(json.dumps({"id": "large", "text": "x" * 1_100_000}))
    Path("huge.jsonl").write_text(json.dumps({"id": "huge", "text": "x" * 2_100_000}))
    Path("other.bin").write_bytes(b"x")

    result = headrace("ingest", ".", "--tenant", lane, "--namespace", "docs", "--lane", lane, "--json")

    assert result.exit_code == 1, result.output
    files = by_file(result)
    assert {name: (one["status"], one["published"]) for name, one in files.items()} == {
        "bad.txt": ("failed", 0),
        "good.md": ("published", 1),
        "huge.jsonl": ("failed", 0),
        "large.jsonl": ("published", 1),
        "lines.jsonl": ("partial", 1),
    }
    assert files["good.md"]["problems"] == [] and files["good.md"]["indexed"] is None
    assert [problem["line"] for problem in files["lines.jsonl"]["problems"]] == [2]
    assert "not published" in files["huge.jsonl"]["problems"][0]["what"]
    assert "lines.jsonl, line 2: is not JSON" in result.stderr
    assert sorted((entry.key or b"").decode() for entry in entries(settings, lane, "documents")) == [
        "good.md",
        "large",
        "one",
    ]


def test_waiting_ends_when_the_index_holds_the_documents(settings: Settings, lane: str) -> None:
    Path("a.txt").write_text("Some text.")
    arguments = ("ingest", "a.txt", "--tenant", lane, "--lane", lane, "--wait", "--json", "--timeout")

    before = headrace(*arguments, "0.5")
    index(settings, lane)
    after = headrace(*arguments, "60")

    assert before.exit_code == 1
    assert by_file(before)["a.txt"]["not_indexed"] == ["a.txt"]
    assert "not indexed after 0.5 s" in before.stderr
    assert after.exit_code == 0, after.output
    assert (by_file(after)["a.txt"]["status"], by_file(after)["a.txt"]["indexed"]) == ("indexed", 1)


def test_a_folder_without_documents_is_a_problem(settings: Settings, lane: str) -> None:
    Path("x.bin").write_bytes(b"x")
    result = headrace("ingest", ".", "--lane", lane)
    assert result.exit_code == 1
    assert "holds no file that is read (1 file of other kinds)" in result.stderr


def test_an_address_that_is_no_page_is_bad_usage(settings: Settings, lane: str) -> None:
    result = headrace("ingest", "file:///etc/passwd", "--lane", lane)
    assert "file:// is not read" in str(result.exception)
    assert not entries(settings, lane, "documents")


def test_a_part_that_is_refused_keeps_all_parts_back(
    settings: Settings, lane: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streams.loading.parts.cut", lambda text: ["short", "x" * 1_100_000])
    Path("a.txt").write_text("x")
    result = headrace("ingest", "a.txt", "--lane", lane, "--json")
    assert (result.exit_code, by_file(result)["a.txt"]["status"]) == (1, "failed")
    assert not entries(settings, lane, "documents")


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
