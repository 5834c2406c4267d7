"""Seals: trees, chains, and each way in which records, seals and tombstones can be tampered with."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from schemas.errors import ConfigurationError
from streams.auditing.findings import Finding
from streams.auditing.merkle import leaf_hash, path_to, root_by, root_of
from streams.auditing.proof import holds, prove
from streams.auditing.sealed import Exported, Partition, SealCheck, SealCounts
from streams.auditing.sealing import Open
from streams.auditing.seals import NOTHING, MemorySeals, Seal, Tombstone, leaf_of, seal_hash, sealed, tombstone_hash
from streams.auditing.verify import Scope
from streams.cli.audit_verify import seal_notes
from streams.reading import Entry, Place, Stretch

START = datetime(2026, 5, 1, tzinfo=UTC)
NOW = START + timedelta(hours=2)
PLACE = ("live.answers", 0)
DAYS = 30.0


def entry(offset: int, value: bytes | None = None) -> Entry:
    headers = (("ce_id", str(offset).encode()), ("empty", None))
    at = START + timedelta(seconds=offset)
    return Entry(*PLACE, offset, at, b"r1", value or f"value {offset}".encode(), headers)


def chained(*stretches: Sequence[int], start: int = 0) -> list[Seal]:
    """Seals over the records at these offsets, each stretch one."""
    seals: list[Seal] = []
    for offsets in stretches:
        entries = [entry(offset) for offset in offsets]
        seals.append(
            sealed(
                seals[-1] if seals else None,
                place=PLACE,
                topic_id="t1",
                from_offset=seals[-1].to_offset + 1 if seals else start,
                offsets=offsets,
                leaves=[leaf_of(one) for one in entries],
                first_at=entries[0].time,
                last_at=entries[-1].time,
                sealed_at=NOW,
            )
        )
    return seals


def checked(
    seals: Sequence[Seal],
    entries: Sequence[Entry],
    *,
    log: Stretch | None = None,
    stones: Sequence[Tombstone] = (),
    exported: Exported | None = None,
    topic_id: str = "t1",
    now: datetime = NOW,
) -> tuple[list[Finding], SealCounts]:
    store = MemorySeals()
    store.seals, store.stones = list(seals), list(stones)
    check = SealCheck(store, now=now, exported=exported)
    buried, found = check.buried()

    def read(_place: Place, stretch: Stretch) -> Iterable[Entry]:
        return [one for one in entries if stretch.start <= one.offset < stretch.end]

    end = max((one.offset for one in entries), default=-1) + 1
    of = Partition(place=PLACE, topic_id=topic_id, log=log or Stretch(0, end), kept_days=DAYS)
    found += check.partition(of, buried, START - timedelta(days=1), now, read)
    return found, check.counts


def kinds(found: Sequence[Finding]) -> list[tuple[str, str]]:
    return [(one.kind, one.place.partition("@")[2]) for one in found]


SEALS = chained([0, 1, 2], [3, 4], [5, 6, 7, 8])
ENTRIES = [entry(offset) for offset in range(9)]


def test_roots_are_those_of_rfc_6962() -> None:
    """The reference inputs and roots of certificate transparency's own tests."""
    inputs = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
    leaves = [leaf_hash(bytes.fromhex(one)) for one in inputs]
    wanted = {
        0: "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        1: "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        2: "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        3: "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        5: "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        8: "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    }
    assert {count: root_of(leaves[:count]).hex() for count in wanted} == wanted


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 7, 8, 9, 33])
def test_every_leaf_has_a_path_to_the_root_and_no_other_leaf_has(count: int) -> None:
    leaves = [leaf_hash(str(number).encode()) for number in range(count)]
    for index, leaf in enumerate(leaves):
        assert root_by(leaf, path_to(leaves, index)) == root_of(leaves)
        assert root_by(leaf_hash(b"other"), path_to(leaves, index)) != root_of(leaves)
    with pytest.raises(IndexError):
        path_to(leaves, count)


def test_a_records_hash_depends_on_all_of_it_and_on_what_belongs_to_what() -> None:
    one = entry(3)
    others = [
        replace(one, offset=4),
        replace(one, time=one.time + timedelta(milliseconds=1)),
        replace(one, key=None),
        replace(one, key=b""),
        replace(one, key=b"r", value=b"1" + (one.value or b"")),
        replace(one, value=None),
        replace(one, headers=one.headers[:1]),
        replace(one, headers=(("ce_id", b"3"), ("empty", b""))),
    ]
    assert len({leaf_of(other) for other in [one, *others]}) == len(others) + 1


