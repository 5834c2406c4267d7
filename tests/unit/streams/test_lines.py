"""Events on one line for a person, and a stream's deltas and chunks folded into one."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest

from schemas.json_view import to_json
from schemas.record import Record
from schemas.records import Chunk, Control, Delta, Enrichment, Failure, Meta, Text
from streams.audit import Audit
from streams.causes import causal_order
from streams.cli.audit import tree, view
from streams.cli.lines import describe
from streams.known import Known
from streams.opened import Opened
from streams.reading import Entry
from tests.support.completing import event
from tests.support.running import CODEC, NOW

LONG = "The lamp blinks green. "


def meta(event_id: str, cause: str = "enriched") -> Meta:
    return Meta(event_id=event_id, request_id="r1", tenant="acme", lane="live", causation_id=cause)


def opened(record: Record, kind: str, offset: int) -> Opened:
    at = NOW + timedelta(milliseconds=offset)
    entry = Entry(f"live.{kind}", 0, offset, at, b"r1", CODEC.encode(record), ())
    return Opened(entry, kind, record, None)


def streamed() -> list[Opened]:
    """An enrichment; two attempts of which the first broke off; deltas and chunks take turns."""
    enriched = event().record
    assert isinstance(enriched, Enrichment)
    enriched = Enrichment(
        meta=meta("enriched", ""),
        request=enriched.request,
        admission=enriched.admission,
        grounding=enriched.grounding,
    )
    found = [opened(enriched, "enrichments.normal", 0)]
    said: list[tuple[str, Record]] = []
    for number in range(5):
        text = Text(inline=LONG)
        start = number * len(LONG)
        delta = Delta(meta=meta(f"d0-{number}"), attempt=0, sequence=number, start_char=start, text=text)
        chunk = Chunk(meta=meta(f"c0-{number}"), kind="text", sequence=number, start_char=start, text=text)
        said += [("deltas", delta), ("chunks", chunk)]
    said += [
        ("deltas", Delta(meta=meta("d0-a"), attempt=0, sequence=2**31 - 2, aborted=True)),
        ("chunks", Chunk(meta=meta("c1-r"), kind="restart", attempt=1)),
        ("deltas", Delta(meta=meta("d1-0"), attempt=1, text=Text(inline=LONG))),
        ("chunks", Chunk(meta=meta("c1-0"), kind="text", attempt=1, text=Text(inline=LONG))),
        ("chunks", Chunk(meta=meta("c1-e"), kind="end", attempt=1, sequence=1, finish_reason="stop")),
        (
            "deltas",
            Delta(
                meta=meta("d1-c"),
                attempt=1,
                sequence=2**31 - 1,
                text=Text(inline=LONG),
                final=True,
                finish_reason="stop",
            ),
        ),
    ]
    found += [opened(record, kind, offset) for offset, (kind, record) in enumerate(said, 1)]
    # A chunk that was published twice.
    return [*found, opened(said[1][1], "chunks", 90)]


def audited(found: Sequence[Opened]) -> Audit:
    return Audit("r1", ("acme",), causal_order(found), Known(), None, None)


def lines(found: Sequence[Opened], *, every: bool) -> list[str]:
    """The labels of the tree below the request's events."""
    (top,) = tree(audited(found), every=every).children
    return [str(one.label) for one in top.children]


def test_the_deltas_and_chunks_of_an_attempt_are_one_line_each() -> None:
    shown = lines(streamed(), every=False)
    assert [one.split(" ", 1)[0] for one in shown] == ["deltas", "chunks", "chunks", "deltas"]
    assert [one.split("Z ", 1)[1] for one in shown] == [
        f"6 of attempt 0 · {5 * len(LONG)} characters · broke off",
        f"5 of attempt 0 · {5 * len(LONG)} characters · no end · 1 came again with the same bytes",
        f"3 of attempt 1 · {len(LONG)} characters · ended after 1 chunks: stop",
        f"2 of attempt 1 · {len(LONG)} characters · ended: stop",
    ]


def test_every_delta_and_chunk_is_a_line_where_that_is_asked_for_and_in_json() -> None:
    assert len(lines(streamed(), every=True)) == 16
    assert len(view(audited(streamed()))["events"]) == 17


def test_a_delta_that_can_not_be_read_and_a_single_chunk_keep_a_line_of_their_own() -> None:
    found = streamed()
    broken = Opened(found[3].entry, "deltas", None, "no avro")
    single = Chunk(
        meta=meta("f"), kind="failed", attempt=7, failure=Failure(code="c", error_class="policy", message="over")
    )
    shown = lines([*found, opened(single, "chunks", 99)], every=False)
    assert any("failed: c: over" in one for one in shown) and len(shown) == 5
    labels = [str(one.label) for one in tree(audited([*found, broken]), every=False).children]
    assert len(labels) == 2 and "undecodable: no avro" in labels[1]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (
            {"kind": "pause", "name": "stage/complete", "author": "root", "reason": "bill"},
            "stage/complete paused by root: bill",
        ),
        (
            {"kind": "pause", "name": "stage/complete", "author": "root", "removed": True},
            "stage/complete resumed by root",
        ),
        ({"kind": "cancel", "name": "acme/r1", "reason": "asked to"}, "acme/r1 cancelled: asked to"),
        ({"kind": "prompt", "name": "answer", "version": "3", "author": "kim"}, "prompt answer@3 made live by kim"),
        ({"kind": "prompt", "name": "answer", "version": "3", "removed": True}, "prompt answer@3 removed"),
    ],
)
def test_a_control_record_says_what_was_done_by_whom_and_why(fields: dict[str, Any], said: str) -> None:
    assert describe(Control(meta=meta("e"), **fields)) == said


def test_a_delta_says_where_it_stands_and_how_its_attempt_ended() -> None:
    records = [one.record for one in streamed() if isinstance(one.record, Delta)]
    told = [describe(record) for record in records if record is not None]
    assert told[1] == f"attempt 0, 1 from character {len(LONG)}: {LONG}"
    assert told[5] == "attempt 0 broke off" and told[-1] == f"attempt 1 ended: stop: {LONG}"
    assert to_json(records[0])["attempt"] == 0
