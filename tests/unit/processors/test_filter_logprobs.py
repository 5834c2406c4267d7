"""Log probabilities go out with the text that they spell, and with no other."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from processors.filter.logprobs import shown, verdict
from schemas.records import Text

REGIONS = ("GB", "US")


def token(text: str, *others: str, **more: Any) -> dict[str, Any]:
    one = {"logprob": -0.5, "bytes": list(text.encode())}
    return {"token": text, **one, "top_logprobs": [{"token": o, **one, "bytes": None} for o in others], **more}


def given(*tokens: dict[str, Any]) -> Text:
    return Text(inline=orjson.dumps({"content": list(tokens), "refusal": [token("no")]}).decode())


def told(out: Text | None) -> list[dict[str, Any]]:
    assert out is not None and out.inline is not None
    found = orjson.loads(out.inline)
    assert set(found) == {"content"}
    return list(found["content"])


def test_they_are_shown_with_the_text_as_the_model_wrote_it() -> None:
    tokens = [token("Hel", "Hal"), token("lo")]
    assert told(shown(given(*tokens), "Hello", REGIONS)) == tokens


def test_pieces_of_a_character_are_joined_by_their_bytes() -> None:
    pieces = [token("\ufffd", bytes=[0xC3]), token("\ufffd", bytes=[0xA9])]
    assert len(told(shown(given(*pieces), "é", REGIONS))) == 2


@pytest.mark.parametrize("text", ["Mail [email]", "", "Mail ada@example.org."])
def test_they_are_held_back_with_any_other_text(text: str) -> None:
    logprobs = given(token("Mail "), token("ada@example.org"))
    assert shown(logprobs, text, REGIONS) is None
    [said] = verdict(logprobs, None, version="1", stage="filter")
    assert (said.guard, said.outcome) == ("logprobs", "changed")


def test_an_alternative_that_the_filter_would_change_is_left_out() -> None:
    logprobs = given(token("Hello", "<|im_end|>", "ada@example.org", "Hi"))
    [one] = told(shown(logprobs, "Hello", REGIONS))
    assert [other["token"] for other in one["top_logprobs"]] == ["Hi"]


def test_what_else_a_provider_writes_there_stays_behind() -> None:
    [one] = told(shown(given(token("Hi", secret="canary", id=7)), "Hi", REGIONS))
    assert set(one) == {"token", "logprob", "bytes", "top_logprobs"}


@pytest.mark.parametrize(
    "broken",
    ["{", "[]", '{"content":7}', '{"content":[7]}', '{"content":[{"token":"Hi"}]}', '{"content":[{"bytes":[999]}]}'],
)
def test_another_form_is_held_back(broken: str) -> None:
    assert shown(Text(inline=broken), "Hi", REGIONS) is None


def test_none_are_none() -> None:
    assert shown(None, "Hi", REGIONS) is None and verdict(None, None, version="1", stage="filter") == []
