"""``headrace export`` and ``headrace import`` on the real broker: there and back, once each."""

from __future__ import annotations

import json
import secrets
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

from schemas.errors import DependencyDownError
from schemas.record import Record
from schemas.records import Answer
from streams.exporting.formats import read_rows
from streams.exporting.load import Loader
from streams.exporting.manifest import read_manifest
from streams.opened import Opener
from streams.publish import Publisher
from streams.reading import Entry, TopicReader
from streams.topics import topic_name
from tests.support.commands import Commands
from tests.support.recorded import answered
from tests.support.stack import TestStack

pytestmark = pytest.mark.stack
KINDS = ("requests", "admitted", "enrichments.normal", "completions", "answers", "costs")
COUNT = 6


@pytest.fixture
def commands(stack: TestStack, lane: str, tmp_path: Path) -> Commands:
    commands = Commands(stack, lane, tmp_path, KINDS)
    publisher = Publisher(commands.settings, commands.codec, lane=commands.lane)
    for number in range(COUNT):
        for kind, record in answered(lane, f"r-{number}", datetime.now(UTC)).items():
            publisher.publish(kind, record, f"r-{number}")
    assert publisher.flush() == []
    return commands


def entries(commands: Commands, lane: str, kind: str) -> list[Entry]:
    with TopicReader(commands.settings) as reader:
        return list(reader.read(reader.ends(reader.places([topic_name("", lane, kind)]))))


def records(commands: Commands, lane: str, kind: str) -> dict[str, Record | None]:
    opener = Opener(commands.codec, prefix="", lane=lane)
    found = {}
    for entry in entries(commands, lane, kind):
        opened = opener.open(entry)
        if opened.meta is not None:
            found[opened.meta.event_id] = opened.record
    return found


def export(commands: Commands, to: Path, *more: str, code: int = 0) -> dict[str, Any]:
    ran = commands.run("export", "--lane", commands.lane, "--to", str(to), "--json", *more)
    assert ran.code == code, ran.err
    return ran.objects[0] if code == 0 else {"err": ran.err}


def load(commands: Commands, export_: Path, lane: str, *, code: int = 0) -> dict[str, Any]:
    ran = commands.run("import", str(export_), "--lane", lane, "--json")
    assert ran.code == code, ran.err
    return ran.objects[0] if code == 0 else {"err": ran.err}


def test_a_lane_is_exported_and_loaded_into_another_once_however_often(
    commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    producer = Producer({"bootstrap.servers": commands.settings.kafka.bootstrap})
    producer.produce(topic_name("", commands.lane, "admitted"), key=b"r-x", value=b"no avro")
    assert producer.flush(20) == 0
    to = tmp_path / "export"
    told = export(commands, to, "--since", "1h")
    assert told["records"]["answers"] == told["records"]["requests"] == COUNT
    assert told["rejected"] == {"admitted": 1}
    (rejected,) = (to / "admitted.rejected.jsonl").read_text().splitlines()
    assert json.loads(rejected)["key"] == "ci14"
    # Nothing is left beside it.
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".part")]
    manifest = read_manifest(to)
    assert manifest.digest == told["digest"]
    (part,) = [part for part in manifest.parts if part.kind == "answers"]
    rows = list(read_rows("parquet", Answer, to / part.path))
    assert {record.meta.event_id for _, record in rows} == set(records(commands, commands.lane, "answers"))  # type: ignore[attr-defined]

    lane = f"import{secrets.token_hex(4)}"
    # The first try breaks off in the middle.
    with monkeypatch.context() as patched:
        whole, seen = Loader._send, []

        def breaks(self: Loader, *arguments: Any) -> None:
            seen.append(arguments)
            if len(seen) > COUNT * 3:
                raise DependencyDownError("kafka", "gone")
            whole(self, *arguments)

        patched.setattr(Loader, "_send", breaks)
        assert "gone" in load(commands, to, lane, code=1)["err"]
    total = sum(part.records for part in manifest.parts)
    done = load(commands, to, lane)
    assert done["loaded"] + done["there"] == total and done["there"] > 0
    for kind in KINDS:
        assert records(commands, lane, kind) == records(commands, commands.lane, kind)
        assert len(entries(commands, lane, kind)) == COUNT
    assert load(commands, to, lane)["loaded"] == 0
    # Keys lie where ours lie, with the headers that they had.
    before = {entry.key: entry for entry in entries(commands, commands.lane, "answers")}
    for entry in entries(commands, lane, "answers"):
        assert entry.partition == before[entry.key].partition
        assert entry.headers[:-1] == before[entry.key].headers

    part_file = to / part.path
    part_file.write_bytes(part_file.read_bytes() + b"x")
    assert "is not the file that was exported" in load(commands, to, lane, code=2)["err"]


def test_what_can_not_be_done_is_refused_and_leaves_nothing(commands: Commands, tmp_path: Path) -> None:
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine").write_text("")
    assert "not empty" in export(commands, full, code=2)["err"]
    assert "none of" in export(commands, tmp_path / "x", "--kind", "answer", code=2)["err"]
    assert "none of" in export(commands, tmp_path / "x", "--format", "csv", code=2)["err"]
    assert (
        "nothing can lie between" in export(commands, tmp_path / "x", "--since", "1h", "--until", "2h", code=2)["err"]
    )
    ran = commands.run("export", "--lane", "nowhere", "--to", str(tmp_path / "x"))
    assert ran.code == 2 and "none of these topics" in ran.err
    assert not (tmp_path / "x").exists()
    assert "name the folder of an export" in load(commands, tmp_path / "x", "elsewhere", code=2)["err"]
    to = tmp_path / "future"
    told = export(commands, to, "--kind", "answers", "--format", "jsonl", "--until", "1h", "--since", "2h")
    assert told["records"] == {"answers": 0} and told["parts"] == []
    assert "live is production" in load(commands, to, "live", code=2)["err"]
    manifest = to / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"answers": 0', '"answers": 1'))
    assert "it was altered" in load(commands, to, "elsewhere", code=2)["err"]
