"""Records that are changed: as dataclasses would do it, in a tenth of the time."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace

import pytest

from schemas.record import changed
from schemas.records import Request, Text
from tests.unit.schemas.events import META, REQUEST


def test_a_changed_record_is_what_replace_makes_of_it_and_the_first_stays_as_it_was() -> None:
    before = replace(REQUEST)

    found = changed(REQUEST, meta=changed(META, lane="other"), query=None)

    assert found == replace(REQUEST, meta=replace(META, lane="other"), query=None)
    assert type(found) is Request
    assert before == REQUEST


def test_a_changed_record_is_as_frozen_as_any() -> None:
    found = changed(Text(inline="a"), inline="b")

    with pytest.raises(FrozenInstanceError):
        found.inline = "c"  # type: ignore[misc]
    assert hash(found) == hash(Text(inline="b"))


def test_a_field_that_a_record_does_not_have_is_no_change() -> None:
    with pytest.raises(AttributeError):
        changed(Text(inline="a"), outline="b")
