"""Ids that were seen lately."""

from __future__ import annotations

from streams.replay.remembered import Remembered


def test_an_id_is_new_once_and_the_oldest_are_forgotten() -> None:
    seen = Remembered(most=3)

    assert [seen.add(one) for one in "abca"] == [True, True, True, False]
    assert seen.add("d")
    # Not what was asked for last is kept, but what came last.
    assert not seen.add("b")
    assert seen.add("a")
    assert seen.add("b")
