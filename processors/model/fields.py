"""Values out of a provider's JSON, of which nothing can be taken for granted."""

from __future__ import annotations

from typing import Any, TypeGuard

import orjson


class MalformedError(Exception):
    """What came is no reply of the API. ``reason`` is a code of ours."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class ReportedError(Exception):
    """The provider reported an error inside a stream that began well."""

    def __init__(self, status: int | None) -> None:
        super().__init__("error event")
        self.status = status


def object_of(data: str | bytes) -> dict[str, Any]:
    """A JSON object, whose bytes may be spoilt where they are text. Raises ``MalformedError`` for anything else."""
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError:
        value = _mended(data) if isinstance(data, bytes) else None
    if not isinstance(value, dict):
        raise MalformedError("no_json_object")
    return value


def _mended(data: bytes) -> Any:
    try:
        return orjson.loads(data.decode("utf-8", "replace"))
    except orjson.JSONDecodeError:
        return None


def text_of(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def identifier(value: Any) -> str | None:
    """A short text that can be stored: without the NUL that Postgres refuses, and of bounded length."""
    return value.replace("\0", "")[:256] if isinstance(value, str) else None


def mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def list_of(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def is_count(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
