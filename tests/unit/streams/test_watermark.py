"""The offset to commit is the lowest that was delivered and not acknowledged."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from streams.watermark import PartitionWatermark, Watermarks


def delivered(*offsets: int) -> PartitionWatermark:
    mark = PartitionWatermark()
    for offset in offsets:
        mark.deliver(offset, float(offset))
    return mark


def test_nothing_is_committable_before_the_first_delivery() -> None:
    assert PartitionWatermark().committable is None


def test_an_in_flight_head_holds_the_commit_though_all_behind_it_is_acked() -> None:
    mark = delivered(100, 101, 102, 103)
    for offset in (101, 102, 103):
        mark.ack(offset)
    assert mark.committable == 100


def test_the_commit_passes_gaps_of_offsets_that_were_never_delivered() -> None:
    mark = delivered(5, 9, 20)
    mark.ack(5)
    mark.ack(9)
    assert mark.committable == 20
    mark.ack(20)
    assert mark.committable == 21


def test_an_ack_of_an_offset_that_was_not_delivered_changes_nothing() -> None:
    mark = delivered(1)
    assert not mark.ack(7)
    assert mark.committable == 1


def test_a_revoked_partition_is_forgotten_and_its_late_acks_are_void() -> None:
    marks: Watermarks[str] = Watermarks()
    marks.deliver("a", 1, 0.0)
    marks.deliver("b", 1, 0.0)
    marks.drop({"a"})
    assert not marks.ack("a", 1)
    assert marks.committable() == {"b": 1}
    assert not marks.holds("a", 1)
    assert marks.holds("b", 1)


def test_the_oldest_age_is_that_of_the_lowest_offset_in_process() -> None:
    mark = delivered(3, 4)
    assert mark.oldest_appended_at_s == 3.0
    mark.ack(3)
    assert mark.oldest_appended_at_s == 4.0


@given(st.sets(st.integers(0, 60), min_size=1), st.data())
def test_no_order_of_acks_commits_past_an_unacked_offset(offsets: set[int], data: st.DataObject) -> None:
    ordered = sorted(offsets)
    mark = delivered(*ordered)
    left = set(ordered)
    for offset in data.draw(st.permutations(ordered)):
        mark.ack(offset)
        left.discard(offset)
        assert mark.committable == (min(left) if left else ordered[-1] + 1)
        assert mark.in_flight == len(left)
    assert mark._known == set() and mark._acked == set(), "memory is bounded by what is in flight"