def test_what_was_sealed_and_is_as_it_was_has_nothing_to_say() -> None:
    found, counts = checked(SEALS, ENTRIES)
    assert (found, counts.seals, counts.records, counts.partitions) == ([], 3, 9, 1)
    # Newer records are not sealed yet.
    assert checked(SEALS, [*ENTRIES, entry(9)])[0] == []


def test_a_seal_that_is_made_meanwhile_is_not_looked_at() -> None:
    assert checked(SEALS, [], log=Stretch(0, 0), now=NOW - timedelta(seconds=1))[0] == []


def test_an_altered_record_is_found_by_its_offset() -> None:
    altered = [*ENTRIES[:4], entry(4, b"forged"), *ENTRIES[5:]]
    assert kinds(checked(SEALS, altered)[0]) == [("record_altered", "4")]


def test_of_many_altered_records_the_first_of_a_seal_is_told_with_their_number() -> None:
    altered = [entry(one.offset, b"forged") if one.offset > 5 else one for one in ENTRIES]
    (found,) = checked(SEALS, altered)[0]
    assert (found.place, found.detail) == ("live.answers-0@6", "seal 2, the first of 3")


def test_a_missing_record_is_found_and_one_with_a_tombstone_is_erased() -> None:
    left = [one for one in ENTRIES if one.offset != 6]
    assert kinds(checked(SEALS, left)[0]) == [("record_missing", "6")]
    found, counts = checked(SEALS, left, stones=stones(6))
    assert (found, counts.erased) == ([], 1)
    # A tombstone of another record proves nothing.
    other = tombstone(0, NOTHING, replace(entry(6), value=b"another"))
    assert kinds(checked(SEALS, left, stones=[other])[0]) == [("record_missing", "6")]


def test_a_record_where_there_was_none_is_found() -> None:
    seals = chained([0, 1, 3], [4])
    entries = [entry(offset) for offset in (0, 1, 3, 4)]
    assert checked(seals, entries)[0] == []
    assert kinds(checked(seals, [*entries[:2], entry(2), *entries[2:]])[0]) == [("record_added", "2")]


def test_records_gone_by_retention_are_proved_by_the_chain_and_those_gone_early_are_missing() -> None:
    late = NOW + timedelta(days=DAYS)
    left = ENTRIES[4:]
    found, counts = checked(SEALS, left, log=Stretch(4, 9), now=late)
    assert (found, counts.expired) == ([], 4)
    found, _ = checked(SEALS, left, log=Stretch(4, 9))
    assert kinds(found) == [("record_missing", "0"), ("record_missing", "3")]
    # The leaves go with the records; root and chain stay.
    bare = [replace(one, leaves=None, offsets=None) for one in SEALS[:1]] + SEALS[1:]
    found, counts = checked(bare, left, log=Stretch(4, 9), now=late)
    assert (found, counts.expired) == ([], 4)


def test_a_table_of_seals_that_was_altered_is_found() -> None:
    changed = replace(SEALS[1], root=bytes(32))
    assert ("seal_broken", "3") in kinds(checked([SEALS[0], changed, SEALS[2]], ENTRIES)[0])
    # What it says beside root and leaves, and the root of records that have gone.
    later = replace(SEALS[1], sealed_at=NOW - timedelta(minutes=1))
    assert kinds(checked([SEALS[0], later, SEALS[2]], ENTRIES)[0]) == [("seal_broken", "3")]
    bare, late = replace(SEALS[0], leaves=None, root=bytes(32)), NOW + timedelta(days=DAYS)
    found = checked([bare, *SEALS[1:]], ENTRIES[3:], log=Stretch(3, 9), now=late)[0]
    assert kinds(found) == [("seal_broken", "0")]
    # Made to fit the altered records, leaves and root too: the seal after it names another.
    forged = replace(SEALS[1], leaves=b"".join(leaf_of(entry(offset, b"forged")) for offset in (3, 4)))
    forged = replace(forged, root=root_of(list(forged.hashes().values())))
    forged = replace(forged, seal=seal_hash(forged))
    altered = [entry(one.offset, b"forged") if one.offset in (3, 4) else one for one in ENTRIES]
    assert kinds(checked([SEALS[0], forged, SEALS[2]], altered)[0]) == [("seal_broken", "5")]
    assert kinds(checked([SEALS[0], SEALS[2]], ENTRIES)[0]) == [("seal_broken", "5"), ("gone_unsealed", "3")]
    # Leaves that are not those of the root.
    assert kinds(checked([replace(SEALS[0], leaves=SEALS[1].leaves), *SEALS[1:]], ENTRIES)[0]) == [("seal_broken", "0")]


