"""A file of requests is checked whole, read twice, and never held in memory."""

from __future__ import annotations

import json
import os
import threading
import tracemalloc
from pathlib import Path

import pytest

from schemas.codec import Codec
from schemas.errors import ConfigurationError
from streams.request_file import MOST_FAULTS, RequestFile
from streams.request_form import MAX_LINE_BYTES


def opened(path: Path | str) -> RequestFile:
    return RequestFile(str(path), tenant="acme", lane="live")


def asked(source: RequestFile) -> list[str | None]:
    return [request.query.inline for request in source.requests() if request.query]


def test_every_bad_line_is_reported_with_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"query":"a"}\n\n{"query":1,"x":2}\nnope\n{"query":"b"}')
    with opened(path) as source:
        checked = source.check(Codec.offline())
    assert (checked.requests, checked.bad_lines) == (2, 2)
    assert [fault.split(": ")[0] for fault in checked.faults] == [f"{path}:3", f"{path}:3", f"{path}:4"]


def test_a_byte_order_mark_blank_lines_and_windows_line_ends_are_no_fault(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"query":"a"}\r\n  \r\n{"query":"b"}\r\n')
    with opened(path) as source:
        assert source.check(Codec.offline()).bad_lines == 0
        assert asked(source) == ["a", "b"]


def test_an_id_given_twice_is_a_fault(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"query":"a","request_id":"r"}\n{"query":"b","request_id":"r"}\n')
    with opened(path) as source:
        assert "earlier line" in source.check(Codec.offline()).faults[0]


def test_a_request_that_its_topic_would_not_take_is_a_fault(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"query": "x" * 1_000_000}) + "\n" + json.dumps({"query": "y"}))
    with opened(path) as source:
        checked = source.check(Codec.offline())
    assert (checked.requests, checked.bad_lines) == (1, 1)
    assert "shorten it" in checked.faults[0]


def test_a_line_longer_than_any_event_is_skipped_whole_and_not_held(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    with path.open("wb") as file:
        for _ in range(10):
            file.write(b"x" * MAX_LINE_BYTES)
        file.write(b'\n{"query":"after"}\n')
    tracemalloc.start()
    with opened(path) as source:
        checked = source.check(Codec.offline())
        assert asked_after(source, checked.bad_lines) == ["after"]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert checked.faults == [f"{path}:1: the line has more than {MAX_LINE_BYTES} bytes; shorten it"]
    assert peak < 4 * MAX_LINE_BYTES


def asked_after(source: RequestFile, bad_lines: int) -> list[str | None]:
    """The requests of a file whose first line is bad."""
    assert bad_lines == 1
    found = []
    for line in source._lines():
        if line.text is not None:
            query = source._request(line).query
            found.append(query.inline if query else None)
    return found


def test_faults_beyond_the_report_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("nope\n" * (MOST_FAULTS + 10))
    with opened(path) as source:
        checked = source.check(Codec.offline())
    assert (len(checked.faults), checked.bad_lines) == (MOST_FAULTS, MOST_FAULTS + 10)


def test_what_is_appended_after_the_check_is_not_published(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"query":"a"}\n')
    with opened(path) as source:
        source.check(Codec.offline())
        with path.open("a") as file:
            file.write('{"query":"late"}\n')
        assert asked(source) == ["a"]


def test_a_line_changed_after_the_check_ends_the_reading(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"query":"a"}\n')
    with opened(path) as source:
        source.check(Codec.offline())
        path.write_text('{"wuery":"a"}\n')
        with pytest.raises(ConfigurationError, match="changed while it was read"):
            list(source.requests())


def test_a_pipe_is_read_twice_too(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=('{"query":"a"}\n{"query":"b"}\n',))
    writer.start()
    with opened(pipe) as source:
        writer.join()
        assert source.check(Codec.offline()).requests == 2
        assert asked(source) == ["a", "b"]


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"missing\.jsonl can't be read"):
        opened(tmp_path / "missing.jsonl")
