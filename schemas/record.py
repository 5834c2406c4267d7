"""The common parent of all record types, and their conversion to and from what the Avro codec reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Context, Decimal
from types import UnionType
from typing import Any, ClassVar, TypeVar, get_args, get_origin, get_type_hints

RecordT = TypeVar("RecordT", bound="Record")
Convert = Callable[[Any], Any]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
# Money is decimal(38, 12) in every schema.
_MONEY_SCALE = 12
_MONEY_UNIT = Decimal(1).scaleb(-_MONEY_SCALE)
_MONEY_LIMIT = 10**38
# Wide enough that rounding never meets the context's own precision.
_EXACT = Context(prec=80, rounding=ROUND_HALF_EVEN)


class Record:
    """A frozen dataclass generated from a schema; ``AVRO_NAME`` is the record's full name."""

    __slots__ = ()
    AVRO_NAME: ClassVar[str]


_OPENED: dict[type[Record], type[Any]] = {}
_COPIES: dict[type[Record], Convert] = {}
_DUMPS: dict[type[Record], Convert] = {}
_LOADS: dict[type[Record], Convert] = {}


def _opened(kind: type[RecordT]) -> type[Any]:
    """A class like a record's, whose attributes can be set. Setting ``__class__`` to the record's makes it one.

    A frozen record sets its attributes by a call each, which is most of what it costs to make one.
    """
    slots: Any = kind.__dict__["__slots__"]
    return _OPENED.get(kind) or _OPENED.setdefault(kind, type(kind.__name__, (Record,), {"__slots__": slots}))


def changed(record: RecordT, **values: Any) -> RecordT:
    """The record with other values in some fields: ``dataclasses.replace`` in a tenth of its time.

    Raises ``AttributeError`` for a field that it doesn't have.
    """
    copy = _COPIES.get(type(record)) or _copy_of(type(record))
    other = copy(record)
    for name, value in values.items():
        setattr(other, name, value)
    other.__class__ = type(record)
    found: RecordT = other
    return found


def to_plain(record: Record) -> dict[str, Any]:
    """The record as nested dicts and lists, which is what fastavro writes."""
    dump = _DUMPS.get(type(record)) or _dump_of(type(record))
    plain: dict[str, Any] = dump(record)
    return plain


def from_plain(kind: type[RecordT], plain: Mapping[str, Any]) -> RecordT:
    """The record that ``plain``, as fastavro reads it, stands for."""
    load = _LOADS.get(kind) or _load_of(kind)
    record: RecordT = load(plain)
    return record


def _copy_of(kind: type[Record]) -> Convert:
    """A function that copies the fields of a record into one that is open."""
    known: dict[str, Any] = {"open": _opened(kind)}
    lines = ["other = open()", *(f"other.{name} = record.{name}" for name in kind.__dict__["__slots__"])]
    exec("def copy(record):\n " + "\n ".join([*lines, "return other"]), known)  # noqa: S102
    _COPIES[kind] = known["copy"]
    return _COPIES[kind]


def _dump_of(kind: type[Record]) -> Convert:
    """A function that makes a record plain: one expression with a field after the other, as dataclasses are made."""
    known: dict[str, Any] = {}
    parts = []
    for name, (dump, _) in _fields(kind).items():
        known[f"dump_{name}"] = dump
        parts.append(f"'{name}': " + (f"record.{name}" if dump is None else f"dump_{name}(record.{name})"))
    exec(f"def dump(record): return {{{', '.join(parts)}}}", known)  # noqa: S102
    _DUMPS[kind] = known["dump"]
    return _DUMPS[kind]


def _load_of(kind: type[Record]) -> Convert:
    """A function that makes a record of what is plain."""
    known: dict[str, Any] = {"open": _opened(kind), "kind": kind}
    lines = ["record = open()"]
    for name, (_, load) in _fields(kind).items():
        known[f"load_{name}"] = load
        value = f"plain['{name}']"
        lines.append(f"record.{name} = " + (value if load is None else f"load_{name}({value})"))
    exec("def load(plain):\n " + "\n ".join([*lines, "record.__class__ = kind", "return record"]), known)  # noqa: S102
    _LOADS[kind] = known["load"]
    return _LOADS[kind]


def _fields(kind: type[Record]) -> dict[str, tuple[Convert | None, Convert | None]]:
    hints = get_type_hints(kind)
    return {field.name: _converters(hints[field.name]) for field in fields(kind)}  # type: ignore[arg-type]


def _converters(hint: Any) -> tuple[Convert | None, Convert | None]:
    """How to dump and load a value of this type; ``None`` where it stays as it is."""
    if hint is datetime:
        return _micros, _time
    if hint is Decimal:
        return _unscaled, _money
    if isinstance(hint, type) and issubclass(hint, Record):
        return _DUMPS.get(hint) or _dump_of(hint), _LOADS.get(hint) or _load_of(hint)
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is UnionType:
        dump, load = _converters(next(a for a in arguments if a is not type(None)))
        return _optional(dump), _optional(load)
    if origin is tuple:
        dump, load = _converters(arguments[0])
        return _list(dump), _tuple(load)
    if origin is not None and issubclass(origin, Mapping):
        dump, load = _converters(arguments[1])
        # Copied even where the values stay: fastavro hands out one and the same default to every record.
        return _values(dump), _values(load)
    return None, None


def _micros(value: datetime) -> int:
    """Microseconds since 1970; a time without a zone is refused, because its meaning would be the machine's."""
    return (value - _EPOCH) // _MICROSECOND


def _time(value: datetime | int) -> datetime:
    """The time; a number where the writer's schema left out the logical type."""
    return value if isinstance(value, datetime) else _EPOCH + value * _MICROSECOND


def _unscaled(value: Decimal) -> bytes:
    """Two's complement of the amount in units of 1e-12; finer amounts are rounded half to even."""
    units = int(value.quantize(_MONEY_UNIT, context=_EXACT).scaleb(_MONEY_SCALE, context=_EXACT))
    if abs(units) >= _MONEY_LIMIT:
        raise ValueError("an amount has more than 38 digits")
    return units.to_bytes((units.bit_length() + 8) // 8, "big", signed=True)


def _money(value: Decimal | bytes | str) -> Decimal:
    """The amount; bytes or text where fastavro hands out a default as the schema spells it."""
    if isinstance(value, Decimal):
        return value
    raw = value.encode("latin-1") if isinstance(value, str) else value
    return Decimal(int.from_bytes(raw, "big", signed=True)).scaleb(-_MONEY_SCALE, context=_EXACT)


def _list(convert: Convert | None) -> Convert:
    return list if convert is None else lambda value: [convert(item) for item in value]


def _tuple(convert: Convert | None) -> Convert:
    return tuple if convert is None else lambda value: tuple([convert(item) for item in value])


def _values(convert: Convert | None) -> Convert:
    return dict if convert is None else lambda value: {key: convert(item) for key, item in value.items()}


def _optional(convert: Convert | None) -> Convert | None:
    return None if convert is None else lambda value: None if value is None else convert(value)
