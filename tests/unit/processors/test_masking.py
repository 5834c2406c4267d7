"""Masking and stripping: what is found, what is left alone, and what can never be left over."""

from __future__ import annotations

import json
import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from processors.filter.cleaning import clean, find_identifiers
from processors.filter.finding import united
from processors.filter.identifiers import find_cards, find_emails, find_ssns, is_card, luhn
from processors.filter.json_text import clean_json
from processors.filter.phones import find_phones
from processors.filter.policy import FilterPolicy
from processors.filter.tokens import TOKENS, strip_tokens

REGIONS = FilterPolicy().phone_regions


def cleaned(text: str) -> str:
    return clean(text, REGIONS).text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("write to kim@example.com.", "write to [EMAIL]."),
        ("<kim.lee+x@mail.example.co.uk>", "<[EMAIL]>"),
        ("kim@müller.de", "[EMAIL]"),
        ("a@b.com,c@d.org", "[EMAIL],[EMAIL]"),
        ("card 4111 1111 1111 1111 ok", "card [CARD] ok"),
        ("4111-1111-1111-1111", "[CARD]"),
        ("378282246310005", "[CARD]"),
        ("no.4111111111111111", "no.[CARD]"),
        ("4111 1111 1111 1111 123", "[CARD] 123"),
        ("12 4111 1111 1111 1111", "12 [CARD]"),
        ("12,4111111111111111,3", "12,[CARD],3"),
        ("4111.1111.1111.1111", "[CARD]"),
        ("４１１１１１１１１１１１１１１１", "[CARD]"),
        ("SSN 460-89-9847", "SSN [SSN]"),
        ("460 89 9847", "[SSN]"),
        ("my social security number is 460899847", "my social security number is [SSN]"),
        ("call +44 20 7946 0958 now", "call [PHONE] now"),
        ("(212) 555-0187", "[PHONE]"),
        ("212-555-0187 x12", "[PHONE]"),
        ("Tel: 030 12345", "Tel: [PHONE]"),
        ("phone 5403926876", "phone [PHONE]"),
        ("+1 212 555 0187, +49 30 901820", "[PHONE], [PHONE]"),
    ],
)
def test_identifiers_are_masked(text: str, expected: str) -> None:
    assert cleaned(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "@decorator and a @ b and x@y",
        "4111 1111 1111 1112",  # a wrong check digit
        "0.4111111111111111",  # a fraction
        "1111111111111117",  # nobody's prefix
        "411111111111111111111111",
        "000-12-3456 666-12-3456 900-12-3456 123-00-4567 123-45-0000",
        "460899847",
        "460-89 9847",
        "2026-01-31 12:30:15",
        "31.12.2026 10",
        "192.168.100.200",
        "3.141592653589793",
        "0, 1, 1, 2, 3, 5, 8, 13, 21, 34, 55",
        "range(1000000, 2000000)",
        "1 000 000 000",
        "5403926876",
        "Python 3.11.7 on 2023-12-04",
        "sha256:9f86d081884c7d659a2feaa0c55ad015",
        "order 123-456",
        "q5098377822521811712",
        "1699999999999",
        "`print('+3.140000; -3.140000')`",
    ],
)
def test_other_numbers_and_signs_stay(text: str) -> None:
    assert cleaned(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "Paris.<|im_end|>",
        "<s>Paris.</s>",
        "[INST]Paris.[/INST]",
        "<<SYS>>Paris.<</SYS>>",
        "Paris.<end_of_turn>",
        "<start_of_turn>Paris.<eos>",
        "<|start_header_id|><|reserved_special_token_12|>Paris.<|eot_id|>",
        "Paris.<｜end▁of▁sentence｜>",
        "<|endoftext|>Paris.<pad>",
    ],
)
def test_special_tokens_are_stripped(text: str) -> None:
    assert strip_tokens(text).text == "Paris."


@pytest.mark.parametrize("text", ["a < b | c > d", "<p>x</p>", "f(x)[INSTANCE]", "<|", "if a <| b |> c"])
def test_what_only_looks_a_little_like_a_token_stays(text: str) -> None:
    assert strip_tokens(text).text == text


def test_a_token_that_hides_another_is_stripped_with_it() -> None:
    assert TOKENS.search(strip_tokens("a<|im_<|im_end|>end|>b").text) is None


def test_an_address_that_a_token_broke_up_is_masked() -> None:
    text = "mail ki<|im_end|>m@example.com"
    result = clean(text, REGIONS)
    assert result.text == "mail [EMAIL]"
    (email,) = [f for f in result.findings if f.kind == "email"]
    assert text[email.start : email.end] == "ki<|im_end|>m@example.com"


PIECES = st.sampled_from(
    ["<|", "|>", "im_end", "<|im_end|>", "</s>", "<s", ">", "[INST]", "[/", "INST]", "<<", "SYS>>", " ", "a", "<", "s"]
)


@given(st.lists(PIECES, max_size=24).map("".join))
def test_no_special_token_is_ever_left(text: str) -> None:
    stripped = strip_tokens(text)
    assert TOKENS.search(stripped.text) is None
    if stripped.places is not None:
        assert len(stripped.places) == len(stripped.text)
        assert list(stripped.places) == sorted(stripped.places)


