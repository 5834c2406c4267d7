"""What was erased or removed is known by where it lay, and by whom it was."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest

from schemas.errors import ConfigurationError
from schemas.records import Document, Meta, Text
from streams.auditing.seals import leaf_of
from streams.exporting import erased
from streams.exporting.erased import Erased, Removed, add_exported
from streams.reading import Entry
from tests.support.settings import bare_settings

AT = datetime(2026, 5, 1, tzinfo=UTC)


def entry(value: bytes = b"x", key: bytes | None = b"r1") -> Entry:
    return Entry("live.answers", 0, 17, AT, key, value, ())


def place(time: datetime = AT, key: bytes | None = b"r1", offset: int = 17) -> dict[str, Any]:
    return {"_topic": "live.answers", "_partition": 0, "_offset": offset, "_time": time, "_key": key}


def document(name: str, text: str | None = "a text", *, deleted: bool = False) -> Document:
    meta = Meta(event_id=f"e-{name}", request_id="", tenant="acme", lane="live")
    return Document(meta=meta, document_id=name, deleted=deleted, body=None if text is None else Text(inline=text))


def test_a_record_with_a_tombstone_is_erased_and_no_other_in_its_place() -> None:
    known = Erased({("live.answers", 0, 17): (leaf_of(entry()), "r1")})
    assert known.is_entry(entry()) and not known.is_entry(entry(b"of a topic that was made again"))
    assert known.is_row(place())
    assert (
        not known.is_row(place(key=b"r2")) and not known.is_row(place(offset=18)) and not known.is_row(place(key=None))
    )


def test_tombstones_of_another_cluster_are_read_from_its_seals(tmp_path: Path) -> None:
    file, known = tmp_path / "seals.jsonl", Erased()
    stone = {
        "kind": "tombstone",
        "topic": "live.answers",
        "partition": 0,
        "offset": 17,
        "leaf": "ab",
        "request_id": "r1",
    }
    file.write_bytes(orjson.dumps({"kind": "seal"}) + b"\n" + orjson.dumps(stone) + b"\n")
    add_exported(known, file)
    assert known.is_row(place())
    file.write_bytes(orjson.dumps({"kind": "tombstone"}))
    with pytest.raises(ConfigurationError, match="line 1, is no tombstone"):
        add_exported(known, file)
    with pytest.raises(ConfigurationError, match="can't be read"):
        add_exported(known, tmp_path / "nowhere")


def test_a_document_that_was_removed_later_does_not_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        document("a"),
        document("b"),
        document("a", None),
        document("c"),
        document("d", deleted=True),
        document("d"),
    ]

    class Connection:
        def execute(self, _statement: str, asked: dict[str, list[str]]) -> Sequence[tuple[Any, ...]]:
            assert asked["ids"] == ["a", "b", "c", "d"]
            return [("acme", "default", "c", AT + timedelta(days=1))]

    monkeypatch.setattr(erased, "_connected", lambda _settings: nullcontext(Connection()))
    removed = Removed()
    removed.learn(enumerate(rows, 1), bare_settings())
    left = [removed.covers(number, place(), one) for number, one in enumerate(rows, 1)]
    # a was removed in the export, c here; what removes is kept, and d came back before the export was made.
    assert left == [True, False, False, True, False, False]
    later = place(AT + timedelta(days=2))
    assert not removed.covers(4, later, document("c")), "it was written anew after it was removed here"
