"""Which offset of a partition may be committed: the lowest that was delivered and not acknowledged.

Faust commits over an in-flight head (faust-streaming issue 606): it takes the end of the first run of
acknowledged offsets, whatever is missing before it. Here an offset counts as done only when it was delivered and
acknowledged, so gaps left by compaction, transactions or retention do not matter.
"""

from __future__ import annotations

from collections.abc import Hashable
from heapq import heappop, heappush
from typing import Generic, TypeVar

PartitionT = TypeVar("PartitionT", bound=Hashable)


class PartitionWatermark:
    """Delivered and acknowledged offsets of one partition. O(log n) an event; touched from one thread only."""

    __slots__ = ("_acked", "_heap", "_known", "_next", "acked_total")

    def __init__(self) -> None:
        # (offset, append time in seconds), lowest offset first.
        self._heap: list[tuple[int, float]] = []
        self._known: set[int] = set()
        self._acked: set[int] = set()
        self._next: int | None = None
        self.acked_total = 0

    def deliver(self, offset: int, appended_at_s: float) -> None:
        """Note an offset that goes to the stage; one that is there already is not noted twice."""
        if offset not in self._known:
            self._known.add(offset)
            heappush(self._heap, (offset, appended_at_s))
            self._next = max(self._next or 0, offset + 1)

    def ack(self, offset: int) -> bool:
        """Note that an offset is done. False for one that was not delivered under this assignment."""
        if offset not in self._known or offset in self._acked:
            return False
        self._acked.add(offset)
        self.acked_total += 1
        while self._heap and self._heap[0][0] in self._acked:
            done, _ = heappop(self._heap)
            self._acked.discard(done)
            self._known.discard(done)
        return True

    def holds(self, offset: int) -> bool:
        """Whether the offset was delivered and is not done."""
        return offset in self._known and offset not in self._acked

    @property
    def committable(self) -> int | None:
        """The offset to commit, that is the next to read; None before the first delivery."""
        return self._heap[0][0] if self._heap else self._next

    @property
    def in_flight(self) -> int:
        """How many offsets were delivered and are not done."""
        return len(self._known) - len(self._acked)

    @property
    def oldest_appended_at_s(self) -> float | None:
        """Append time of the lowest offset that is not done, in seconds since the epoch."""
        return self._heap[0][1] if self._heap else None


class Watermarks(Generic[PartitionT]):
    """The watermarks of all assigned partitions."""

    def __init__(self) -> None:
        self._partitions: dict[PartitionT, PartitionWatermark] = {}
        self._acked_before = 0

    def deliver(self, partition: PartitionT, offset: int, appended_at_s: float) -> None:
        """Note a delivered offset."""
        watermark = self._partitions.get(partition)
        if watermark is None:
            watermark = self._partitions[partition] = PartitionWatermark()
        watermark.deliver(offset, appended_at_s)

    def ack(self, partition: PartitionT, offset: int) -> bool:
        """Note that an offset is done; False where the partition is no longer ours."""
        watermark = self._partitions.get(partition)
        return watermark is not None and watermark.ack(offset)

    def holds(self, partition: PartitionT, offset: int) -> bool:
        """Whether the offset was delivered under this assignment and is not done."""
        watermark = self._partitions.get(partition)
        return watermark is not None and watermark.holds(offset)

    def committable(self) -> dict[PartitionT, int]:
        """The offset to commit by partition."""
        offsets = ((partition, mark.committable) for partition, mark in self._partitions.items())
        return {partition: offset for partition, offset in offsets if offset is not None}

    def drop(self, partitions: set[PartitionT] | None = None) -> None:
        """Forget partitions that were revoked or are read again; all of them where none is named."""
        for partition in list(self._partitions) if partitions is None else partitions:
            mark = self._partitions.pop(partition, None)
            self._acked_before += mark.acked_total if mark else 0

    @property
    def in_flight(self) -> int:
        """Delivered and not done, over all partitions."""
        return sum(mark.in_flight for mark in self._partitions.values())

    @property
    def acked_total(self) -> int:
        """Acknowledged since the start, over all assignments."""
        return self._acked_before + sum(mark.acked_total for mark in self._partitions.values())

    @property
    def oldest_appended_at_s(self) -> float | None:
        """Append time of the oldest event that is not done."""
        times = [mark.oldest_appended_at_s for mark in self._partitions.values()]
        return min((time for time in times if time is not None), default=None)
