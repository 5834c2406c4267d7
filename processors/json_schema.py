"""JSON schemas of drafts 2020-12 and 7 whose patterns are matched in linear time, whoever wrote them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

import re2
from jsonschema import Draft7Validator, Draft202012Validator
from jsonschema.exceptions import ValidationError
from jsonschema.validators import extend

# Bounds a pattern's compiled size, by which the time for each character of a text grows.
_PATTERN_BYTES = 256 * 1024


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


# The library's ``unevaluatedProperties`` matches ``patternProperties`` with a backtracking engine: admission refuses
# schemas that hold both. Formats are not asserted.
_LINEAR = {
    "pattern": _pattern,
    "patternProperties": _pattern_properties,
    "additionalProperties": _additional_properties,
}
_LATEST: Any = extend(Draft202012Validator, _LINEAR)  # type: ignore[no-untyped-call]
_BY_DIALECT: dict[str, Any] = {
    "https://json-schema.org/draft/2020-12/schema": _LATEST,
    "http://json-schema.org/draft-07/schema": extend(Draft7Validator, _LINEAR),  # type: ignore[no-untyped-call]
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
