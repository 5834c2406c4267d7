"""A dead letter as JSON. Without ``content`` it shows what an operator needs and nothing that a person wrote."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from datetime import UTC, datetime
from typing import Any, cast

from schemas.json_view import to_json
from schemas.record import Record
from schemas.records import Header, Text
from streams.dead_letters import CONNECT, OURS
from streams.dlq.letter import Letter
from streams.dlq.retry import Retried
from streams.dlq.search import Found
from streams.dlq.state import Retry
from streams.opened import Opened, iso

# Plain strings that a person may have written, or that say who somebody is.
_PERSONAL = frozenset({"user", "session", "metadata", "title", "uri", "url", "file_name", "stop", "filters", "detail"})
# Headers that Headrace, CloudEvents and tracing define. A producer's own may hold anything.
_KNOWN_HEADERS = ("ce_", "headrace-", "traceparent", "content-type", CONNECT, OURS)


def letter_view(found: Found) -> dict[str, Any]:
    """What ``list`` prints of a letter, and ``show`` begins with."""
    letter, status = found.letter, found.status
    view: dict[str, Any] = {
        "id": letter.id,
        "time": iso(letter.time),
        "state": status.state,
        "class": letter.error_class,
        "stage": letter.stage,
        "error": letter.error,
        "message": letter.message,
        "attempts": letter.attempts,
        "first_failure": _moment(letter.first_failed_at),
        "tenant": letter.tenant,
        "request_id": letter.request_id,
        "record": letter.record,
        "source": _source(letter),
        "bytes": letter.bytes,
        "run": letter.run,
    }
    if status.changed_at is not None:
        view["changed"] = {"by": status.changed_by, "at": _moment(status.changed_at), "reason": status.reason}
        view["retries"] = [_retry(retry) for retry in status.retries]
    return view


def whole_view(found: Found, *, content: bool) -> dict[str, Any]:
    """What ``show`` prints: the letter, its headers and the event in it."""
    opened = found.opened
    assert opened is not None
    view = letter_view(found)
    view["trace"] = opened.letter.stacktrace.splitlines() if opened.letter else []
    view["key"] = None if opened.entry.key is None else opened.entry.key.decode("utf-8", "replace")
    view["headers"] = {name: _header(name, value, content=content) for name, value in opened.entry.headers}
    view["event"] = _event(opened, content=content)
    if opened.fault is not None:
        view["undecodable"] = opened.fault
        value = opened.entry.value
        if content and value is not None:
            view["value"] = to_json(Header(key="", value=value))["value"]
    return view


def retried_view(retried: Retried) -> dict[str, Any]:
    """What ``retry`` prints of a letter."""
    names = ("id", "outcome", "topic", "run", "reason")
    return {name: getattr(retried, name) for name in names if getattr(retried, name)}


def without_content(record: Record) -> dict[str, Any]:
    """The record as JSON with a size in the place of everything that a person may have written."""
    shown = to_json(record)
    for field in fields(cast("Any", record)):
        shown[field.name] = _shown(field.name, getattr(record, field.name), shown[field.name])
    return shown


def _shown(name: str, value: Any, plain: Any) -> Any:
    if isinstance(value, Text):
        return _size(value.inline) if value.inline is not None else plain and "<not shown>"
    if name in _PERSONAL and value:
        return _size(value)
    match value:
        case Record():
            return without_content(value)
        case bytes():
            return _size(value)
        case tuple() | list():
            return [_shown("", item, shown) for item, shown in zip(value, plain, strict=True)]
        case Mapping():
            return {key: _shown("", item, plain[key]) for key, item in value.items()}
        case _:
            return plain


def _size(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"<{len(value)} entries>"
    unit = "bytes" if isinstance(value, bytes) else "characters" if isinstance(value, str) else "items"
    return f"<{len(value)} {unit}>"


def _event(opened: Opened, *, content: bool) -> dict[str, Any] | None:
    if opened.record is None:
        return None
    return to_json(opened.record) if content else without_content(opened.record)


def _header(name: str, value: bytes | None, *, content: bool) -> str | None:
    if value is None:
        return None
    text = value.decode("utf-8", "replace")
    return text if content or name.startswith(_KNOWN_HEADERS) else _size(text)


def _source(letter: Letter) -> dict[str, Any]:
    source = letter.source
    return {"topic": source.topic, "partition": source.partition, "offset": source.offset}


def _retry(retry: Retry) -> dict[str, Any]:
    return {
        "number": retry.number,
        "run": retry.run,
        "by": retry.started_by,
        "at": _moment(retry.started_at),
        "published_at": _moment(retry.published_at),
        "revision": retry.revision,
        "answered_at": _moment(retry.answered_at),
    }


def _moment(moment: datetime | None) -> str | None:
    return None if moment is None else iso(moment.astimezone(UTC))
