"""Expressions that choose the events of a replay."""

from __future__ import annotations

from dataclasses import fields, replace
from datetime import UTC, datetime
from decimal import Decimal
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

import pytest

from schemas.errors import ConfigurationError
from schemas.record import Record
from schemas.records import Feedback
from streams.replay.plan import CHAIN
from streams.replay.where import FIELDS, KEYED, LACKING, NAMES, NUMBERS, TIMES, Subject, check_fields, parse
from streams.stages import STAGES
from tests.support.costs import cost
from tests.support.replaying import completion


def subject(**changes: Any) -> Subject:
    record = cost("a", feature="search", prompt_version="support@7")
    values: dict[str, Any] = {
        "record": record,
        "meta": record.meta,
        "time": datetime(2026, 3, 1, tzinfo=UTC),
        "headers": {"x-origin": "web"},
        "status": "answered",
        "scores": {"groundedness": 0.4},
    }
    return Subject(**{**values, **changes})


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("tenant=acme", True),
        ("tenant = acme and feature = 'search'", True),
        ("tenant = acme and not feature in (a, search)", False),
        ("feature in (a, b) or prompt = support@7", True),
        ("not (tenant = acme or feature = a)", False),
        # and binds closer than or.
        ("tenant = acme or tenant = b and feature = nothing", True),
        ("score.groundedness < 0.5 and status = answered", True),
        ("score.other < 0.5", False),
        ("score.groundedness = 0.4", True),
        ("score.groundedness != 0.4", False),
        ("score.groundedness <= 0.4 and score.groundedness >= 0.4", True),
        ("score.groundedness in (0.40, 1)", True),
        ("score.groundedness not in (0.4)", False),
        ("score.groundedness > 0.4", False),
        ("time >= 2026-03-01T00:00 and cost > 0.2", True),
        ("time >= 2026-03-01T01:00+01:00", True),
        ('header["x-origin"] = web', True),
        ("header.x-origin != web", False),
        ("feature ~ '^sea'", True),
        ("feature !~ '^sea'", False),
        # What an event does not have is unlike everything.
        ("metadata.origin != z", True),
        ("session = s1", False),
    ],
)
def test_an_expression_holds(text: str, holds: bool) -> None:
    assert parse(text).test(subject()) is holds


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("tenent = acme", "did you mean tenant?"),
        ("scores.x = 1", "did you mean score?"),
        ("cost > dear", "cost is a number"),
        ("time > yesterday", "time is a time"),
        ("tenant < a", "tenant is a text"),
        ("feature ~ '('", "no regular expression"),
        ("score > 1", "score needs a name"),
        ("tenant", "ends too early"),
        ("tenant = acme )", "character 15"),
        ("__import__('os')", "character 11"),
        ("cost ~ 1", "cost is no text"),
        ("a" * 5_000, "at most"),
    ],
)
def test_what_can_not_be_read_is_named(text: str, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says.replace("?", r"\?")):
        parse(text)


def test_labels_are_found_on_the_request_that_an_event_carries() -> None:
    record = completion(1, "live")
    here = subject(record=record, meta=record.meta)
    assert parse("feature = docs and route = default and prompt = answer@1 and model = m1").test(here)


def test_only_statuses_and_scores_need_the_database() -> None:
    assert parse("tenant = a and cost > 1").needs == frozenset()
    assert parse("status = failed or score.length < 1").needs == {"status", "score"}


def filled(hint: Any) -> Any:
    """A value of this type with something in every field."""
    if get_origin(hint) is UnionType:
        return filled(next(one for one in get_args(hint) if one is not type(None)))
    if isinstance(hint, type) and issubclass(hint, Record):
        hints = get_type_hints(hint)
        return hint(**{one.name: filled(hints[one.name]) for one in fields(hint)})  # type: ignore[arg-type]
    plain = {str: "x", int: 1, float: 1.0, bool: True, bytes: b"x", Decimal: Decimal(1)}
    if hint in plain:
        return plain[hint]
    if hint is datetime:
        return datetime(2026, 3, 1, tzinfo=UTC)
    return () if get_origin(hint) is tuple else {"x": "x"}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("stage", CHAIN)
def test_a_field_that_no_event_of_the_first_stage_has_is_refused(stage: str, name: str) -> None:
    [kind] = {source.record for source in STAGES[stage].inputs} - {Feedback}
    record = filled(kind)
    here = subject(record=record, meta=record.meta, headers={"x": "x"}, scores={"x": 1.0})
    get = KEYED[name][0]("x") if name in KEYED else {**FIELDS, **NUMBERS, **TIMES}[name][0]
    # A request's model is on what comes before the answer, and is not the model that answered.
    has = get(here) is not None and not (name == "model" and stage in ("enrich", "complete"))
    assert (name in LACKING[stage]) is not has
    value = "1" if name in NUMBERS or name == "score" else "2026-03-01" if name in TIMES else "x"
    where = parse(f"tenant = acme or not {f'{name}.x' if name in KEYED else name} = {value}")
    if has:
        check_fields(where, stage)
        return
    with pytest.raises(ConfigurationError, match=f"no event that {stage} reads has {name};") as refused:
        check_fields(where, stage)
    knows = str(refused.value).partition("known to --stage ")[2].partition(", and --ids")[0].split(", ")
    assert knows
    assert all(name not in LACKING[other] for other in knows)


def test_the_model_that_was_asked_for_is_a_field_of_its_own() -> None:
    with pytest.raises(ConfigurationError, match="requested_model is the model that a request names"):
        check_fields(parse("model != m1"), "complete")
    with pytest.raises(ConfigurationError, match="model is the model that answered"):
        check_fields(parse("requested_model = m1"), "account")
    record = completion(1, "live")
    record = replace(record, request=replace(record.request, model="m2"))
    here = subject(record=record, meta=record.meta)
    assert parse("model = m1 and requested_model = m2").test(here)
