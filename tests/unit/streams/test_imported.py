"""Control that was imported is seen under the offsets that events name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from confluent_kafka import Producer

from schemas.codec import Codec
from schemas.records import Control, Meta
from streams.auditing import background
from streams.exporting.export import Exporter, Wanted
from streams.exporting.load import Loader
from streams.headers import IMPORTED
from streams.imported import OFFSET, as_recorded
from streams.opened import Opener
from streams.reading import Entry, Place, Stretch, TopicReader
from streams.replay.control import at_moment, read_control
from tests.support.settings import bare_settings

START = datetime(2026, 5, 1, tzinfo=UTC)
CODEC = Codec.offline()
SETTINGS = bare_settings()


def prompt(version: str) -> Control:
    meta = Meta(event_id=f"c-{version}", request_id="", tenant="", lane="live")
    return Control(meta=meta, kind="prompt", name="rag", version=version)


class Sent:
    """A producer whose records are kept as the entries that they would be."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []

    def produce(self, topic: str, *, value: bytes, key: bytes, partition: int, headers: Any, on_delivery: Any) -> None:
        place = len(self.entries)
        self.entries.append(Entry(topic, partition, place, START, key, value, tuple(headers)))

    def poll(self, _timeout: float) -> None:
        pass


class Topic:
    """A reader of one lane's control topic."""

    def __init__(self, entries: Sequence[Entry] = (), first: int = 0) -> None:
        self._entries, self._first = entries, first

    def existing(self, topics: Sequence[str]) -> dict[str, int]:
        return dict.fromkeys(topics, 1)

    def places(self, topics: Sequence[str]) -> list[Place]:
        return [(topic, 0) for topic in topics]

    def ends(self, places: Sequence[Place]) -> dict[Place, Stretch]:
        return {place: Stretch(self._first, 1_000) for place in places}

    def offsets_at(self, places: Sequence[Place], _moment: datetime) -> dict[Place, int]:
        return dict.fromkeys(places, 900)

    def read(self, _stretches: object) -> Iterator[Entry]:
        return iter(self._entries)


def loaded(*versions: tuple[str, int, tuple[tuple[str, bytes], ...]]) -> list[Entry]:
    """Control records with the offsets that they had, as an import writes them."""
    sent = Sent()
    loader = Loader(SETTINGS, CODEC, lane="copy", advance=lambda _count: None)
    for number, (version, offset, headers) in enumerate(versions, 1):
        place = {"_offset": offset, "_key": b"rag", "_headers": list(headers)}
        loader._send(cast("Producer", sent), "copy.control", 0, place, prompt(version), f"digest/{number}")
    return sent.entries


def test_a_replay_of_an_import_sees_what_was_live_when_each_event_was_decided() -> None:
    reader = cast("TopicReader", Topic(loaded(("1", 40, ()), ("2", 70, ()))))
    control = read_control(reader, SETTINGS, CODEC, "copy")
    seen = []
    for moment in (39, 40, 69, 70, 500):
        with at_moment(moment):
            seen.append(control.current_prompt("rag"))
    assert seen == [None, "1", "1", "2", "2"]


def test_an_audit_of_an_import_sees_the_same_offsets() -> None:
    reader = cast("TopicReader", Topic(loaded(("1", 40, ()), ("2", 70, ()))))
    history = background.read_control(reader, Opener(CODEC, prefix="", lane="copy"), "", "copy")
    assert [one.offset for one in history] == [40, 70]


def test_what_is_exported_and_imported_once_more_keeps_its_first_offset() -> None:
    first = loaded(("1", 40, ()))[0]
    again = loaded(("1", 3, cast("Any", first.headers)))
    assert [one.offset for one in as_recorded(again)] == [40]


def test_what_is_said_in_the_lane_afterwards_comes_behind_what_was_imported() -> None:
    own = Entry("copy.control", 0, 2, START, b"rag", CODEC.encode(prompt("3")), ())
    assert [one.offset for one in as_recorded([*loaded(("1", 40, ()), ("2", 70, ())), own])] == [40, 70, 71]


def test_a_lane_of_its_own_keeps_its_offsets_whatever_a_header_says() -> None:
    entries = [Entry("live.control", 0, at, START, b"rag", b"", ((OFFSET, b"9"),)) for at in (5, 6)]
    assert list(as_recorded(entries)) == entries
    assert IMPORTED not in dict(entries[0].headers)


def test_control_is_exported_from_its_first_record(tmp_path: Path) -> None:
    wanted = Wanted(lane="live", kinds=("control",), since=START, until=None, format="jsonl")
    exporter = Exporter(SETTINGS, CODEC, wanted, advance=lambda _count: None, plan=lambda _total: None)
    reader = cast("TopicReader", Topic())
    assert exporter._stretches(reader, "control") == {("live.control", 0): Stretch(0, 1_000)}
    assert exporter._stretches(reader, "answers") == {("live.answers", 0): Stretch(900, 1_000)}
