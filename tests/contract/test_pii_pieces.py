"""Labelled texts as streams: cleaned by pieces they are what they are when cleaned whole, however they come."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from processors.filter.cleaning import clean
from processors.filter.policy import FilterPolicy
from processors.release.window import MINIMUM, Piece, Window

REGIONS = FilterPolicy().phone_regions
KINDS = {"CREDIT_CARD", "US_SSN", "EMAIL_ADDRESS", "PHONE_NUMBER"}


@pytest.fixture(scope="module")
def rows(shared_data: Path) -> list[dict[str, object]]:
    path = shared_data / "pii_presidio" / "public" / "labelled.jsonl"
    if not path.exists():
        pytest.skip(f"needs {path}")
    return [json.loads(line) for line in path.read_text().splitlines()]


def pieces(*parts: str, minimum: int) -> list[Piece]:
    window = Window(minimum=minimum)
    return [piece for part in parts for piece in window.feed(part)] + window.finish()


@pytest.mark.parametrize("minimum", [1, MINIMUM])
def test_every_labelled_text_is_cleaned_by_pieces_as_it_is_as_a_whole(
    rows: list[dict[str, object]], minimum: int
) -> None:
    several = 0
    for row in rows:
        text = str(row["text"])
        cut = pieces(text, minimum=minimum)
        several += len(cut) > 1
        assert "".join(clean(piece.text, REGIONS).text for piece in cut) == clean(text, REGIONS).text
    assert several > len(rows) / 2


def test_a_text_with_what_is_masked_is_cut_alike_wherever_its_deltas_end(rows: list[dict[str, object]]) -> None:
    masked = [str(row["text"]) for row in rows if {span["type"] for span in row["spans"]} & KINDS]  # type: ignore[attr-defined]
    assert masked
    for text in masked:
        whole = pieces(text, minimum=1)
        for at in range(1, len(text)):
            assert pieces(text[:at], text[at:], minimum=1) == whole, at
        assert pieces(*text, minimum=1) == whole
