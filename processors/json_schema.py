"""JSON schemas of drafts 2020-12 and 7 whose check ends in bounded time, whoever wrote them and what is checked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextvars import ContextVar
from functools import lru_cache
from typing import Any

import orjson
import re2
from jsonschema import Draft7Validator, Draft202012Validator
from jsonschema.exceptions import ValidationError
from jsonschema.validators import extend
from referencing import Registry

# Bounds a pattern's compiled size, by which the time for each character of a text grows.
_PATTERN_BYTES = 256 * 1024


# 20,000 objects of two fields take a quarter of a million; references can take any number, and each a good while.
MAX_STEPS = 1_000_000
_REFERENCE_STEPS = 20
_REFERENCES = ("$ref", "$dynamicRef")
_STEPS: ContextVar[int] = ContextVar("steps", default=MAX_STEPS)
# Up to here every integer has a float of its own.
_EXACT = 2.0**53
# A registry that fetches nothing.
_NOTHING: Any = Registry()


class TooManyStepsError(ValueError):
    """A check that was given up, because of how a schema refers to itself or of the size of both sides."""


class UnusablePatternError(ValueError):
    """A pattern that RE2 does not take: look-around, a back-reference, a wrong or a huge one."""


@lru_cache(maxsize=1024)
def matcher(pattern: str) -> Callable[[str], bool]:
    """Whether a text holds the pattern, in time linear in the text. Raises ``UnusablePatternError``."""
    options = re2.Options()
    options.max_mem = _PATTERN_BYTES
    options.log_errors = False
    try:
        compiled = re2.compile(pattern, options)
    except re2.error:
        raise UnusablePatternError("RE2 does not take the pattern") from None
    return lambda text: compiled.search(text) is not None


def _pattern(validator: Any, pattern: str, instance: Any, _schema: Any) -> Iterator[ValidationError]:
    if validator.is_type(instance, "string") and not matcher(pattern)(instance):
        yield ValidationError("the pattern is not in the text")


def _pattern_properties(
    validator: Any, patterns: dict[str, Any], instance: Any, _schema: Any
) -> Iterator[ValidationError]:
    if not validator.is_type(instance, "object"):
        return
    for pattern, subschema in patterns.items():
        matches = matcher(pattern)
        for name, value in instance.items():
            if matches(name):
                yield from validator.descend(value, subschema, path=name, schema_path=pattern)


def _additional_properties(
    validator: Any, subschema: Any, instance: Any, schema: dict[str, Any]
) -> Iterator[ValidationError]:
    if not validator.is_type(instance, "object"):
        return
    known = schema.get("properties", {})
    patterns = [matcher(pattern) for pattern in schema.get("patternProperties", {})]
    for name, value in instance.items():
        if name in known or any(matches(name) for matches in patterns):
            continue
        if subschema is False:
            yield ValidationError(f"the property {name!r} is not allowed")
        else:
            yield from validator.descend(value, subschema, path=name)


def _unique_items(validator: Any, wanted: bool, instance: Any, _schema: Any) -> Iterator[ValidationError]:
    """The library compares every item with every other one where they can't be sorted."""
    if wanted and validator.is_type(instance, "array"):
        seen = {orjson.dumps(_canonical(item), option=orjson.OPT_SORT_KEYS) for item in instance}
        if len(seen) < len(instance):
            yield ValidationError("two items are equal")


def _canonical(value: Any) -> Any:
    """Equal values alike: 1 and 1.0 are one number."""
    if isinstance(value, float) and value.is_integer() and abs(value) < _EXACT:
        return int(value)
    if isinstance(value, dict):
        return {name: _canonical(item) for name, item in value.items()}
    return [_canonical(item) for item in value] if isinstance(value, list) else value


def _counted(keyword: Any, least: int) -> Any:
    """The keyword's check, which fails with ``TooManyStepsError`` when the whole check has taken too many steps."""

    def check(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[ValidationError] | None:
        steps = least + (len(value) if isinstance(value, list | dict) else 0)
        if isinstance(value, dict) and isinstance(instance, dict):
            steps += len(instance)
        left = _STEPS.get() - steps
        if left < 0:
            raise TooManyStepsError("the check takes too many steps")
        _STEPS.set(left)
        found: Iterator[ValidationError] | None = keyword(validator, value, instance, schema)
        return found

    return check


def faults(schema: Any, value: Any) -> Iterator[ValidationError]:
    """What is wrong with the value by the schema, one fault after the other. Fetches nothing.

    Blocks for a few seconds at the worst. Raises ``TooManyStepsError``, ``UnusablePatternError``,
    ``UnknownDialectError``, and what the library raises for a schema that was not checked.
    """
    _STEPS.set(MAX_STEPS)
    yield from validator_class(schema)(schema, registry=_NOTHING).iter_errors(value)


# The library's ``unevaluatedProperties`` matches ``patternProperties`` with a backtracking engine: admission refuses
# schemas that hold both. Formats are not asserted.
_LINEAR = {
    "pattern": _pattern,
    "patternProperties": _pattern_properties,
    "additionalProperties": _additional_properties,
    "uniqueItems": _unique_items,
}


def _bounded(library: Any) -> Any:
    keywords = {**library.VALIDATORS, **_LINEAR}
    counted = {n: _counted(keyword, _REFERENCE_STEPS if n in _REFERENCES else 1) for n, keyword in keywords.items()}
    return extend(library, counted)  # type: ignore[no-untyped-call]


_LATEST: Any = _bounded(Draft202012Validator)
_BY_DIALECT: dict[str, Any] = {
    "https://json-schema.org/draft/2020-12/schema": _LATEST,
    "http://json-schema.org/draft-07/schema": _bounded(Draft7Validator),
}
DIALECTS = tuple(_BY_DIALECT)


class UnknownDialectError(ValueError):
    """A schema names a dialect in ``$schema`` that is none of ``DIALECTS``."""


def validator_class(schema: Any) -> Any:
    """The validator of the schema's dialect: what its ``$schema`` names, draft 2020-12 where it names none.

    Raises ``UnknownDialectError``.
    """
    named = schema.get("$schema") if isinstance(schema, dict) else None
    if named is None:
        return _LATEST
    found = _BY_DIALECT.get(named.removesuffix("#")) if isinstance(named, str) else None
    if found is None:
        raise UnknownDialectError("$schema names another dialect")
    return found
