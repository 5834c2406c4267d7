"""The common parent of all record types, and their conversion to and from what the Avro codec reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from types import UnionType
from typing import Any, ClassVar, TypeVar, get_args, get_origin, get_type_hints

RecordT = TypeVar("RecordT", bound="Record")
Convert = Callable[[Any], Any]
# Per field: name, how to dump its value, how to load it; None where the value stays as it is.
Plan = tuple[tuple[str, Convert | None, Convert | None], ...]


class Record:
    """A frozen dataclass generated from a schema; ``AVRO_NAME`` is the record's full name."""

    __slots__ = ()
    AVRO_NAME: ClassVar[str]


_PLANS: dict[type[Record], Plan] = {}


def to_plain(record: Record) -> dict[str, Any]:
    """The record as nested dicts and lists, which is what fastavro writes."""
    return {
        name: getattr(record, name) if dump is None else dump(getattr(record, name))
        for name, dump, _ in _plan(type(record))
    }


def from_plain(kind: type[RecordT], plain: Mapping[str, Any]) -> RecordT:
    """The record that ``plain``, as fastavro reads it, stands for."""
    return kind(**{name: plain[name] if load is None else load(plain[name]) for name, _, load in _plan(kind)})


def _plan(kind: type[Record]) -> Plan:
    plan = _PLANS.get(kind)
    if plan is None:
        hints = get_type_hints(kind)
        plan = tuple((name, *_converters(hints[name])) for name in (f.name for f in fields(kind)))  # type: ignore[arg-type]
        _PLANS[kind] = plan
    return plan


def _converters(hint: Any) -> tuple[Convert | None, Convert | None]:
    """How to dump and load a value of this type; ``None`` where it stays as it is."""
    if isinstance(hint, type) and issubclass(hint, Record):
        return to_plain, lambda value: from_plain(hint, value)
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is UnionType:
        dump, load = _converters(next(a for a in arguments if a is not type(None)))
        return _optional(dump), _optional(load)
    if origin is tuple:
        dump, load = _converters(arguments[0])
        each_dump, each_load = dump or _same, load or _same
        return (lambda v: [each_dump(x) for x in v]), (lambda v: tuple(each_load(x) for x in v))
    if origin is not None and issubclass(origin, Mapping):
        dump, load = _converters(arguments[1])
        return _values(dump or _same), _values(load) if load else None
    return None, None


def _values(convert: Convert) -> Convert:
    return lambda value: {key: convert(item) for key, item in value.items()}


def _optional(convert: Convert | None) -> Convert | None:
    return None if convert is None else lambda value: None if value is None else convert(value)


def _same(value: Any) -> Any:
    return value
