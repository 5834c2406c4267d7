"""A record as a JSON object for people and scripts: what ``tail``, ``audit`` and ``submit`` print."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from dataclasses import fields
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, cast

from schemas.record import Record
from schemas.records import Text


def to_json(record: Record) -> dict[str, Any]:
    """The record as nested dicts and lists of JSON's own types, fields in the schema's order.

    An amount is a string without exponent or trailing zeros, a time ISO 8601 in UTC with microseconds, bytes are
    base64. A ``Text`` is its inline string, ``{"ref": …}``, ``{"sealed": …}`` or null.
    """
    return {field.name: _value(getattr(record, field.name)) for field in fields(cast("Any", record))}


def _value(value: Any) -> Any:
    match value:
        case Text():
            return _text(value)
        case Record():
            return to_json(value)
        case Decimal():
            return _amount(value)
        case datetime():
            return value.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        case bytes():
            return b64encode(value).decode("ascii")
        case tuple() | list():
            return [_value(item) for item in value]
        case Mapping():
            return {key: _value(item) for key, item in value.items()}
        case _:
            return value


def _text(text: Text) -> str | dict[str, Any] | None:
    if text.inline is not None:
        return text.inline
    if text.ref is not None:
        return {"ref": text.ref}
    return None if text.sealed is None else {"sealed": _value(text.sealed)}


def _amount(amount: Decimal) -> str:
    """``0.0015``, never ``1.5E-3`` or ``0.001500000000``."""
    plain = f"{amount:f}"
    if "." in plain:
        plain = plain.rstrip("0").rstrip(".")
    return "0" if plain in ("", "-0") else plain
