"""Forms of single values. Every refusal names the field and says what it takes; none repeats the value."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import orjson

from schemas.errors import RefusedError
from schemas.records import Text

INVALID = "invalid_request"
# Unicode's control characters (category Cc) but newline, return and tab.
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_ID = re.compile(r"[!-~]+")
_USER = re.compile(r"[a-zA-Z0-9_-]+")
_NAME = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9_.-]*")


def refused(field: str, message: str, code: str = INVALID) -> RefusedError:
    """The refusal of a field; the message begins with the field's path."""
    return RefusedError(code, f"{field}: {message}", field=field)


def check_id(value: str, field: str, most: int) -> None:
    """An id: printable ASCII without spaces."""
    _check_form(_ID, value, field, most, "must be printable ASCII characters without spaces")


def check_user(value: str, field: str, most: int) -> None:
    """A user id. Matched whole: ``$`` alone would let a trailing newline through."""
    _check_form(_USER, value, field, most, "must match ^[a-zA-Z0-9_-]+$")


def check_name(value: str, field: str, most: int) -> None:
    """A name that people give to things: tenants, routes, namespaces, templates."""
    _check_form(_NAME, value, field, most, "must be letters, digits, '_', '-' and '.', not beginning with '-' or '.'")


def check_label(value: str, field: str, most: int) -> None:
    """A short text on one line that people read, which may be empty."""
    if len(value) > most:
        raise refused(field, f"must be at most {most} characters")
    if not value.isprintable():
        raise refused(field, "must be printable characters on one line")


def check_text(value: str, field: str, *, least: int, most: int) -> None:
    """A text that a human wrote: bounded, no control characters but newline, return and tab."""
    if not least <= len(value) <= most:
        raise refused(field, f"must be {least} to {most} characters, got {len(value)}")
    check_no_controls(value, field)


def check_no_controls(value: str, field: str) -> None:
    found = _CONTROL.search(value)
    if found:
        raise refused(
            field,
            f"control character U+{ord(found[0]):04X} at position {found.start()}; "
            "only newline, return and tab are allowed",
        )


def check_range(value: float | None, field: str, least: float, most: float) -> None:
    """A number within bounds, or none. NaN is in no range."""
    if value is not None and not least <= value <= most:
        raise refused(field, f"must be between {least} and {most}")


def check_labels(values: Mapping[str, str], field: str, *, entries: int, value_chars: int) -> None:
    """A map of labels."""
    if len(values) > entries:
        raise refused(field, f"must have at most {entries} entries")
    for key, value in values.items():
        # The key itself may be what is wrong: it is not repeated unless it has the form of an id.
        check_id(key, f"{field} (a key)", 64)
        check_text(value, f"{field}.{key}", least=0, most=value_chars)


def parse_json(value: str | Text, field: str, most: int) -> Any:
    """JSON that a producer sent as text."""
    text = value if isinstance(value, str) else value.inline or ""
    if len(text) > most:
        raise refused(field, f"must be at most {most} characters")
    try:
        return orjson.loads(text)
    except ValueError:
        raise refused(field, "must be valid JSON") from None


def _check_form(form: re.Pattern[str], value: str, field: str, most: int, what: str) -> None:
    if not 1 <= len(value) <= most:
        raise refused(field, f"must be 1 to {most} characters")
    if form.fullmatch(value) is None:
        raise refused(field, what)
