"""Whether what was sealed is still there, as it was: chain by chain, and record by record where there still are any."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from streams.auditing.findings import Finding
from streams.auditing.merkle import root_of
from streams.auditing.seals import NOTHING, Seal, Seals, Tombstone, leaf_of, seal_hash, tombstone_hash
from streams.reading import Entry, Place, Stretch
from streams.retention import DAY_S, FOREVER

# A broker removes what is older than its retention, by the newest record of a segment.
EARLY = timedelta(hours=1)

Read = Callable[[Place, Stretch], Iterable[Entry]]
# Topic, partition and offset of a record, and its hash.
Buried = Mapping[tuple[str, int, int], bytes]


@dataclass(frozen=True, slots=True)
class Exported:
    """Hashes that were exported: of seals by topic, partition and number, and of tombstones by number."""

    seals: Mapping[tuple[str, int, int], bytes] = field(default_factory=dict)
    stones: Mapping[int, bytes] = field(default_factory=dict)


@dataclass(slots=True)
class SealCounts:
    """What was checked."""

    seals: int = 0
    records: int = 0
    # Gone with a tombstone; gone by retention, in seals whose chain is whole.
    erased: int = 0
    expired: int = 0
    partitions: int = 0
    # Offsets that had gone before the first seals, and offsets behind the last ones.
    gone_before: int = 0
    unsealed: int = 0
    # When the latest seal was made.
    sealed_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition:
    """A partition as it is now. ``kept_days``: its retention."""

    place: Place
    topic_id: str
    log: Stretch
    kept_days: float


class SealCheck:
    """Checks seals against records. ``exported``: what was exported earlier, which has to be there."""

    def __init__(self, seals: Seals, *, now: datetime, exported: Exported | None = None) -> None:
        self._seals, self._now, self._exported = seals, now, exported or Exported()
        self.counts = SealCounts()

    def buried(self) -> tuple[dict[tuple[str, int, int], bytes], list[Finding]]:
        """The tombstones, and whether their chain is whole."""
        found: dict[tuple[str, int, int], bytes] = {}
        broken: list[Finding] = []
        previous, number = NOTHING, 0
        for stone in self._seals.tombstones():
            if stone.previous != previous or stone.number != number or stone.hash != tombstone_hash(stone):
                broken.append(Finding("seal_broken", place=_stone_place(stone), detail=f"tombstone {stone.number}"))
            previous, number = stone.hash, stone.number + 1
            found[stone.topic, stone.partition, stone.offset] = stone.leaf
            if self._exported.stones.get(stone.number, stone.hash) != stone.hash:
                broken.append(Finding("seal_differs", place=_stone_place(stone), detail=f"tombstone {stone.number}"))
        for lost in sorted(one for one in self._exported.stones if one >= number):
            broken.append(Finding("seal_differs", detail=f"tombstone {lost} is gone"))
        return found, broken

    def partition(
        self, of: Partition, buried: Buried, since: datetime, until: datetime, read: Read
    ) -> Iterator[Finding]:
        """Check every seal of a partition, and the records of those that reach into the stretch of time.

        Yields the first of each kind of a seal. Reads the records of one seal at a time.
        """
        self.counts.partitions += 1
        before: Seal | None = None
        for seal in self._seals.of(of.place):
            self.counts.seals += 1
            yield from self._chained(before, seal)
            before = seal
            if seal.sealed_at > self._now and seal.to_offset >= of.log.end:
                # A sealer is at work, and the log was looked at before it.
                continue
            if seal.topic_id != of.topic_id:
                if self._still_kept(seal, of):
                    yield Finding("log_restarted", place=_place(seal, seal.from_offset), detail=f"seal {seal.number}")
            elif seal.last_at >= since and seal.first_at <= until:
                yield from self._records(of, self._seals.leaves(seal), buried, read)
        if before is not None:
            yield from self._behind(before, of)
        held = before.number if before else -1
        for topic, partition, number in self._exported.seals:
            if (topic, partition) == of.place and number > held:
                yield Finding("seal_differs", place=f"{topic}-{partition}", detail=f"seal {number} is gone")

    def _behind(self, last: Seal, of: Partition) -> Iterator[Finding]:
        """What was not sealed behind the last seal."""
        self.counts.sealed_at = max(last.sealed_at, self.counts.sealed_at or last.sealed_at)
        if last.topic_id != of.topic_id:
            self.counts.unsealed += of.log.end - of.log.start
            return
        behind = last.to_offset + 1
        self.counts.unsealed += max(0, of.log.end - max(of.log.start, behind))
        if of.log.start > behind:
            detail = f"{of.log.start - behind} records at most; no seal since seal {last.number}"
            yield Finding("gone_unsealed", place=_place(last, behind), detail=detail)

    def _chained(self, before: Seal | None, seal: Seal) -> Iterator[Finding]:
        previous = NOTHING if before is None else before.seal
        number = 0 if before is None else before.number + 1
        detail = f"seal {seal.number}"
        if before is None:
            self.counts.gone_before += seal.from_offset
        if seal.previous != previous or seal.number != number or seal.seal != seal_hash(seal):
            yield Finding("seal_broken", place=_place(seal, seal.from_offset), detail=detail)
        exported = self._exported.seals.get((seal.topic, seal.partition, seal.number))
        if exported is not None and exported != seal.seal:
            yield Finding("seal_differs", place=_place(seal, seal.from_offset), detail=detail)
        if before is not None and before.topic_id == seal.topic_id and seal.from_offset > before.to_offset + 1:
            gone = f"{seal.from_offset - before.to_offset - 1} records at most"
            yield Finding("gone_unsealed", place=_place(seal, before.to_offset + 1), detail=gone)

    def _records(self, of: Partition, seal: Seal, buried: Buried, read: Read) -> Iterator[Finding]:
        wanted = seal.hashes()
        if not wanted:
            yield from self._without_leaves(of, seal, buried, read)
            return
        detail = f"seal {seal.number}"
        if len(wanted) != seal.records or root_of(list(wanted.values())) != seal.root:
            yield Finding("seal_broken", place=_place(seal, seal.from_offset), detail=f"{detail}: leaves")
            return
        told: dict[str, list[Finding]] = {}
        start = max(seal.from_offset, of.log.start)
        if seal.to_offset >= of.log.end:
            # The log ends before what was sealed: it was cut, though its topic is the same one.
            told["log_restarted"] = [Finding("log_restarted", place=_place(seal, of.log.end), detail=detail)]
        stretch = Stretch(start, min(seal.to_offset + 1, of.log.end))
        for entry in read(of.place, stretch) if stretch.start < stretch.end else ():
            self.counts.records += 1
            hashed = wanted.pop(entry.offset, None)
            if hashed != leaf_of(entry):
                kind = "record_added" if hashed is None else "record_altered"
                told.setdefault(kind, []).append(Finding(kind, place=_place(seal, entry.offset), detail=detail))
        for offset, leaf in wanted.items():
            if buried.get((seal.topic, seal.partition, offset)) == leaf:
                self.counts.erased += 1
            elif offset < of.log.start and not self._still_kept(seal, of):
                self.counts.expired += 1
            else:
                missing = Finding("record_missing", place=_place(seal, offset), detail=detail)
                told.setdefault("record_missing", []).append(missing)
        for findings in told.values():
            more = f", the first of {len(findings):,}" if len(findings) > 1 else ""
            yield replace(findings[0], detail=findings[0].detail + more)

    def _without_leaves(self, of: Partition, seal: Seal, buried: Buried, read: Read) -> Iterator[Finding]:
        """The sealer drops leaves only of records that retention took; any others were taken from the table."""
        if seal.to_offset < of.log.start and not self._last_kept(seal, of):
            # The chain is what is left, and it was checked.
            self.counts.expired += seal.records
            return
        first, detail = _place(seal, seal.from_offset), f"seal {seal.number}"
        yield Finding("seal_broken", place=first, detail=f"{detail}: its leaves are gone before their time")
        stretch = Stretch(max(seal.from_offset, of.log.start), min(seal.to_offset + 1, of.log.end))
        places = range(seal.from_offset, seal.to_offset + 1)
        leaves = {at: leaf for at in places if (leaf := buried.get((seal.topic, seal.partition, at))) is not None}
        for entry in read(of.place, stretch) if stretch.start < stretch.end else ():
            self.counts.records += 1
            leaves[entry.offset] = leaf_of(entry)
        if len(leaves) != seal.records:
            kind = "record_missing" if len(leaves) < seal.records else "record_added"
            yield Finding(kind, place=first, detail=f"{detail}: {len(leaves):,} of {seal.records:,} records are there")
        elif root_of([leaves[at] for at in sorted(leaves)]) != seal.root:
            yield Finding("record_altered", place=first, detail=f"{detail}: which one can't be told without its leaves")

    def _last_kept(self, seal: Seal, of: Partition) -> bool:
        """Whether the seal's last record would be there by retention alone."""
        if of.kept_days == FOREVER:
            return True
        return seal.last_at + timedelta(seconds=of.kept_days * DAY_S) - EARLY > self._now

    def _still_kept(self, seal: Seal, of: Partition) -> bool:
        """Whether the seal's records would all be there by retention alone."""
        if of.kept_days == FOREVER:
            return True
        return seal.first_at + timedelta(seconds=of.kept_days * DAY_S) - EARLY > self._now


def _place(seal: Seal, offset: int) -> str:
    return f"{seal.topic}-{seal.partition}@{offset}"


def _stone_place(stone: Tombstone) -> str:
    return f"{stone.topic}-{stone.partition}@{stone.offset}"