def test_a_chain_that_was_made_anew_from_end_to_end_differs_from_the_export() -> None:
    exported = Exported({(one.topic, one.partition, one.number): one.seal for one in SEALS})
    assert checked(SEALS, ENTRIES, exported=exported)[0] == []
    forged = chained([0, 1, 2, 3, 4], [5, 6, 7, 8])
    assert kinds(checked(forged, ENTRIES)[0]) == []
    found = checked(forged, ENTRIES, exported=exported)[0]
    assert [(one.kind, one.detail) for one in found] == [
        ("seal_differs", "seal 0"),
        ("seal_differs", "seal 1"),
        ("seal_differs", "seal 2 is gone"),
    ]


def test_what_went_before_it_was_sealed_and_a_topic_that_was_made_again_are_told() -> None:
    first = chained([0, 1])[0]
    entries = [entry(offset) for offset in (5, 6)]
    after = sealed(
        first,
        place=PLACE,
        topic_id="t1",
        from_offset=5,
        offsets=[5, 6],
        leaves=[leaf_of(one) for one in entries],
        first_at=START,
        last_at=START,
        sealed_at=NOW,
    )
    found, _ = checked([first, after], [entry(0), entry(1), *entries])
    assert [(one.kind, one.detail) for one in found] == [("gone_unsealed", "3 records at most")]
    assert {kind for kind, _ in kinds(checked(SEALS, ENTRIES, topic_id="t2")[0])} == {"log_restarted"}
    assert checked(SEALS, ENTRIES, topic_id="t2", now=NOW + timedelta(days=DAYS))[0] == []
    assert ("log_restarted", "6") in kinds(checked(SEALS, ENTRIES[:6])[0])


def test_a_time_of_sealing_that_was_moved_to_the_future_hides_nothing() -> None:
    altered = [*ENTRIES[:1], entry(1, b"forged"), *ENTRIES[2:]]
    future = replace(SEALS[0], sealed_at=NOW + timedelta(days=9_999))
    found = checked([future, *SEALS[1:]], altered)[0]
    assert kinds(found) == [("seal_broken", "0"), ("record_altered", "1")]
    # The last of the chain, made to fit.
    last = replace(SEALS[2], sealed_at=NOW + timedelta(days=9_999))
    last = replace(last, seal=seal_hash(last))
    altered = [*ENTRIES[:6], entry(6, b"forged"), *ENTRIES[7:]]
    assert kinds(checked([*SEALS[:2], last], altered)[0]) == [("record_altered", "6")]


def test_leaves_that_were_taken_from_the_table_hide_nothing() -> None:
    bare = [replace(SEALS[0], leaves=None, offsets=None), *SEALS[1:]]
    taken = ("seal_broken", "0")
    assert kinds(checked(bare, ENTRIES)[0]) == [taken]
    altered = [*ENTRIES[:1], entry(1, b"forged"), *ENTRIES[2:]]
    assert kinds(checked(bare, altered)[0]) == [taken, ("record_altered", "0")]
    assert kinds(checked(bare, ENTRIES[1:])[0]) == [taken, ("record_missing", "0")]
    # Young ones, cut off at the beginning of the log; old ones that are still there.
    assert kinds(checked(bare, ENTRIES[3:], log=Stretch(3, 9))[0]) == [taken, ("record_missing", "0")]
    assert kinds(checked(bare, altered, now=NOW + timedelta(days=DAYS))[0]) == [taken, ("record_altered", "0")]
    # A record that was erased is known by its tombstone.
    assert kinds(checked(bare, [ENTRIES[0], *ENTRIES[2:]], stones=stones(1))[0]) == [taken]


