"""Functions that write and read the events of today's schemas, several times faster than walking through a schema.

fastavro walks through it field by field for every event. Here each record has a function with its own fields' steps,
straight to and from its dataclass. Whatever these functions do not know (a value that does not fit, damaged bytes) they
give back by raising, and fastavro decides: it stays the one judge of what is right, and the bytes are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from struct import Struct
from typing import Any

import schemas.records as kinds
from schemas.record import MONEY_LIMIT, MONEY_SCALE, Record, micros, money, opened, unscaled

# Takes an event, and the bytes so far, which it adds to.
Write = Callable[[Any, bytearray], None]
# Takes a frame and where its body begins; gives the record and where it ends, which may lie behind the frame's end.
Read = Callable[[bytes, int], tuple[Any, int]]

_DOUBLE = Struct("<d")
_INT, _LONG = 2**31, 2**63
# An amount of 38 digits has 16 bytes; lengths are written doubled.
_MONEY_LENGTH = 2 * 16


class Unusual(Exception):  # noqa: N818 - never leaves this package
    """Something that fastavro has to decide about."""


@dataclass(frozen=True, slots=True)
class Compiled:
    """The functions of one event. Both raise for whatever they do not know."""

    write: Write
    read: Read


def compiled(schema: Mapping[str, Any]) -> Compiled | None:
    """The functions for an event's schema; ``None`` where it has a type that they don't know. Costs some ms."""
    making = _Making()
    try:
        name = making.record(schema)
    except Unusual:
        return None
    return Compiled(making.known[f"write_{name}"], making.known[f"read_{name}"])


class _Making:
    """Makes the functions of a schema's records, innermost first. ``known`` is what their code sees."""

    def __init__(self) -> None:
        self.known: dict[str, Any] = dict(_KNOWN)

    def record(self, schema: Mapping[str, Any]) -> str:
        """Make both functions of a record; its short name."""
        name = _short(schema["name"])
        kind: type[Record] = getattr(kinds, name)
        write = [f"def write_{name}(r, out):"]
        read = [f"def read_{name}(b, p):", f" r = open_{name}()"]
        self.known |= {name: kind, f"open_{name}": opened(kind)}
        for field in schema["fields"]:
            slot = field["name"]
            self._nested(field["type"])
            write += [f" v = r.{slot}", *_in(self._write(field["type"], "v"))]
            read += _in(self._read(field["type"], f"r.{slot}"))
        exec("\n".join(write), self.known)  # noqa: S102
        exec("\n".join([*read, f" r.__class__ = {name}", " return r, p"]), self.known)  # noqa: S102
        return name

    def _nested(self, kind: Any) -> None:
        """Make the functions of the records that are defined within a type."""
        for one in kind if isinstance(kind, list) else [kind]:
            if isinstance(one, dict) and one["type"] == "record":
                self.record(one)
            elif isinstance(one, dict) and one["type"] in ("array", "map"):
                self._nested(one["items" if one["type"] == "array" else "values"])

    def _record(self, kind: Any) -> str | None:
        """The name of the record that a type is; ``None`` for any other type."""
        if isinstance(kind, dict) and kind["type"] == "record":
            return _short(kind["name"])
        return _short(kind) if isinstance(kind, str) and f"read_{_short(kind)}" in self.known else None

    def _write(self, kind: Any, v: str) -> list[str]:
        """The lines that write what is in the variable ``v``. Lists within lists, whose items are ``x``, have none."""
        if name := self._record(kind):
            return [f"write_{name}({v}, out)"]
        match kind:
            case ["null", other]:
                return [f"if {v} is None: out.append(0)", "else:", " out.append(2)", *_in(self._write(other, v))]
            case {"type": "array", "items": items} if v != "x":
                return _counted(v, f"for x in {v}:", self._write(items, "x"))
            case {"type": "map", "values": values} if v != "x":
                return _counted(
                    v, f"for k, x in {v}.items():", [*self._write("string", "k"), *self._write(values, "x")]
                )
        return _lines(_WRITES, kind, v)

    def _read(self, kind: Any, v: str) -> list[str]:
        """The lines that read into ``v``, a variable or attribute."""
        if name := self._record(kind):
            return [f"{v}, p = read_{name}(b, p)"]
        match kind:
            case ["null", other]:
                some = ["elif n == 2:", *_in(self._read(other, v)), "else: raise Unusual"]
                return ["n = b[p]; p += 1", f"if n == 0: {v} = None", *some]
            case {"type": "array", "items": items} if v != "x":
                each = [*self._read(items, "x"), "found.append(x)"]
                return ["found = []", *_blocks(each), f"{v} = tuple(found)"]
            case {"type": "map", "values": values} if v != "x":
                each = [*self._read("string", "k"), *self._read(values, "x"), "found[k] = x"]
                return ["found = {}", *_blocks(each), f"{v} = found"]
        return _lines(_READS, kind, v)


def _counted(v: str, loop: str, each: Iterable[str]) -> list[str]:
    """The lines that write all items of an array or map."""
    return [f"n = len({v})", "if n:", " long(out, n << 1)", f" {loop}", *_in(_in(each)), "out.append(0)"]


