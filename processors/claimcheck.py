"""Claim check: large texts of an event leave it for a reference, and come back into it. Pure.

The pattern is Hohpe and Woolf's; a reference is ``sha256:`` and the digest of the text's UTF-8 bytes.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

from schemas.record import Record
from schemas.records import Text

RecordT = TypeVar("RecordT", bound=Record)

PREFIX = "sha256:"
# A frame without it holds no reference.
MARK = PREFIX.encode()
# A reference and its digest take about 75 bytes; smaller texts than this stay.
LEAST_BYTES = 2_048
_REF_BYTES = 80


@dataclass(frozen=True, slots=True)
class Parted:
    """A record without its largest texts, and these by their references, largest first."""

    record: Record
    bodies: Mapping[str, bytes]


def ref_of(body: bytes) -> str:
    """The reference of a body."""
    return PREFIX + hashlib.sha256(body).hexdigest()


def part(record: Record, excess_bytes: int) -> Parted:
    """The record without its largest texts, until it is so many bytes shorter, or none is left that is large.

    The same record gives the same one. Costs a walk over it and a digest of every large text.
    """
    found: Counter[str] = Counter(text.inline for text in texts(record) if text.inline is not None)
    large = [(body, times) for text, times in found.items() if len(body := text.encode()) >= LEAST_BYTES]
    refs: dict[str, str] = {}
    bodies: dict[str, bytes] = {}
    for body, times in sorted(large, key=lambda each: (-len(each[0]), each[0])):
        if excess_bytes <= 0:
            break
        ref = ref_of(body)
        refs[body.decode()], bodies[ref] = ref, body
        excess_bytes -= times * (len(body) - _REF_BYTES)
    return Parted(_changed(record, lambda text: _away(text, refs)), bodies)


def whole(record: RecordT, bodies: Mapping[str, bytes]) -> RecordT:
    """The record with the texts that these references stand for; others stay references.

    So does one whose body is not the one that was stored: it does not have the reference's digest.
    """

    def back(text: Text) -> Text:
        body = bodies.get(text.ref) if text.ref is not None else None
        return text if body is None or ref_of(body) != text.ref else Text(inline=body.decode())

    changed: RecordT = _changed(record, back)
    return changed


def named(record: RecordT) -> RecordT:
    """The record with the reference of every text in its place: the same whether texts were parted from it or not."""
    changed: RecordT = _changed(
        record, lambda text: text if text.inline is None else Text(ref=ref_of(text.inline.encode()))
    )
    return changed


def refs_of(record: Record) -> Counter[str]:
    """The record's references, and how often each is there."""
    return Counter(text.ref for text in texts(record) if text.ref is not None)


def texts(value: Any) -> Iterator[Text]:
    """Every text in a record, however deep."""
    if isinstance(value, Text):
        yield value
    elif isinstance(value, Record):
        for field in fields(value):  # type: ignore[arg-type]
            yield from texts(getattr(value, field.name))
    elif isinstance(value, tuple):
        for item in value:
            yield from texts(item)
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from texts(item)


def _away(text: Text, refs: Mapping[str, str]) -> Text:
    ref = refs.get(text.inline) if text.inline is not None else None
    return text if ref is None else Text(ref=ref)


def _changed(value: Any, change: Callable[[Text], Text]) -> Any:
    """The value with each text changed; the very same object where none was."""
    if isinstance(value, Text):
        return change(value)
    if isinstance(value, Record):
        before = {field.name: getattr(value, field.name) for field in fields(value)}  # type: ignore[arg-type]
        after = {name: _changed(item, change) for name, item in before.items()}
        changes = {name: item for name, item in after.items() if item is not before[name]}
        return replace(value, **changes) if changes else value  # type: ignore[type-var]
    if isinstance(value, tuple):
        items = tuple(_changed(item, change) for item in value)
        return items if any(new is not old for new, old in zip(items, value, strict=True)) else value
    if isinstance(value, Mapping):
        mapped = {key: _changed(item, change) for key, item in value.items()}
        return mapped if any(mapped[key] is not value[key] for key in mapped) else value
    return value
