"""Seals over partitions and tombstones of records: what they hold, and the hashes that chain them. Pure."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Protocol

from streams.auditing.merkle import HASH_BYTES, leaf_hash, root_of
from streams.reading import Entry, Place

SEAL, TOMBSTONE = b"\x02", b"\x03"
# What the first of a chain names as the one before.
NOTHING = bytes(HASH_BYTES)
_OFFSET = struct.Struct(">I")
_NUMBER = struct.Struct(">q")


@dataclass(frozen=True, slots=True, kw_only=True)
class Seal:
    """What a partition held from ``from_offset`` to ``to_offset``. ``leaves`` are the records' hashes, while kept."""

    topic: str
    partition: int
    number: int
    topic_id: str
    from_offset: int
    to_offset: int
    records: int
    first_at: datetime
    last_at: datetime
    root: bytes
    previous: bytes
    seal: bytes
    sealed_at: datetime
    leaves: bytes | None = None
    offsets: bytes | None = None

    def hashes(self) -> dict[int, bytes]:
        """Offset to hash of each record; none once the leaves have gone."""
        leaves = self.leaves or b""
        hashes = [leaves[at : at + HASH_BYTES] for at in range(0, len(leaves), HASH_BYTES)]
        if self.offsets is None:
            places: Iterable[int] = range(self.from_offset, self.from_offset + len(hashes))
        else:
            places = (self.from_offset + step for (step,) in _OFFSET.iter_unpack(self.offsets))
        return dict(zip(places, hashes, strict=False))


@dataclass(frozen=True, slots=True, kw_only=True)
class Tombstone:
    """A record that was removed on purpose."""

    number: int
    topic: str
    partition: int
    offset: int
    leaf: bytes
    request_id: str
    reason: str
    author: str
    erased_at: datetime
    previous: bytes
    hash: bytes


class Seals(Protocol):
    """Where seals and tombstones are kept. Blocks; raises ``DependencyDownError``."""

    def last(self, topics: Sequence[str]) -> dict[Place, Seal]:
        """The latest seal of each partition, without its leaves."""
        ...

    def add(self, seals: Sequence[Seal]) -> None:
        """Keep seals. Raises ``ConfigurationError`` when another sealer was first."""
        ...

    def of(self, place: Place) -> Iterator[Seal]:
        """Every seal of a partition in order of number, without the leaves."""
        ...

    def leaves(self, seal: Seal) -> Seal:
        """The seal with its leaves, where they are kept."""
        ...

    def tombstones(self) -> Iterator[Tombstone]:
        """Every tombstone, in order of number."""
        ...

    def forget_leaves(self, place: Place, *, below: int, before: datetime) -> int:
        """Drop the leaves of seals that end below an offset and before a time; how many."""
        ...


def leaf_of(entry: Entry) -> bytes:
    """A record's hash: over offset, time in milliseconds, key, value and headers, each with its length."""
    parts = [_NUMBER.pack(entry.offset), _NUMBER.pack(round(entry.time.timestamp() * 1000))]
    parts += [_sized(entry.key), _sized(entry.value), _NUMBER.pack(len(entry.headers))]
    for name, value in entry.headers:
        parts += [_sized(name.encode()), _sized(value)]
    return leaf_hash(b"".join(parts))


def sealed(
    before: Seal | None,
    *,
    place: Place,
    topic_id: str,
    from_offset: int,
    offsets: Sequence[int],
    leaves: Sequence[bytes],
    first_at: datetime,
    last_at: datetime,
    sealed_at: datetime,
) -> Seal:
    """The next seal of a partition, over at least one record."""
    whole = offsets[-1] - from_offset + 1 == len(offsets)
    steps = None if whole else b"".join(_OFFSET.pack(offset - from_offset) for offset in offsets)
    seal = Seal(
        topic=place[0],
        partition=place[1],
        number=0 if before is None else before.number + 1,
        topic_id=topic_id,
        from_offset=from_offset,
        to_offset=offsets[-1],
        records=len(offsets),
        first_at=first_at,
        last_at=last_at,
        root=root_of(leaves),
        previous=NOTHING if before is None else before.seal,
        seal=b"",
        sealed_at=sealed_at,
        leaves=b"".join(leaves),
        offsets=steps,
    )
    return replace(seal, seal=seal_hash(seal))


def seal_hash(seal: Seal) -> bytes:
    """What a seal's own hash has to be."""
    parts = [SEAL, seal.previous, seal.root, _sized(seal.topic.encode()), _sized(seal.topic_id.encode())]
    numbers = (seal.partition, seal.number, seal.from_offset, seal.to_offset, seal.records)
    parts += [_NUMBER.pack(number) for number in numbers]
    parts += [_NUMBER.pack(_micros(moment)) for moment in (seal.first_at, seal.last_at, seal.sealed_at)]
    return hashlib.sha256(b"".join(parts)).digest()


def tombstone_hash(stone: Tombstone) -> bytes:
    """What a tombstone's own hash has to be."""
    parts = [TOMBSTONE, stone.previous, stone.leaf, _sized(stone.topic.encode())]
    parts += [_NUMBER.pack(number) for number in (stone.number, stone.partition, stone.offset)]
    parts += [_sized(text.encode()) for text in (stone.request_id, stone.reason, stone.author)]
    return hashlib.sha256(b"".join([*parts, _NUMBER.pack(_micros(stone.erased_at))])).digest()


def _sized(data: bytes | None) -> bytes:
    """Bytes after their length, so that no two records run together; -1 for null."""
    return _NUMBER.pack(-1) if data is None else _NUMBER.pack(len(data)) + data


def _micros(moment: datetime) -> int:
    since = moment.astimezone(UTC) - datetime(1970, 1, 1, tzinfo=UTC)
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


class MemorySeals:
    """Seals that a test keeps, and may alter."""

    def __init__(self) -> None:
        self.seals: list[Seal] = []
        self.stones: list[Tombstone] = []

    def last(self, topics: Sequence[str]) -> dict[Place, Seal]:
        return {(one.topic, one.partition): one for one in self.seals if one.topic in topics}

    def add(self, seals: Sequence[Seal]) -> None:
        self.seals += seals

    def of(self, place: Place) -> Iterator[Seal]:
        return iter([one for one in self.seals if (one.topic, one.partition) == place])

    def leaves(self, seal: Seal) -> Seal:
        return seal

    def tombstones(self) -> Iterator[Tombstone]:
        return iter(self.stones)

    def forget_leaves(self, place: Place, *, below: int, before: datetime) -> int:
        gone = [one for one in self.of(place) if one.to_offset < below and one.last_at < before and one.leaves]
        self.seals = [replace(one, leaves=None, offsets=None) if one in gone else one for one in self.seals]
        return len(gone)
