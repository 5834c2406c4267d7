"""Whether a text has the form that the request wanted."""

from __future__ import annotations

import functools
from typing import Any

import orjson
from jsonschema.exceptions import ValidationError
from referencing import Registry
from referencing.exceptions import Unresolvable

from processors.filter.json_text import parse
from processors.filter.tokens import strip_tokens
from processors.json_schema import LinearValidator, UnusablePatternError
from processors.text import inline
from schemas.errors import RefusedError
from schemas.records import ResponseFormat


def check_format(text: str, wanted: ResponseFormat) -> None:
    """Check the model's text, as it was before masking: a mask may break a pattern, and that is no fault of the model.

    Raises ``RefusedError`` with status ``failed`` and the code ``invalid_json`` or ``schema_mismatch``; the message
    names the place and the rule, not the value.
    """
    if wanted.type not in ("json_object", "json_schema"):
        return
    try:
        value = parse(strip_tokens(text).text)
    except (ValueError, RecursionError):
        raise _failed("invalid_json", "response_format.type: the model's text is no JSON") from None
    if wanted.type == "json_object":
        if not isinstance(value, dict):
            raise _failed("invalid_json", "response_format.type: the model's JSON is no object")
        return
    assert wanted.schema_json is not None
    fault = _fault(value, inline(wanted.schema_json, "response_format.schema_json"))
    if fault is not None:
        raise _failed("schema_mismatch", f"response_format.schema_json: {fault}")


def _fault(value: Any, schema: str) -> str | None:
    """What is wrong with the value by the schema; no part of the value is in it."""
    try:
        error = next(_validator(schema).iter_errors(value), None)
    except (Unresolvable, RecursionError, UnusablePatternError):
        return "the schema could not be applied"
    if error is None:
        return None
    return f"the rule {error.validator!r} is broken at {_place(error)}"


def _place(error: ValidationError) -> str:
    """The way to the fault by the schema, whose names are the producer's own; the model's keys are not shown."""
    return "/".join(str(part) for part in list(error.absolute_schema_path)[:-1]) or "the root"


@functools.lru_cache(maxsize=256)
def _validator(schema: str) -> Any:
    # An empty registry fetches nothing.
    return LinearValidator(orjson.loads(schema), registry=Registry())


def _failed(code: str, message: str) -> RefusedError:
    field = message.partition(":")[0]
    return RefusedError(code, message, field=field, status="failed")
