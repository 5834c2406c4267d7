"""Templates are checked before they are stored."""

from __future__ import annotations

import pytest

from processors.enrich import Renderer, estimate_tokens
from processors.prompts import SHIPPED
from schemas.errors import ConfigurationError


def test_a_good_template_names_its_variables() -> None:
    names = Renderer().check("{{ product }} {% for p in passages %}{{ p.text }}{% endfor %}{{ retrieval }}")
    assert names == {"product"}
    assert Renderer().check(SHIPPED["answer"]) == frozenset()


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("fine\n{% if x %}\nopen", "line 2|line 3"),
        ("one\ntwo {{ x", "line 2"),
        ("one\n\n{{ x | nosuchfilter }}", "nosuchfilter"),
        ("{% include 'other' %}{% bogus %}", "bogus"),
    ],
)
def test_a_broken_template_is_refused_with_the_place(text: str, named: str) -> None:
    with pytest.raises(ConfigurationError, match=named):
        Renderer().check(text, name="t.j2")


@pytest.mark.parametrize(
    ("text", "least", "most"),
    [
        ("", 0, 0),
        ("The quick brown fox jumps over the lazy dog.", 10, 16),
        ("1234567890", 10, 10),
        ("for i in range(10): x[i] += f(i, 2)", 15, 26),
        ("日本語テキスト", 7, 21),
    ],
)
def test_tokens_are_counted_on_the_safe_side(text: str, least: int, most: int) -> None:
    assert least <= estimate_tokens(text) <= most