def _with_check_digit(body: str) -> str:
    return next(body + digit for digit in "0123456789" if luhn(body + digit))


VISA = st.text("0123456789", min_size=14, max_size=14).map(lambda body: _with_check_digit("4" + body))
GROUPED = st.builds(
    lambda card, gap: gap.join(re.findall("....", card)), VISA, st.sampled_from(["", " ", "-", "\u00a0"])
)
AROUND = st.text(st.sampled_from("ab 12-.,:()[]@\n"), max_size=12)


@given(AROUND, GROUPED, AROUND)
def test_no_whole_visa_number_is_ever_left(before: str, card: str, after: str) -> None:
    text = cleaned(f"{before} {card} {after}")
    # Said anew, not with the detector's patterns: sixteen digits, alone or in fours, nothing but space around them.
    for match in re.finditer(r"(?<![^ \n])4\d{3}(?:([ -]?)\d{4})(?:\1\d{4}){2}(?![^ \n])", text):
        assert not is_card(re.sub(r"\D", "", match[0])), text


@given(st.text(max_size=80))
def test_text_without_findings_stays_as_it_is(text: str) -> None:
    result = clean(text, REGIONS)
    if not result.findings:
        assert result.text == text


MIXED = st.lists(
    st.one_of(
        st.text(max_size=6),
        st.sampled_from(
            [
                "kim@example.com",
                "4111 1111 1111 1111",
                "460-89-9847",
                "<|im_end|>",
                '"',
                "\\",
                "\u2028",
                '{"a": ["x@y.de"]}',
            ]
        ),
    ),
    max_size=4,
).map(" ".join)
KEYS = st.one_of(st.text(max_size=6), st.sampled_from(["kim@example.com", "lee@example.com", "460-89-9847"]))
VALUES = st.recursive(
    st.one_of(MIXED, st.integers(-(2**53), 2**53), st.floats(allow_nan=False, allow_infinity=False), st.booleans()),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=3)),
    max_leaves=8,
)


@given(VALUES, st.booleans())
def test_json_stays_json_of_the_same_shape(value: object, ascii_only: bool) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only)
    result = clean_json(text, REGIONS)
    after = json.loads(result.text)
    assert _shape(after) == _shape(value)
    assert "kim@example.com" not in result.text
    assert "4111 1111 1111 1111" not in result.text
    for found in result.findings:
        assert 0 <= found.start < found.end <= len(text)


def _shape(value: object) -> object:
    if isinstance(value, dict):
        return [_shape(item) for item in value.values()]
    if isinstance(value, list):
        return [_shape(item) for item in value]
    return type(value)


def test_json_keeps_how_everything_else_was_written() -> None:
    text = '{ "a" : 1.50e+2,\n "b": "\\u00e9 kim@example.com", "n": 12345678901234567890 }'
    assert clean_json(text, REGIONS).text == '{ "a" : 1.50e+2,\n "b": "é [EMAIL]", "n": 12345678901234567890 }'


def test_escapes_in_json_hide_nothing() -> None:
    text = r'{"a": "kim\u0040example.com\n\u003c|im_end|\u003e"}'
    result = clean_json(text, REGIONS)
    assert json.loads(result.text) == {"a": "[EMAIL]\n"}
    assert [text[f.start : f.end] for f in result.findings] == [r"kim\u0040example.com", r"\u003c|im_end|\u003e"]


def test_keys_of_json_are_masked_and_stay_apart() -> None:
    text = '{"a@example.com": 1, "b@example.com": 2, "c": 3}'
    assert json.loads(clean_json(text, REGIONS).text) == {"[EMAIL]": 1, "[EMAIL] 2": 2, "c": 3}


def test_a_card_that_is_a_json_number_keeps_its_type() -> None:
    assert clean_json('{"card": 4111111111111111, "n": 42}', REGIONS).text == '{"card": 0, "n": 42}'
    assert clean_json("[4111111111111111.0]", REGIONS).text == "[0.0]"


@pytest.mark.parametrize(
    "text",
    ["a" * 100_000, "1" * 100_000, "a@" * 50_000, "(" * 100_000, "+1 " * 30_000, "a@" + "b-" * 50_000, "<|" * 50_000],
    ids=lambda text: text[:4],
)
def test_no_text_takes_long(text: str) -> None:
    started = time.perf_counter()
    cleaned(text)
    assert time.perf_counter() - started < 2


_NUMBERS = st.sampled_from(
    ["4111 1111 1111 1111", "123-45-6789", "078051120", "+1 (212) 555-0100", "020 7946 0958 x12"]
)
_MARKS = st.text(alphabet="0123456789 -.()/+x\u2010\u2015\u00a0\u2009\u0661:\nS", max_size=12)


@given(st.lists(_MARKS | _NUMBERS | st.sampled_from(["call ", " SSN ", "a@b.com", "two"]), max_size=6).map("".join))
def test_a_text_that_is_passed_over_quickly_has_nothing_to_find(text: str) -> None:
    found = [*find_emails(text), *find_ssns(text), *find_cards(text), *find_phones(text, REGIONS)]

    assert find_identifiers(text, REGIONS) == united(found)
