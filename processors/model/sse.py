"""Server-sent events, read with a bound: of a chat stream, only the ``data`` lines matter.

Follows the event stream format of the HTML standard as far as chat endpoints use it. The SDK's own reader has no
bound, and ends in silence where a stream was cut off.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

DONE = "[DONE]"


class BodyTooLargeError(Exception):
    """The body is larger than what is read."""


async def bounded(chunks: AsyncIterator[bytes], limit_bytes: int) -> AsyncIterator[bytes]:
    """The chunks, until they are more than ``limit_bytes`` together; then ``BodyTooLargeError``."""
    read = 0
    async for chunk in chunks:
        read += len(chunk)
        if read > limit_bytes:
            raise BodyTooLargeError
        yield chunk


async def events(chunks: AsyncIterator[bytes]) -> AsyncIterator[str]:
    """The data of every event, comments and empty events left out; a line that was cut off is not used."""
    data: list[str] = []
    async for line in _lines(chunks):
        if not line:
            if data:
                yield "\n".join(data)
            data = []
        elif line.startswith(b"data:"):
            data.append(line[5:].removeprefix(b" ").decode("utf-8", "replace"))
    if data:
        yield "\n".join(data)


async def _lines(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    rest = bytearray()
    async for chunk in chunks:
        rest += chunk
        if b"\n" not in chunk and b"\r" not in chunk:
            continue
        # A carriage return at the end may be the first half of a line's end.
        held = b"\r" if rest.endswith(b"\r") else b""
        *whole, last = bytes(rest[: len(rest) - len(held)]).replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        for line in whole:
            yield line
        rest = bytearray(last + held)
    # A cut can only be told from an end by what is missing: of an unfinished line nothing is used but the end's mark.
    last_line = bytes(rest).rstrip(b"\r")
    if rest.endswith(b"\r") or last_line == f"data: {DONE}".encode():
        yield last_line
