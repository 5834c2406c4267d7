"""Whether a text has the form that the request wanted, and what is wrong with it."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import orjson
from jsonschema.exceptions import ValidationError

from processors.filter.json_text import parse
from processors.filter.tokens import strip_tokens
from processors.json_schema import TooManyStepsError, faults
from processors.text import inline
from schemas.records import ResponseFormat

JSON_TYPES = ("json_object", "json_schema")
_TYPE, _SCHEMA = "response_format.type", "response_format.schema_json"
# What a model is told of one reply: enough to mend it, and no second prompt.
_FAULTS_TOLD = 5
_FAULT_CHARS = 240


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What is wrong with a text.

    ``detail`` names the field, the place and the rule, and holds nothing that the model wrote. ``told`` says it in the
    model's own words, its keys and values included: for that model only. ``hopeless``: no text could be right.
    """

    code: str
    field: str
    detail: str
    told: str
    hopeless: bool = False


def fault_of(text: str, wanted: ResponseFormat) -> Fault | None:
    """What is wrong with the model's text, special tokens aside; ``None`` when it is what was wanted.

    The text is taken as it is before masking: a mask may break a pattern, and that is no fault of the model.
    """
    if wanted.type not in JSON_TYPES:
        return None
    try:
        value = parse(strip_tokens(text).text)
    except (ValueError, RecursionError) as error:
        place = _json_place(error)
        return Fault(
            code="invalid_json",
            field=_TYPE,
            detail=f"{_TYPE}: the model's text is no JSON{place}",
            told=f"It is no valid JSON{place}.",
        )
    return fault_of_value(value, wanted)


def fault_of_value(value: Any, wanted: ResponseFormat) -> Fault | None:
    """What is wrong with a value that was JSON."""
    if wanted.type == "json_object":
        return None if isinstance(value, dict) else _NO_OBJECT
    if wanted.type != "json_schema" or wanted.schema_json is None:
        return None
    try:
        errors = list(islice(faults(_read(inline(wanted.schema_json, _SCHEMA)), value), _FAULTS_TOLD))
    except TooManyStepsError:
        return _ENDLESS
    except Exception:
        # A schema that admission did not check, or a fault of the library: the reply is paid, and has to be booked.
        return _UNUSABLE
    if not errors:
        return None
    return Fault(
        code="schema_mismatch",
        field=_SCHEMA,
        detail=f"{_SCHEMA}: the rule {errors[0].validator!r} is broken at {_place(errors[0])}",
        told="It does not match the JSON schema:\n" + "\n".join(_told(error) for error in errors),
    )


_NO_OBJECT = Fault(
    code="invalid_json",
    field=_TYPE,
    detail=f"{_TYPE}: the model's JSON is no object",
    told="It is no JSON object.",
)
_UNUSABLE = Fault(
    code="schema_mismatch",
    field=_SCHEMA,
    detail=f"{_SCHEMA}: the schema could not be applied",
    told="",
    hopeless=True,
)
_ENDLESS = replace(_UNUSABLE, detail=f"{_SCHEMA}: the schema takes too many steps to be applied")


@functools.lru_cache(maxsize=256)
def _read(schema: str) -> Any:
    return orjson.loads(schema)


def _place(error: ValidationError) -> str:
    """The way to the fault by the schema, whose names are the producer's own; the model's keys are not shown."""
    return "/".join(str(part) for part in list(error.absolute_schema_path)[:-1]) or "the root"


def _told(error: ValidationError) -> str:
    place = "/" + "/".join(str(part) for part in error.absolute_path)
    rule = orjson.dumps({str(error.validator): error.validator_value}, default=str).decode()
    return f"- at {_short(place)}: {_short(error.message)}; the rule there is {_short(rule)}"


def _short(text: str) -> str:
    return text if len(text) <= _FAULT_CHARS else f"{text[:_FAULT_CHARS]}…"


def _json_place(error: Exception) -> str:
    if isinstance(error, orjson.JSONDecodeError):
        return f" (line {error.lineno}, column {error.colno})"
    return " (nested too deep)" if isinstance(error, RecursionError) else ""
