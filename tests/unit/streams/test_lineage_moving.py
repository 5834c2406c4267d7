"""What an export, an import and an ingest read and write, as a catalogue is told."""

from __future__ import annotations

import json
from pathlib import Path

from openlineage.client.serde import Serde

from schemas.codec import Codec
from streams.exporting.manifest import Manifest, Part
from streams.lineage.happening import Happening
from streams.lineage.moving import exported, exporting, imported, importing, ingested, ingesting
from streams.lineage.openlineage import Events
from streams.lineage.topics import Topics
from tests.support.catalogue import checked
from tests.support.settings import bare_settings, settings_of_tenants

SETTINGS = bare_settings()
TOPICS = Topics(SETTINGS, Codec.offline())
MANIFEST = Manifest(
    lane="live",
    format="parquet",
    since=None,
    until=None,
    exported_at="2026-05-01T00:00:00Z",
    records={"answers": 5, "prompts": 1},
    rejected={},
    stretches={"live.answers-0": (3, 6), "live.answers-1": (0, 2)},
    parts=(
        Part(kind="answers", path="answers/part-00000.parquet", records=5, bytes=100, sha256="a"),
        Part(kind="dead-letters", path="dead-letters/part-00000.parquet", records=1, bytes=50, sha256="b"),
        Part(kind="prompts", path="prompts.jsonl", records=1, bytes=10, sha256="c"),
    ),
)


def body(told: Happening) -> dict[str, object]:
    return checked(json.loads(Serde.to_json(Events("headrace").event(told))))


def test_an_export_and_its_import_elsewhere_meet_in_the_digest(tmp_path: Path) -> None:
    begun = exporting(SETTINGS, TOPICS, "live", ("answers",), since=None, until=None)
    ended = exported(begun, TOPICS, MANIFEST, tmp_path / "here", SETTINGS)
    assert [one.name for one in begun.inputs] == ["live.answers"] and begun.outputs == ()
    [source], [folder] = ended.inputs, ended.outputs
    assert (dict(source.stretches), source.records) == ({0: (3, 6), 1: (0, 2)}, 5)
    assert (folder.name, folder.files, folder.size_bytes) == (str(tmp_path / "here"), 3, 160)
    loading = importing(SETTINGS, TOPICS, "copy", MANIFEST, tmp_path / "there")
    assert loading.inputs[0].digest == folder.digest == MANIFEST.digest
    assert [one.name for one in loading.outputs] == ["copy.answers"]
    done = imported(loading, {"loaded": 5, "prompts": 1})
    assert (done.run_id, done.phase, done.facts["loaded"]) == (loading.run_id, "COMPLETE", 5)
    for told in (begun, ended, loading, done):
        body(told)


def test_the_requests_of_several_tenants_are_several_topics() -> None:
    settings = settings_of_tenants()
    begun = exporting(settings, Topics(settings), "live", ("requests", "answers"), since=None, until=None)
    assert [one.name for one in begun.inputs] == ["live.requests.acme", "live.requests.globex", "live.answers"]
    assert {one.contract.name for one in begun.inputs if one.contract} == {"headrace.Request", "headrace.Answer"}


def test_what_is_ingested_is_told_without_login_and_query(tmp_path: Path) -> None:
    given = [str(tmp_path), "https://jo:hunter2@docs.example.com:8443/guide?token=hunter2#part"]
    begun = ingesting(SETTINGS, TOPICS, "live", given)
    assert [(one.namespace, one.name) for one in begun.inputs] == [
        ("file", str(tmp_path)),
        ("https://docs.example.com:8443", "/guide"),
    ]
    ended = ingested(begun, published=3, removed=1, problems=0)
    assert [(one.name, one.records) for one in ended.outputs] == [("live.documents", 4)]
    assert "hunter2" not in json.dumps([body(begun), body(ended)])