def _blocks(each: Iterable[str]) -> list[str]:
    """The lines that read all items of an array or map. A block that says how many bytes it has is not ours."""
    block = ["if n & 129: n, p = length(b, p, n)", "for _ in range(n >> 1):", *_in(each)]
    return ["n = b[p]; p += 1", "while n:", *_in([*block, "n = b[p]; p += 1"])]


def _lines(templates: Mapping[str, str], kind: Any, v: str) -> list[str]:
    """The lines for a value that holds no other."""
    plain = kind.get("logicalType", kind["type"]) if isinstance(kind, dict) else kind
    if not isinstance(plain, str) or plain not in templates or (plain == "decimal" and kind["scale"] != MONEY_SCALE):
        raise Unusual
    return templates[plain].replace("$v", v).splitlines()


def _in(lines: Iterable[str]) -> list[str]:
    """Lines, a level deeper."""
    return [f" {line}" for line in lines]


def _short(name: str) -> str:
    return name.rpartition(".")[2]


def _long(out: bytearray, n: int) -> None:
    """Write a number that is not negative, 7 bits a byte."""
    while n > 127:
        out.append(n & 127 | 128)
        n >>= 7
    out.append(n)


def _number(out: bytearray, v: int, limit: int) -> None:
    """Write a number of -limit to limit - 1, the sign in the lowest bit."""
    if v.__class__ is not int or not -limit <= v < limit:
        raise Unusual
    _long(out, v << 1 if v >= 0 else (~v << 1) | 1)


def _more(b: bytes, p: int, n: int) -> tuple[int, int]:
    """The number that begins with the byte ``n``, sign and all, and where it ends."""
    n &= 127
    for shift in range(7, 70, 7):
        c = b[p]
        p += 1
        n |= (c & 127) << shift
        if c < 128:
            if c == 0 or n >= 2 * _LONG:
                break
            return n, p
    raise Unusual


def _length(b: bytes, p: int, n: int) -> tuple[int, int]:
    """A length that is not one byte, doubled."""
    if n & 1:
        # Below zero.
        raise Unusual
    return _more(b, p, n)


def _amount(raw: bytes) -> Decimal:
    if not raw or abs(int.from_bytes(raw, "big", signed=True)) >= MONEY_LIMIT:
        raise Unusual
    return money(raw)


_KNOWN: Mapping[str, Any] = {
    "Unusual": Unusual,
    "Decimal": Decimal,
    "pack": _DOUBLE.pack,
    "unpack": _DOUBLE.unpack_from,
    "long": _long,
    "number": _number,
    "more": _more,
    "length": _length,
    "amount": _amount,
    "unscaled": unscaled,
    "micros": micros,
    "zero": money(b"\0"),
    "epoch": datetime(1970, 1, 1, tzinfo=UTC),
    "delta": timedelta,
}
_NUMBER = """\
if $v.__class__ is int and -64 <= $v < 64: out.append(($v << 1) ^ ($v >> 63))
else: number(out, $v, {limit})"""
_WRITES: Mapping[str, str] = {
    "string": """\
if $v:
 s = $v.encode()
 n = len(s)
 if n < 64: out.append(n << 1)
 else: long(out, n << 1)
 out += s
elif $v == "": out.append(0)
else: raise Unusual""",
    "bytes": """\
if $v.__class__ is not bytes: raise Unusual
long(out, len($v) << 1)
out += $v""",
    "boolean": """\
if $v is True: out.append(1)
elif $v is False: out.append(0)
else: raise Unusual""",
    "int": _NUMBER.format(limit=_INT),
    "long": _NUMBER.format(limit=_LONG),
    "double": """\
if $v.__class__ is not float: raise Unusual
out += pack($v)""",
    "timestamp-micros": f"number(out, micros($v), {_LONG})",
    "decimal": """\
if $v.__class__ is Decimal and not $v: out += b"\\x02\\x00"
else:
 s = unscaled($v)
 out.append(len(s) << 1)
 out += s""",
}
# A stretch that ends behind the frame is cut short, and told by where the record ends.
_LENGTH = """\
n = b[p]; p += 1
if n & 129: n, p = length(b, p, n)
q = p + (n >> 1)
"""
_READS: Mapping[str, str] = {
    "string": """\
n = b[p]; p += 1
if n:
 if n & 129: n, p = length(b, p, n)
 q = p + (n >> 1)
 $v = b[p:q].decode(); p = q
else: $v = ''""",
    "bytes": _LENGTH + "$v = b[p:q]; p = q",
    "boolean": """\
n = b[p]; p += 1
if n > 1: raise Unusual
$v = n == 1""",
    **dict.fromkeys(
        ("int", "long"),
        """\
n = b[p]; p += 1
if n > 127: n, p = more(b, p, n)
$v = (n >> 1) ^ -(n & 1)""",
    ),
    "double": "$v, = unpack(b, p); p += 8",
    "timestamp-micros": """\
n = b[p]; p += 1
if n > 127: n, p = more(b, p, n)
$v = epoch + delta(0, 0, (n >> 1) ^ -(n & 1))""",
    "decimal": _LENGTH
    + f"""\
if n == 2 and b[p] == 0: $v = zero
elif n > {_MONEY_LENGTH}: raise Unusual
else: $v = amount(b[p:q])
p = q""",
}
