"""Write the Python types in ``schemas/records/`` from the ``.avsc`` files, the source of truth.

Run ``python -m schemas.generate`` after changing a schema; a test fails while the two differ.
"""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
AVRO = HERE / "avro"
RECORDS = HERE / "records"
PRIMITIVES = {"string": "str", "boolean": "bool", "int": "int", "long": "int", "double": "float", "bytes": "bytes"}
HEADER = '"""Generated from `schemas/avro/{source}` by `python -m schemas.generate`; do not edit."""\n'

# Records that several events share: what a request asks for, and what came of it. What one event has alone is with it.
SHARED_HOMES = ("asked", "done")

Schema = dict[str, Any]


def load_schemas() -> dict[str, Schema]:
    """Every event schema by record name, in the order of the file names."""
    loaded = (json.loads(path.read_text()) for path in sorted(AVRO.glob("*.avsc")))
    return {schema["name"]: schema for schema in loaded}


def nested_records(schema: Any, found: dict[str, Schema]) -> dict[str, Schema]:
    """The record definitions inside a schema by name, innermost first."""
    if isinstance(schema, list):
        for branch in schema:
            nested_records(branch, found)
    elif isinstance(schema, dict):
        for key in ("type", "items", "values"):
            if isinstance(schema.get(key), (dict, list)):
                nested_records(schema[key], found)
        if schema.get("type") == "record":
            for field in schema["fields"]:
                nested_records(field["type"], found)
            found.setdefault(schema["name"], schema)
    return found


def python_type(schema: Any) -> str:
    """The annotation for an Avro type, e.g. ``tuple[Message, ...]``."""
    match schema:
        case str():
            return PRIMITIVES.get(schema, schema)
        case ["null", other]:
            return f"{python_type(other)} | None"
        case {"logicalType": "timestamp-micros"}:
            return "datetime"
        case {"logicalType": "decimal"}:
            return "Decimal"
        case {"type": "array", "items": items}:
            return f"tuple[{python_type(items)}, ...]"
        case {"type": "map", "values": values}:
            return f"Mapping[str, {python_type(values)}]"
        case {"type": "record", "name": str(name)}:
            return name
    raise ValueError(f"no Python type for the Avro type {schema!r}; extend schemas/generate.py")


def python_default(field: Schema) -> str:
    """The default's source text, with the leading `` = ``; empty where the field is required."""
    if "default" not in field:
        return ""
    default, kind = field["default"], python_type(field["type"])
    if kind == "Decimal":
        return ' = Decimal("0")'
    if kind.startswith("tuple"):
        return " = ()"
    if kind.startswith("Mapping"):
        return " = field(default_factory=dict)"
    if isinstance(default, dict):
        return f" = field(default_factory={kind})"
    return f" = {json.dumps(default)}" if isinstance(default, str) else f" = {default!r}"


def dataclass_source(schema: Schema) -> str:
    """The frozen dataclass for one record, its docs as a docstring and comments."""
    lines = ["@dataclass(frozen=True, slots=True, kw_only=True)", f"class {schema['name']}(Record):"]
    lines.append(f'    """{schema["doc"]}"""\n')
    lines.append(f"    AVRO_NAME: ClassVar[str] = {json.dumps('headrace.' + schema['name'])}\n")
    for entry in schema["fields"]:
        lines += textwrap.wrap(entry["doc"], 90, initial_indent="    # ", subsequent_indent="    # ")
        lines.append(f"    {entry['name']}: {python_type(entry['type'])}{python_default(entry)}")
    return "\n".join(lines) + "\n"


def imports_for(body: str) -> str:
    """The standard imports that a module's body needs."""
    lines = ["from __future__ import annotations\n"]
    if "Mapping[" in body:
        lines.append("from collections.abc import Mapping")
    lines.append(f"from dataclasses import dataclass{', field' if 'field(' in body else ''}")
    if "datetime" in body:
        lines.append("from datetime import datetime")
    if "Decimal" in body:
        lines.append("from decimal import Decimal")
    lines.append("from typing import ClassVar\n")
    lines.append("from schemas.record import Record\n")
    return "\n".join(lines)


def snake(name: str) -> str:
    """``DeadLetter`` as ``dead_letter``."""
    return "".join(("_" if i and c.isupper() else "") + c.lower() for i, c in enumerate(name))


def render() -> dict[str, str]:
    """Every generated module's source by file name."""
    events = load_schemas()
    asked = nested_records(events["Request"], {})
    nested: dict[str, Schema] = {}
    users: dict[str, list[str]] = {}
    for event, schema in events.items():
        for name, found in nested_records(schema, {}).items():
            nested.setdefault(name, found)
            users.setdefault(name, []).append(event)
    homes = {name: "asked" if name in asked else _home(users[name]) for name in nested}
    homes |= {name: snake(name) for name in events}
    groups: dict[str, list[Schema]] = {home: [] for home in homes.values()}
    for name, schema in (nested | events).items():
        groups[homes[name]].append(schema)
    modules = {f"{home}.py": _module(home, schemas, homes) for home, schemas in groups.items()}
    lines = ['"""The Python types of every record, one module an event; generated from the schemas."""\n']
    for home, schemas in groups.items():
        lines.append(f"from schemas.records.{home} import {', '.join(schema['name'] for schema in schemas)}")
    lines += ["", f"EVENTS = ({', '.join(events)})", f"__all__ = {['EVENTS', *homes]!r}", ""]
    return modules | {"__init__.py": "\n".join(lines)}


def _home(users: list[str]) -> str:
    """The module of a record that an event has: the event's own, where no other one has it."""
    return snake(users[0]) if len(users) == 1 else "done"


def _module(home: str, schemas: list[Schema], homes: dict[str, str]) -> str:
    body = "\n\n".join(dataclass_source(schema) for schema in schemas)
    words = {word for schema in schemas for entry in schema["fields"] for word in _words(python_type(entry["type"]))}
    imports = [f"from schemas.records.{homes[w]} import {w}\n" for w in sorted(words & set(homes)) if homes[w] != home]
    source = "*.avsc" if home in SHARED_HOMES else f"{home}.avsc"
    return HEADER.format(source=source) + "\n" + imports_for(body) + "".join(imports) + "\n\n" + body


def _words(annotation: str) -> list[str]:
    return annotation.replace("[", " ").replace("]", " ").replace(",", " ").replace("|", " ").split()


def main() -> None:
    """Write every module, then format it as the rest of the code is."""
    RECORDS.mkdir(exist_ok=True)
    for name, source in render().items():
        (RECORDS / name).write_text(source)
    for command in (["check", "--fix", "--quiet"], ["format", "--quiet"]):
        subprocess.run([sys.executable, "-m", "ruff", *command, str(RECORDS)], check=True)


if __name__ == "__main__":
    main()
