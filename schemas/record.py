"""The common parent of all record types, and their conversion to and from what the Avro codec reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from operator import attrgetter
from types import UnionType
from typing import Any, ClassVar, TypeVar, get_args, get_origin, get_type_hints

RecordT = TypeVar("RecordT", bound="Record")
Convert = Callable[[Any], Any]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class Record:
    """A frozen dataclass generated from a schema; ``AVRO_NAME`` is the record's full name."""

    __slots__ = ()
    AVRO_NAME: ClassVar[str]


@dataclass(frozen=True, slots=True)
class _Plan:
    """How one record type is converted; only the fields whose value changes have a converter."""

    names: tuple[str, ...]
    values: Callable[[Record], tuple[Any, ...]]
    dumps: tuple[tuple[str, Convert], ...]
    loads: tuple[tuple[str, Convert], ...]


_PLANS: dict[type[Record], _Plan] = {}


def to_plain(record: Record) -> dict[str, Any]:
    """The record as nested dicts and lists, which is what fastavro writes."""
    plan = _PLANS.get(type(record)) or _plan(type(record))
    plain = dict(zip(plan.names, plan.values(record), strict=False))
    for name, dump in plan.dumps:
        plain[name] = dump(plain[name])
    return plain


def from_plain(kind: type[RecordT], plain: Mapping[str, Any]) -> RecordT:
    """The record that ``plain``, as fastavro reads it, stands for."""
    plan = _PLANS.get(kind) or _plan(kind)
    values = dict(plain)
    for name, load in plan.loads:
        values[name] = load(values[name])
    return kind(**values)


def _plan(kind: type[Record]) -> _Plan:
    hints = get_type_hints(kind)
    names = tuple(field.name for field in fields(kind))  # type: ignore[arg-type]
    converters = [(name, *_converters(hints[name])) for name in names]
    first, *rest = names
    plan = _PLANS[kind] = _Plan(
        names=names,
        values=attrgetter(*names) if rest else lambda record: (getattr(record, first),),
        dumps=tuple((name, dump) for name, dump, _ in converters if dump is not None),
        loads=tuple((name, load) for name, _, load in converters if load is not None),
    )
    return plan


def _converters(hint: Any) -> tuple[Convert | None, Convert | None]:
    """How to dump and load a value of this type; ``None`` where it stays as it is."""
    if hint is datetime:
        return _micros, None
    if isinstance(hint, type) and issubclass(hint, Record):
        return to_plain, lambda value: from_plain(hint, value)
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is UnionType:
        dump, load = _converters(next(a for a in arguments if a is not type(None)))
        return _optional(dump), _optional(load)
    if origin is tuple:
        dump, load = _converters(arguments[0])
        return _list(dump), _tuple(load)
    if origin is not None and issubclass(origin, Mapping):
        dump, load = _converters(arguments[1])
        return _values(dump), None if load is None else _values(load)
    return None, None


def _micros(value: datetime) -> int:
    """Microseconds since 1970; a time without a zone is refused, because its meaning would be the machine's."""
    return (value - _EPOCH) // _MICROSECOND


def _list(convert: Convert | None) -> Convert:
    return list if convert is None else lambda value: [convert(item) for item in value]


def _tuple(convert: Convert | None) -> Convert:
    return tuple if convert is None else lambda value: tuple([convert(item) for item in value])


def _values(convert: Convert | None) -> Convert:
    return dict if convert is None else lambda value: {key: convert(item) for key, item in value.items()}


def _optional(convert: Convert | None) -> Convert | None:
    return None if convert is None else lambda value: None if value is None else convert(value)
