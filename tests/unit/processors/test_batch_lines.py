"""The lines of a batch's files: whatever a provider writes is read, within bounds."""

from __future__ import annotations

from collections.abc import AsyncIterator

import orjson
import pytest

from processors.batchapi.lines import MOST_LINE_BYTES, Reply, custom_id, lines_of, read_reply


async def lines(data: bytes, piece: int) -> list[bytes]:
    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(data), piece):
            yield data[start : start + piece]

    return [line async for line in lines_of(chunks())]


@pytest.mark.parametrize("piece", [1, 3, 7, 100])
async def test_lines_are_the_same_however_they_come(piece: int) -> None:
    assert await lines(b'{"a": 1}\n\n{"b": 2}\r\n{"c": 3}', piece) == [b'{"a": 1}', b'{"b": 2}\r', b'{"c": 3}']


async def test_a_line_that_is_too_long_is_not_kept_and_says_whose_it_was() -> None:
    long = orjson.dumps({"id": "r", "custom_id": "abc", "response": "x" * (2 * MOST_LINE_BYTES)})
    first, second = await lines(long + b'\n{"custom_id": "d"}\n', 1 << 20)
    assert len(first) < 1_000
    assert custom_id(first) == "abc"
    assert read_reply(first) == Reply(status=200, body={"error": {"code": "response_too_large"}})
    assert custom_id(second) == "d"


@pytest.mark.parametrize(
    ("line", "reply"),
    [
        (b"no json", Reply()),
        (b"[]", Reply()),
        (b'{"response": null, "error": {"code": "batch_expired"}}', Reply(code="batch_expired")),
        (b'{"response": null, "error": "text"}', Reply()),
        (b'{"response": {"status_code": "200"}}', Reply()),
        (b'{"response": {"status_code": 429, "body": null}}', Reply(status=429)),
        (b"{}", Reply()),
    ],
)
def test_a_line_says_what_it_says_whatever_it_is(line: bytes, reply: Reply) -> None:
    assert read_reply(line) == reply
