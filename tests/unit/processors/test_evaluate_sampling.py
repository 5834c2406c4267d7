"""The sample is a function of the request's id, the salt and the rate."""

from __future__ import annotations

import hashlib
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from processors.evaluate.sampling import SamplingPolicy
from processors.evaluate.sentences import LONGEST, sentences

IDS = [f"request-{number}" for number in range(4_000)]


def chosen(policy: SamplingPolicy, tenant: str = "t", route: str = "r") -> set[str]:
    return {one for one in IDS if policy.choose(request_id=one, tenant=tenant, route=route)}


def test_the_documented_formula_chooses() -> None:
    for one in IDS[:200]:
        number = int.from_bytes(hashlib.sha256(b"s\x1f" + one.encode()).digest()[:8], "big")
        policy = SamplingPolicy(rate=0.3, salt="s")
        assert (policy.choose(request_id=one, tenant="t", route="r") is not None) == (number < int(0.3 * 2**64))


@pytest.mark.parametrize("rate", [0.01, 0.1, 0.5])
def test_the_share_is_the_rate_and_the_same_ones_are_chosen_every_time(rate: float) -> None:
    first = chosen(SamplingPolicy(rate=rate))
    assert first == chosen(SamplingPolicy(rate=rate), tenant="another")
    assert len(first) / len(IDS) == pytest.approx(rate, abs=4 * (rate * (1 - rate) / len(IDS)) ** 0.5)
    assert first != chosen(SamplingPolicy(rate=rate, salt="other"))


def test_a_higher_rate_keeps_all_that_a_lower_one_chose() -> None:
    assert chosen(SamplingPolicy(rate=0.1)) < chosen(SamplingPolicy(rate=0.2))
    assert chosen(SamplingPolicy(rate=0.0)) == set()
    assert chosen(SamplingPolicy(rate=1.0)) == set(IDS)


def test_a_tenants_rate_goes_before_a_routes_and_that_before_the_rest() -> None:
    policy = SamplingPolicy(rate=1.0, tenants={"acme": 1.0}, routes={"cheap": 0.0})
    choice = policy.choose(request_id="x", tenant="acme", route="cheap")
    assert choice is not None and (choice.rule, choice.probability) == ("tenant:acme", 1.0)
    assert policy.choose(request_id="x", tenant="other", route="cheap") is None
    choice = policy.choose(request_id="x", tenant="other", route="dear")
    assert choice is not None and choice.rule == "rate"


def test_sentences_have_their_places_and_no_marks() -> None:
    text = "It wraps a block [1]. It is quick, e.g. in loops!\n1. First item here\n他说了这句话。然后走了很长的路。"
    found = sentences(text)
    assert [one.text for one in found][:3] == [
        "It wraps a block .",
        "It is quick, e.g. in loops!",
        "1. First item here",
    ]
    assert all(text[one.start : one.end].strip() == text[one.start : one.end] for one in found)


@given(st.text(max_size=3_000))
def test_no_word_of_a_text_is_lost_and_none_is_read_twice(text: str) -> None:
    found = sentences(text)
    assert all(0 < one.end - one.start <= LONGEST for one in found)
    assert all(before.end <= after.start for before, after in pairwise(found))
    covered = "".join(text[one.start : one.end] for one in found if "[" not in text)
    if "[" not in text:
        assert sum(c.isalnum() for c in covered) == sum(c.isalnum() for c in text)
