"""Parting a record from its large texts, and making it whole."""

from __future__ import annotations

from dataclasses import replace

import pytest

from processors.bodies import FakeBodies, digest_of
from processors.claimcheck import part, ref_of, refs_of, texts, whole
from schemas.codec import Codec
from schemas.records import PromptRef, Text
from tests.support.enrichments import enrichment

CODEC = Codec.offline()
LARGE, LARGER = "ä" * 50_000, "b" * 300_000


def record(text: str = LARGER) -> object:
    made = enrichment("r1", text)
    prompt = PromptRef(name="p", variables={"profile": Text(inline=LARGE), "name": Text(inline="short")})
    return replace(made, request=replace(made.request, prompt=prompt))


def test_a_record_that_was_parted_is_made_whole_again() -> None:
    before = enrichment("r1", LARGER)
    parted = part(before, 10_000_000)
    assert len(CODEC.encode(parted.record)) < 2_000
    # The question is there three times, and stored once.
    assert list(parted.bodies) == [ref_of(LARGER.encode())]
    assert refs_of(parted.record) == {ref_of(LARGER.encode()): 3}
    assert whole(parted.record, parted.bodies) == before


def test_the_largest_text_goes_first_and_no_more_than_has_to() -> None:
    made = record()
    parted = part(made, 1_000)  # type: ignore[arg-type]
    assert list(parted.bodies) == [ref_of(LARGER.encode())]
    kept = [text.inline for text in texts(parted.record) if text.inline is not None]
    assert LARGE in kept and "short" in kept
    both = part(made, 1_000_000)  # type: ignore[arg-type]
    assert list(both.bodies) == [ref_of(LARGER.encode()), ref_of(LARGE.encode())]
    assert whole(both.record, both.bodies) == made


def test_the_same_record_gives_the_same_bytes_and_a_small_one_stays_itself() -> None:
    assert CODEC.encode(part(record(), 500_000).record) == CODEC.encode(part(record(), 500_000).record)  # type: ignore[arg-type]
    small = enrichment("r1", "short")
    assert part(small, 1_000).record is small
    assert whole(small, {}) is small


def test_a_reference_to_what_is_not_there_stays() -> None:
    parted = part(enrichment("r1", LARGER), 1_000_000).record
    assert whole(parted, {}) is parted


@pytest.mark.parametrize("ref", ["", "sha256:", "sha256:zz", "sha256:00", "md5:" + "0" * 64, "0" * 64])
def test_a_reference_of_another_form_names_no_digest(ref: str) -> None:
    assert digest_of(ref) is None


async def test_a_tenant_sees_its_own_bodies_alone() -> None:
    bodies = FakeBodies()
    ref = ref_of(b"x")
    await bodies.put("acme", {ref: b"x"})
    assert await bodies.get("acme", [ref]) == {ref: b"x"}
    assert await bodies.get("globex", [ref]) == {}
