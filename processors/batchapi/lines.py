"""The lines of a batch's files: requests out, replies in. The form is OpenAI's, one JSON object a line."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Final

import orjson

from processors.batchapi.entry import Item
from processors.complete.payload import Payload

ENDPOINT: Final = "/v1/chat/completions"
# No longer line is kept; the request it answers is told that its reply is too large.
MOST_LINE_BYTES = 8 * 1024 * 1024
# Why an item has no reply of its provider: our own codes, written as a line of the provider's would be.
EXPIRED, CANCELLED, FAILED = "batch_expired", "batch_cancelled", "batch_failed"
# Nobody knows whether it was worked on, and so paid.
LOST, MISSING = "batch_lost", "batch_no_reply"
UNKNOWN = frozenset({LOST, MISSING})


@dataclass(frozen=True, slots=True)
class Reply:
    """What a line says: a status with a body, or the code of an error. ``None`` for both: it says nothing of use."""

    status: int | None = None
    body: Any = None
    code: str | None = None


def request_line(item: Item, payload: Payload) -> bytes:
    """The line that asks for an item's call."""
    line = {"custom_id": item.call_id, "method": "POST", "url": ENDPOINT, "body": dict(payload)}
    return orjson.dumps(line) + b"\n"


def without_reply(code: str) -> bytes:
    """A line in the place of one that the provider did not write."""
    return orjson.dumps({"response": None, "error": {"code": code}})


def refused(status: int, code: str) -> bytes:
    """A line for an item whose whole batch was refused with this status."""
    return orjson.dumps({"response": {"status_code": status, "body": {"error": {"code": code}}}, "error": None})


def custom_id(line: bytes) -> str | None:
    """Whose reply a line is; ``None`` where it does not tell."""
    try:
        told = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    found = told.get("custom_id") if isinstance(told, dict) else None
    return found if isinstance(found, str) else None


def read_reply(line: bytes) -> Reply:
    """What a stored line says. Never raises, whatever the provider wrote."""
    try:
        told = orjson.loads(line)
    except orjson.JSONDecodeError:
        return Reply()
    if not isinstance(told, dict):
        return Reply()
    response, error = told.get("response"), told.get("error")
    if isinstance(response, dict):
        status = response.get("status_code")
        return Reply(status=status if isinstance(status, int) else None, body=response.get("body"))
    code = error.get("code") if isinstance(error, dict) else None
    return Reply(code=code if isinstance(code, str) else None)


async def lines_of(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The lines of a file as it is read; of one that is too long only its beginning, which has its id."""
    kept, cut = bytearray(), False
    async for chunk in chunks:
        *whole, rest = chunk.split(b"\n")
        for part in whole:
            kept += b"" if cut else part
            if kept.strip():
                yield _bounded(bytes(kept))
            kept, cut = bytearray(), False
        if not cut:
            kept += rest
            cut = len(kept) > MOST_LINE_BYTES
    if kept.strip():
        yield _bounded(bytes(kept))


def _bounded(line: bytes) -> bytes:
    if len(line) <= MOST_LINE_BYTES:
        return line
    # A beginning is no JSON; all that is wanted of it is whose it is.
    head = line[:2_048]
    mark = head.find(b'"custom_id"')
    parts = head[mark:].split(b'"') if mark >= 0 else []
    named = parts[3].decode("utf-8", "replace") if len(parts) > 3 else None
    error = {"code": "response_too_large"}
    return orjson.dumps({"custom_id": named, "response": {"status_code": 200, "body": {"error": error}}, "error": None})