def test_records_that_went_behind_the_last_seal_and_before_the_first_are_told() -> None:
    left = [entry(offset) for offset in range(12, 15)]
    late = NOW + timedelta(days=DAYS)
    found, counts = checked(SEALS, left, log=Stretch(12, 15), now=late)
    assert [(one.kind, one.place, one.detail) for one in found] == [
        ("gone_unsealed", "live.answers-0@9", "3 records at most; no seal since seal 2")
    ]
    assert (counts.unsealed, counts.sealed_at, counts.gone_before) == (3, NOW, 0)
    begun = chained([7, 8], start=7)
    found, counts = checked(begun, [*ENTRIES[7:], entry(9)], log=Stretch(7, 10))
    assert (found, counts.gone_before, counts.unsealed) == ([], 7, 1)
    said = list(seal_notes(Scope(lane="live", since=START, until=None, grace_s=0), counts))[1:]
    assert "2026-05-01T02:00:00.000Z; 1 offsets behind" in said[0]
    assert said[1].startswith("7 offsets had gone before sealing began")


def test_what_was_read_waits_on_behind_a_seal_that_was_stored_without_its_leaves() -> None:
    first = SEALS[0]
    waiting = Open(first, "t1", 3)
    waiting.take(entry(3))
    stored = replace(first, leaves=None, offsets=None)
    assert waiting.waits(stored, "t1", 3)
    assert not waiting.waits(replace(SEALS[1], leaves=None), "t1", 5)
    assert not waiting.waits(stored, "t2", 0)
    assert not waiting.waits(None, "t1", 0)


def tombstone(number: int, previous: bytes, of: Entry) -> Tombstone:
    blank = Tombstone(
        number=number,
        topic=of.topic,
        partition=of.partition,
        offset=of.offset,
        leaf=leaf_of(of),
        request_id="r1",
        reason="asked for",
        author="root",
        erased_at=NOW,
        previous=previous,
        hash=b"",
    )
    return replace(blank, hash=tombstone_hash(blank))


def stones(*offsets: int) -> list[Tombstone]:
    made: list[Tombstone] = []
    for number, offset in enumerate(offsets):
        made.append(tombstone(number, made[-1].hash if made else NOTHING, entry(offset)))
    return made


def test_tombstones_that_were_altered_or_taken_away_are_found() -> None:
    made = stones(6, 7)
    left = [one for one in ENTRIES if one.offset not in (6, 7)]
    assert checked(SEALS, left, stones=made)[0] == []
    changed = [replace(made[0], reason="another"), made[1]]
    assert kinds(checked(SEALS, left, stones=changed)[0]) == [("seal_broken", "6")]
    exported = Exported(stones={one.number: one.hash for one in made})
    found = checked(SEALS, [*ENTRIES[:7], entry(8)], stones=made[:1], exported=exported)[0]
    assert [one.kind for one in found] == ["seal_differs", "record_missing"]


def proof() -> dict[str, Any]:
    made: dict[str, Any] = json.loads(json.dumps(prove(entry(6), SEALS[2]), default=str))
    return made


def test_a_record_is_proved_without_the_others() -> None:
    assert holds(proof()) == SEALS[2].seal.hex()


@pytest.mark.parametrize(
    ("where", "value", "said"),
    [
        (("record", "value"), "Zm9yZ2Vk", "do not lead to the seal's root"),
        (("record", "offset"), 7, "do not lead to the seal's root"),
        (("record", "partition"), 1, "of another partition"),
        (("seal", "to_offset"), 99, "does not follow"),
        (("seal", "root"), hashlib.sha256(b"x").hexdigest(), "do not lead to the seal's root"),
        (("seal", "sealed_at"), "yesterday", "no proof"),
        (("record", "key"), "§", "no proof"),
    ],
)
def test_a_proof_that_was_altered_does_not_hold(where: tuple[str, str], value: object, said: str) -> None:
    altered = proof()
    altered[where[0]][where[1]] = value
    with pytest.raises(ConfigurationError, match=said):
        holds(altered)


def test_what_was_altered_or_has_lost_its_hash_can_not_be_proved() -> None:
    with pytest.raises(ConfigurationError, match="not the one that was sealed"):
        prove(entry(6, b"forged"), SEALS[2])
    with pytest.raises(ConfigurationError, match="keeps no hash"):
        prove(entry(6), replace(SEALS[2], leaves=None))
