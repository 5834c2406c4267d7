"""Rules for a JSON schema that a producer sends, so that no call is paid whose answer could never be checked."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from jsonschema import FormatChecker
from jsonschema.exceptions import SchemaError
from referencing import Registry
from referencing.exceptions import Unresolvable
from referencing.jsonschema import specification_with

from processors.admit.forms import refused
from processors.json_schema import DIALECTS, UnknownDialectError, UnusablePatternError, matcher, validator_class

_REFERENCES = ("$ref", "$dynamicRef")
# An id that moves what a reference means would be checked otherwise than the producer thinks.
_UNSUPPORTED = ("$id", "$vocabulary")
_MAX_DEPTH = 64
_MAX_PATTERN_CHARS = 256


def check_schema(schema: Any, field: str) -> None:
    """A JSON schema of a dialect we know, with references inside itself only, and patterns that RE2 takes."""
    if not isinstance(schema, dict):
        raise refused(field, "must be a JSON object")
    _check_depth(schema, field)
    try:
        validator = validator_class(schema)
        # Without formats: they would hold patterns to Python's syntax.
        validator.check_schema(schema, format_checker=FormatChecker(formats=()))
    except UnknownDialectError:
        raise refused(field, f"$schema must be one of {', '.join(DIALECTS)}, or left out for the first") from None
    except SchemaError as error:
        place = "/".join(str(part) for part in error.absolute_path) or "its root"
        draft = "7" if "definitions" in validator.META_SCHEMA else "2020-12"
        raise refused(
            field, f"is no JSON schema of draft {draft}: {str(error.validator)!r} is broken at {place}"
        ) from None
    dialect = specification_with(validator.META_SCHEMA["$schema"])
    # The root may have an id: what begins with # is inside the schema all the same.
    inside = {name: value for name, value in schema.items() if name != "$id"}
    resolver = Registry().with_resource("", dialect.create_resource(inside)).resolver()
    keys = set()
    for key, value in _walk(inside):
        keys.add(key)
        if key in _UNSUPPORTED and not isinstance(value, dict):  # a dict: a property of that name
            raise refused(field, f"{key} is not supported; refer to definitions by #/$defs/…")
        if key in _REFERENCES and isinstance(value, str):
            _check_reference(value, resolver, field)
        if key == "pattern" and isinstance(value, str):
            _check_pattern(value, field)
        if key == "patternProperties" and isinstance(value, dict):
            for pattern in value:
                _check_pattern(pattern, field)
    if {"patternProperties", "unevaluatedProperties"} <= keys:
        raise refused(field, "patternProperties and unevaluatedProperties are not supported together")


def _check_reference(reference: str, resolver: Any, field: str) -> None:
    if not reference.startswith("#"):
        raise refused(field, "references must stay inside the schema: nothing is fetched")
    try:
        resolver.lookup(reference)
    except Unresolvable:
        raise refused(field, "a reference leads nowhere") from None


def _check_pattern(pattern: str, field: str) -> None:
    if len(pattern) > _MAX_PATTERN_CHARS:
        raise refused(field, f"a pattern must be at most {_MAX_PATTERN_CHARS} characters")
    try:
        matcher(pattern)
    except UnusablePatternError:
        raise refused(
            field,
            "a pattern is no expression of RE2 (it has no look-around and no back-references), or too large",
        ) from None


def _check_depth(value: Any, field: str) -> None:
    """Without recursion, because it runs before anything that recurses."""
    layer, depth = [value], 0
    while layer:
        if depth > _MAX_DEPTH:
            raise refused(field, f"must be nested at most {_MAX_DEPTH} deep")
        layer = [child for item in layer for child in _children(item)]
        depth += 1


def _walk(value: Any) -> Iterator[tuple[str, Any]]:
    for child in _children(value):
        yield from _walk(child)
    if isinstance(value, dict):
        yield from value.items()


def _children(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []
