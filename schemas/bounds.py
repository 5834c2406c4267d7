"""Which writer schemas are read at all: those under which a short frame can't keep a worker busy or fell it.

A schema comes from the registry, where others may register one that is compatible with ours. Three shapes are refused:
a record inside itself (a body of 1 MB then nests a million deep and ends the process), an array of nothing (five bytes
then claim 2^62 items), and records within records that multiply to more values than any event of ours has.
"""

from __future__ import annotations

from typing import Any

# The largest event of ours has about 350 places for a value.
MOST_VALUES = 20_000


class _Unbounded(Exception):  # noqa: N818 - never leaves this module
    """Carries the reason."""


def unbounded(schema: Any) -> str | None:
    """Why frames under this parsed schema must not be read, or ``None``."""
    named = schema.get("__named_schemas", {}) if isinstance(schema, dict) else {}
    try:
        _Weight(named).of(schema)
    except _Unbounded as reason:
        return str(reason)
    return None


class _Weight:
    """Weighs types: how many values one value of it expands to, and the fewest bytes it takes."""

    def __init__(self, named: dict[str, Any]) -> None:
        self._named = named
        self._known: dict[str, tuple[int, int] | None] = {}

    def of(self, kind: Any) -> tuple[int, int]:
        """Values and bytes of one value of this type; an array's or map's items are counted once."""
        if isinstance(kind, list):
            return self._limited(1 + sum(self.of(branch)[0] for branch in kind)), 1
        if isinstance(kind, str):
            return self._record(self._named[kind]) if kind in self._named else (1, 0 if kind == "null" else 1)
        match kind["type"]:
            case "record" | "error":
                return self._record(kind)
            case "fixed":
                return 1, kind["size"]
            case "enum":
                return 1, 1
            case "array":
                values, size = self.of(kind["items"])
                if size == 0:
                    raise _Unbounded("an array of nothing")
                return self._limited(1 + values), 1
            case "map":
                return self._limited(1 + self.of(kind["values"])[0]), 1
            case nested:
                return self.of(nested)

    def _record(self, record: dict[str, Any]) -> tuple[int, int]:
        if record["type"] not in ("record", "error"):
            return self.of(record)
        name = record["name"]
        if name not in self._known:
            self._known[name] = None
            weights = [self.of(field["type"]) for field in record["fields"]]
            values, size = 1 + sum(weight[0] for weight in weights), sum(weight[1] for weight in weights)
            self._known[name] = self._limited(values), size
        known = self._known[name]
        if known is None:
            raise _Unbounded(f"record {name} holds itself")
        return known

    def _limited(self, values: int) -> int:
        if values > MOST_VALUES:
            raise _Unbounded(f"one record expands to more than {MOST_VALUES} values")
        return values
