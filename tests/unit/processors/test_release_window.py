"""Cut places: whatever comes in whatever pieces, what is cleaned piece by piece is what is cleaned as a whole."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from processors.filter.cleaning import clean
from processors.filter.identifiers import luhn
from processors.filter.policy import FilterPolicy
from processors.release.window import MINIMUM, Window, cleared, pieces

REGIONS = FilterPolicy().phone_regions


def cleaned(text: str) -> str:
    return clean(text, REGIONS).text


def split(text: str, *, minimum: int) -> list[str]:
    window = Window(minimum=minimum)
    return [piece.text for piece in [*window.feed(text), *window.finish()]]


def check(text: str) -> None:
    """Everything that must hold of a text, at its usual cuts and at every place where it may be cut at all."""
    whole = cleaned(text)
    for minimum in (MINIMUM, 1):
        cut = split(text, minimum=minimum)
        assert "".join(cut) == text
        assert "".join(map(cleaned, cut)) == whole, cut


def _with_check_digit(body: str) -> str:
    return next(body + digit for digit in "0123456789" if luhn(body + digit))


DIGITS = "0123456789"
GAPS = st.sampled_from(["", " ", "-", ".", "\u00a0", "\u2009", "\u2011"])
VISA = st.text(DIGITS, min_size=14, max_size=14).map(lambda body: _with_check_digit("4" + body))
AMEX = st.text(DIGITS, min_size=12, max_size=12).map(lambda body: _with_check_digit("37" + body))
CARDS = st.builds(lambda card, gap: gap.join(re.findall(".{1,4}", card)), st.one_of(VISA, AMEX), GAPS)
SSNS = st.one_of(
    st.builds("{}{}{}{}{}".format, st.integers(100, 665), st.just(g), st.integers(10, 99), st.just(g), st.just("4321"))
    for g in ("-", " ", "\u2013")
)
BARE = st.builds(
    "{}{}{}".format,
    st.sampled_from(["SSN", "social security number", "Social Security no.", "antisocial security"]),
    st.sampled_from([" ", ": ", " is, as far as I know,  ", "\n", "\t#"]),
    st.sampled_from(["460899847", "123456789", "000123456"]),
)
PHONES = st.builds(
    "{}{}{}".format,
    st.sampled_from(
        ["", "+", "call ", "phone: ", "reach me at\n", "text messages to ", "Whats App ", "desk — the ", "tel"]
    ),
    st.sampled_from(
        [
            "212-555-0187",
            "(212) 555-0187",
            "+44 20 7946 0958",
            "5403926876",
            "030 12345 678",
            "1 - 800 - 555 - 0199",
            "0044(0)20/7946 0958",
            "12 34 56",
            "2026-01-31 12:30",
            "192.168.100.200",
            "212 555 0187 / 212 555 0188 / 212 555 0189",
        ]
    ),
    st.sampled_from(["", " x12", " ext. 345", " ext 9", " office", "\n(mobile)", " - fax", "\n\nhome", "-cell"]),
)
EMAILS = st.builds(
    "{}@{}".format,
    st.sampled_from(["kim", "k.l+x", "a" * 70, "{x}", "ü"]),
    st.sampled_from(["b.co", "müller.de", "x-y.example.org"]),
)
TOKENS = st.sampled_from(
    [
        "<|im_end|>",
        "</s>",
        "[INST]",
        "<<SYS>>",
        "<start_of_turn>",
        "<pad>",
        "<|im_<|im_end|>end|>",
        "<｜end▁of｜>",
        "<|",
        "|>",
    ]
)
MASKED = st.one_of(CARDS, SSNS, BARE, PHONES, EMAILS, TOKENS)
NEIGHBOURS = st.text(st.sampled_from("ab1 2\n-.,:()[]@+x/_#\u00a0。，é"), max_size=5)
PROSE = st.sampled_from(
    ["", " ", "\n", " the ", " and so it is said, ", "。", ". ", " [1] 【2】 ", " ext", " social ", " whats ", " 7 "]
)
TEXTS = st.lists(st.one_of(MASKED, MASKED, NEIGHBOURS, PROSE), max_size=9).map("".join)


@settings(max_examples=1500, deadline=None)
@given(TEXTS)
@example("5403926876\n\nmobile")
@example("text messages to 5403926876")
@example("antisocial security 460899847")
@example("kim\n@example.com")
@example("phone <|im_end|><|im_end|> 5403926876 <|im_end|>office")
@example("call me:<|" + "a" * 64 + "|><|" + "b" * 64 + "|> 12 34 56")
def test_pieces_cleaned_one_by_one_are_the_text_cleaned_as_a_whole(text: str) -> None:
    check(text)


@settings(max_examples=150, deadline=None)
@given(PROSE, NEIGHBOURS, MASKED, NEIGHBOURS, st.data())
def test_no_split_of_a_masked_pattern_moves_a_cut(
    prose: str, before: str, masked: str, after: str, data: st.DataObject
) -> None:
    """Every place of the pattern is tried as the end of what has come so far."""
    text = f"It was said yesterday that{prose}{before}{masked}{after} and then nobody said anything more about it all."
    whole = pieces(text)
    first = text.index(masked)
    for place in range(first, first + len(masked) + 2):
        window = Window()
        settled = window.feed(text[:place])
        assert settled == whole[: len(settled)]
        public = "".join(cleaned(piece.text) for piece in settled)
        assert cleaned(text).startswith(public)
        assert [*settled, *window.feed(text[place:]), *window.finish()] == whole
    # And any way of coming in many parts at once.
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=12)))
    window = Window()
    parts = [window.feed(text[a:b]) for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert [*(piece for part in parts for piece in part), *window.finish()] == whole


@settings(max_examples=300, deadline=None)
@given(TEXTS, TEXTS)
def test_what_is_cleared_stays_so_whatever_follows(text: str, later: str) -> None:
    now = cleared(text)
    assert now <= cleared(text + later) <= len(text + later)
    public = "".join(cleaned(piece.text) for piece in pieces(text, final=False))
    assert cleaned(text + later).startswith(public)
    assert cleared(text, final=True) == len(text)


def test_a_place_is_where_it_was_in_the_text() -> None:
    text = "Nothing to see here, and " * 20
    found = pieces(text)
    assert [text[piece.start : piece.end] for piece in found] == [piece.text for piece in found]
    assert all(MINIMUM <= len(piece.text) < MINIMUM + 12 for piece in found[:-1])


@pytest.mark.parametrize(
    "text",
    [
        "Prose goes out while it comes, a few words at a time, and never waits for the end of a sentence.",
        "文字之间没有空格的语言也会一段一段地出来，不必等到整个回答结束。这一点很重要，因为很多人用中文提问。",
        "| year | sales |\n|---|---|\n| 2023 | 17 million |\n| 2024 | 18 million |\n| 2025 | 19 million |\n",
        "for i in range(10):\n    total += rates[i] * 1.25\n    print(total, file=out)\nreturn total\n" * 2,
    ],
    ids=["prose", "chinese", "table", "code"],
)
def test_ordinary_text_goes_out_while_it_comes(text: str) -> None:
    window = Window()
    longest = 0
    for character in text:
        window.feed(character)
        longest = max(longest, window.held)
    assert longest <= 64


def test_a_text_without_a_place_to_cut_is_held_until_it_ends() -> None:
    window = Window()
    assert window.feed("a" * 50_000) == []
    assert window.feed("b" * 50_000) == []
    assert window.held == 100_000
    (only,) = window.finish()
    assert len(only.text) == 100_000
    assert window.held == 0


@pytest.mark.parametrize(
    "text",
    ["1 " * 50_000, "x" * 100_000, "<|a|> " * 20_000, "phone " * 20_000, "(" * 100_000, " \n" * 50_000, "<|" * 50_000],
)
def test_no_text_takes_long(text: str) -> None:
    started = time.perf_counter()
    window = Window()
    for start in range(0, len(text), 20):
        window.feed(text[start : start + 20])
    window.finish()
    assert time.perf_counter() - started < 3
