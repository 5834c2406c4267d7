"""Expressions that choose the events of a replay."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from schemas.errors import ConfigurationError
from streams.replay.where import Subject, parse
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
