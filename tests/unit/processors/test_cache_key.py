"""What is in a cache's key, what keeps an answer from being shared, and the bounds of the level in the process."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from processors.cache.key import cache_key
from processors.cache.local import LocalCache
from processors.cache.port import Found
from processors.complete.policies import CascadePolicy
from processors.event import Incoming
from schemas.records import (
    ContentPart,
    Enrichment,
    Message,
    PromptRef,
    ResponseFormat,
    Retrieval,
    Sampling,
    Text,
)
from tests.support.completing import CODEC
from tests.support.enrichments import ACCEPTED, enrichment, incoming


def _with(**changes: Any) -> Incoming[Enrichment]:
    """An event whose request, grounding, admission or meta is changed."""
    record = enrichment("r1")
    for part, values in changes.items():
        record = replace(record, **{part: replace(getattr(record, part), **values)})
    return incoming(record, CODEC)


def _messages(text: str) -> tuple[Message, ...]:
    return (Message(role="user", content=(ContentPart(type="text", text=Text(inline=text)),)),)


@pytest.mark.parametrize(
    "changes",
    [
        {"meta": {"tenant": "other"}},
        {"meta": {"lane": "bulk"}},
        {"admission": {"route": "other"}},
        {"admission": {"policy_version": "2"}},
        {"grounding": {"prompt_version": "answer@2"}},
        {"grounding": {"index_version": "2"}},
        {"grounding": {"namespaces": ("hr",)}},
        {"grounding": {"messages": _messages("What is a Coroutine?")}},
        {"request": {"retrieval": Retrieval(namespaces=("hr",))}},
        {"request": {"retrieval": Retrieval(filters={"team": "a"})}},
        {"request": {"response_format": ResponseFormat(type="json_object")}},
        {"request": {"tools_json": Text(inline="[]")}},
        {"request": {"tool_choice_json": '"none"'}},
        {"request": {"sampling": Sampling(seed=3)}},
        {"request": {"model": "m2"}},
    ],
    ids=str,
)
def test_whatever_an_answer_depends_on_is_in_the_key(changes: Any) -> None:
    base, other = (cache_key(each, ("m1",), "tenant") for each in (_with(), _with(**changes)))
    assert base is not None and other is not None and base.exact != other.exact
    if "messages" not in changes.get("grounding", {}):
        assert base.scope != other.scope


def test_ids_labels_and_time_are_not_in_the_key() -> None:
    one, two = enrichment("r1"), enrichment("r2", session="s", feature="f", ttl_ms=5)
    keys = {cache_key(incoming(each, CODEC), ("m1",), "tenant") for each in (one, two)}
    assert len(keys) == 1
    assert cache_key(_with(), ("m2",), "tenant") not in keys


@pytest.mark.parametrize(
    "checks",
    [{"refusal": False}, {"phrases": ("No idea",)}, {"format": False}, {"least_words": 9}, {"least_groundedness": 0.7}],
    ids=str,
)
def test_how_a_cascade_checks_replies_is_in_the_key(checks: Any) -> None:
    policy = CascadePolicy(groups=())
    base, other, none = (
        cache_key(_with(), ("m1",), "tenant", cascade=cascade) for cascade in (policy, replace(policy, **checks), None)
    )
    assert base is not None and other is not None and none is not None
    assert len({base.exact, other.exact, none.exact}) == len({base.scope, other.scope, none.scope}) == 3


def test_how_long_a_cascade_may_take_is_not_in_the_key() -> None:
    policies = (CascadePolicy(groups=()), CascadePolicy(groups=(), least_time_s=1.0, check_timeout_s=1.0))
    assert len({cache_key(_with(), ("m1",), "tenant", cascade=policy) for policy in policies}) == 1


def test_a_route_without_a_cascade_keeps_its_keys() -> None:
    """Another key for the same request makes every answer that was paid for a miss."""
    key = cache_key(_with(), ("m1",), "tenant")
    assert key is not None
    assert key.exact.hex() == "32151d5e44fce6310b29953095fcde32be1738894d5ddbe82b5d194ed103fcb3"


@pytest.mark.parametrize(
    "asked",
    [
        {"query": Text(inline="Write to jane.doe@example.com")},
        {"messages": (Message(role="assistant", tool_calls_json=Text(inline='[{"to": "jane.doe@example.com"}]')),)},
        {"prompt": PromptRef(name="p", variables={"profile": Text(inline="card 4111 1111 1111 1111")})},
    ],
)
def test_personal_data_in_what_is_asked_makes_the_answer_its_users_own(asked: Any) -> None:
    keys = [cache_key(_with(request={**asked, "user": user}), ("m1",), "tenant") for user in ("u1", "u2", "")]
    assert keys[0] is not None and keys[1] is not None and keys[0].exact != keys[1].exact
    # Nobody's: shared with nobody.
    assert keys[2] is None


def test_a_route_may_keep_answers_to_their_users() -> None:
    keys = [cache_key(_with(request={"user": user}), ("m1",), "user") for user in ("u1", "u2")]
    assert keys[0] != keys[1]


def test_a_conversation_has_no_scope() -> None:
    turn = Message(role="assistant", content=(ContentPart(type="text", text=Text(inline="yes")),))
    key = cache_key(_with(grounding={"messages": (*_messages("a"), turn, *_messages("b"))}), ("m1",), "tenant")
    assert key is not None and key.scope is None
    tools = cache_key(_with(request={"tools_json": Text(inline="[]")}), ("m1",), "tenant")
    assert tools is not None and tools.scope is None


def test_the_level_in_the_process_is_bounded_by_number_and_by_bytes() -> None:
    cache = LocalCache(most_entries=2, most_bytes=10)
    now = ACCEPTED
    for name in (b"a", b"b"):
        cache.put(name, Found(result=b"1234", at=now))
    assert cache.get(b"a", now) is not None
    cache.put(b"c", Found(result=b"12", at=now))
    assert cache.get(b"b", now) is None and cache.get(b"a", now) is not None
    cache.put(b"d", Found(result=b"123456789", at=now))
    assert len(cache) == 1
    cache.put(b"e", Found(result=b"x" * 11, at=now))
    assert cache.get(b"e", now) is None and cache.get(b"d", now + timedelta(seconds=1)) is None
