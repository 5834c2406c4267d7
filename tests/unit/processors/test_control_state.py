"""What control records make live, in the order of their offsets."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from processors.control_state import ControlState
from schemas.errors import PoisonError
from schemas.records import Control, Meta

NOW = datetime(2026, 1, 10, tzinfo=UTC)
META = Meta(event_id="e", request_id="", tenant="", lane="live")


def record(kind: str, name: str, *, removed: bool = False, author: str = "", reason: str = "") -> Control:
    return Control(meta=META, kind=kind, name=name, removed=removed, author=author, reason=reason)


def test_a_pause_keeps_who_when_and_why_until_it_is_removed() -> None:
    state = ControlState()
    assert state.apply(record("pause", "tenant/acme", author="ada", reason="a flood"), offset=4, at=NOW)
    [pause] = state.pauses()
    assert (pause.kind, pause.name, pause.author, pause.reason) == ("tenant", "acme", "ada", "a flood")
    assert (pause.since, pause.offset) == (NOW, 4)
    assert state.paused("tenant", "acme") and not state.paused("route", "acme")
    state.apply(record("pause", "tenant/acme", author="eve"), offset=5, at=NOW + timedelta(hours=1))
    assert state.pauses() == (pause,), "a second pause does not hide who paused first"
    state.apply(record("pause", "tenant/acme", removed=True), offset=6, at=NOW)
    assert not state.pauses()


def test_what_is_paused_under_one_kind_is_free_under_another() -> None:
    state = ControlState()
    state.apply(record("pause", "route/complete"), offset=0, at=NOW)
    assert state.paused("route", "complete") and not state.paused("stage", "complete")


def test_a_request_id_may_hold_slashes() -> None:
    state = ControlState()
    state.apply(record("cancel", "acme/2026/01/7"), offset=0, at=NOW)
    assert state.cancelled("acme", "2026/01/7") and not state.cancelled("acme", "7")


@pytest.mark.parametrize(
    ("kind", "name", "removed"),
    [
        ("pause", "complete", False),
        ("pause", "stage/", False),
        ("pause", "/complete", False),
        ("pause", "planet/earth", False),
        ("pause", "tenant/" + "x" * 900, False),
        ("cancel", "r1", False),
        ("cancel", "acme/\x00", False),
        ("cancel", "acme/r1", True),
    ],
)
def test_a_record_that_says_nothing_sensible_is_refused_and_changes_nothing(
    kind: str, name: str, removed: bool
) -> None:
    state = ControlState()
    state.apply(record("cancel", "acme/r1"), offset=0, at=NOW)
    with pytest.raises(PoisonError):
        state.apply(record(kind, name, removed=removed), offset=1, at=NOW)
    assert not state.pauses() and [cancel.offset for cancel in state.cancels()] == [0]


def test_a_kind_that_workers_do_not_follow_is_no_error() -> None:
    assert ControlState().apply(record("channel", "anything"), offset=0, at=NOW) is False


def test_cancels_come_by_offset_and_one_that_is_repeated_comes_again() -> None:
    state = ControlState()
    for offset, name in enumerate(("acme/a", "acme/b", "acme/c", "acme/a")):
        state.apply(record("cancel", name), offset=offset, at=NOW)
    assert [cancel.request_id for cancel in state.cancels()] == ["b", "c", "a"]
    assert [cancel.request_id for cancel in state.cancels(after=2)] == ["a"]
    assert not state.cancels(after=3)


def test_cancels_are_kept_no_longer_than_they_can_matter() -> None:
    now = NOW
    kept = timedelta(days=20)
    state = ControlState(lambda: now, kept=kept)
    state.apply(record("cancel", "acme/old"), offset=0, at=NOW - kept - timedelta(seconds=1))
    assert not state.cancelled("acme", "old"), "history that is read at a start is not taken in"
    state.apply(record("cancel", "acme/a"), offset=1, at=NOW - timedelta(days=1))
    state.apply(record("cancel", "acme/b"), offset=2, at=NOW)
    now = NOW + kept - timedelta(hours=1)
    state.forget()
    assert not state.cancelled("acme", "a") and state.cancelled("acme", "b")
