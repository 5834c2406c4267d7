"""Server-sent events come out whole, however their bytes are cut."""

from __future__ import annotations

import pytest

from processors.model.sse import DONE, EventReader


def read(body: bytes, size: int) -> list[bytes]:
    reader = EventReader()
    found = [data for start in range(0, len(body), size) for data in reader.feed(body[start : start + size])]
    return found + reader.end()


@pytest.mark.parametrize("size", [1, 2, 3, 1000])
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_events_are_read_whatever_their_lines_end_with_and_wherever_they_are_cut(size: int, end: bytes) -> None:
    lines = [
        b": a comment",
        b"event: x",
        b"data: one",
        b"",
        b"",
        b"data:two",
        b"data:  2",
        b"id: 7",
        b"",
        b"data: 3",
        b"",
    ]
    assert read(end.join(lines) + end, size) == [b"one", b"two\n 2", b"3"]


@pytest.mark.parametrize("size", [1, 1000])
def test_of_what_was_cut_off_only_the_mark_of_the_end_counts(size: int) -> None:
    assert read(b'data: 1\n\ndata: {"half', size) == [b"1"]
    assert read(b"data: 1\n\ndata: [DONE]", size) == [b"1", DONE]
    assert read(b"data: 1\n\ndata: [DONE]\r", size) == [b"1", DONE]
    assert read(b"data: 1\ndata: 2\n", size) == [b"1\n2"], "a whole line, though its event was not ended"


def test_a_long_line_in_many_pieces_is_one_event() -> None:
    reader, piece = EventReader(), b"x" * 65_536
    assert reader.feed(b"data: ") == [] and all(reader.feed(piece) == [] for _ in range(50))
    assert [len(data) for data in reader.feed(b"\n\n")] == [50 * len(piece)]
