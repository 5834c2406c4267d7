"""What is made of several replies: when two say the same, who wins, what is joined."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from processors.complete.aggregate import Reply, aggregate, vote_of
from processors.complete.policies import FanOutPolicy
from schemas.records import Completion, Request, ResponseFormat, Text, Usage
from tests.support.enrichments import enrichment

ASKED = enrichment("r1")
JSON = replace(ASKED.request, response_format=ResponseFormat(type="json_object"))


def said(text: str | None, request: Request = ASKED.request, **changes: Any) -> Completion:
    completion = Completion(
        meta=ASKED.meta,
        request=request,
        admission=ASKED.admission,
        grounding=ASKED.grounding,
        text=None if text is None else Text(inline=text),
        finish_reason="stop",
        usage=Usage(),
    )
    return replace(completion, **changes)


def calls(name: str, arguments: str, id_: str) -> Completion:
    raw = f'[{{"id": "{id_}", "type": "function", "function": {{"name": "{name}", "arguments": {arguments}}}}}]'
    return said(None, tool_calls_json=Text(inline=raw))


def replies(*completions: Completion) -> list[Reply]:
    return [Reply(number, one) for number, one in enumerate(completions)]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Paris.", " paris"),
        ("Paris [1, 2] is the\ncapital", "paris is the capital."),
        ("\u201cYes\u201d", "**yes!**"),
        ("\ufb01ne", "fine"),
        ("<|im_start|>4", "4"),
    ],
)
def test_texts_that_differ_in_form_alone_vote_the_same(one: str, other: str) -> None:
    assert vote_of(said(one)) == vote_of(said(other)) is not None


@pytest.mark.parametrize(("one", "other"), [("4", "-4"), ("3.5", "35"), ("yes", "yes, but no"), ("a b", "ab")])
def test_texts_that_say_something_else_do_not(one: str, other: str) -> None:
    assert vote_of(said(one)) != vote_of(said(other))


def test_json_votes_by_its_value_or_by_one_field() -> None:
    one, other = said('{"label": "a", "why": {"n": [1]}}', JSON), said('{"why": {"n": [2]}, "label":"a"}', JSON)
    assert vote_of(one) != vote_of(other)
    assert vote_of(one, "label") == vote_of(other, "label") == '"a"'
    assert (vote_of(one, "why.n.0"), vote_of(other, "why.n.0")) == ("1", "2")
    assert vote_of(said('{"b": 1, "a": 2}', JSON)) == vote_of(said('{"a": 2, "b": 1}', JSON))


@pytest.mark.parametrize("text", ["no json", '{"other": 1}', "[]", '"a"', "null", "1"])
def test_without_the_field_there_is_no_vote(text: str) -> None:
    assert vote_of(said(text), "label") is None


def test_tool_calls_vote_by_what_they_call_whatever_their_ids() -> None:
    one = calls("find", r'"{\"a\": 1, \"b\": 2}"', "x1")
    assert vote_of(one) == vote_of(calls("find", r'"{\"b\":2,\"a\":1}"', "x2"))
    assert vote_of(one) != vote_of(calls("find", r'"{\"a\": 2}"', "x1"))


def test_most_votes_win_and_ties_go_to_who_came_first() -> None:
    vote = FanOutPolicy(aggregate="vote", samples=5)
    chosen = aggregate(vote, replies(said("b"), said("a"), said("A"), said("B"), said("c")))
    assert chosen.replies[0].number == 0 and chosen.agreement == pytest.approx(2 / 5)
    assert chosen.groups == {0: 0, 3: 0, 1: 1, 2: 1, 4: 4}


def test_refusals_have_no_vote_while_somebody_answers() -> None:
    vote = FanOutPolicy(aggregate="vote", samples=3)
    refused = said("No.", refusal=Text(inline="No."))
    chosen = aggregate(vote, replies(refused, refused, said("yes")))
    assert (chosen.replies[0].number, chosen.agreement) == (2, pytest.approx(1 / 3))
    assert aggregate(vote, replies(refused, refused)).replies[0].number == 0


def test_where_nobody_has_a_vote_the_first_stands_without_agreement() -> None:
    vote = FanOutPolicy(aggregate="vote", samples=2, field="label")
    chosen = aggregate(vote, replies(said("x"), said("y")))
    assert (chosen.replies[0].number, chosen.agreement, chosen.groups) == (0, None, {})


def test_a_score_beats_none_and_the_highest_wins() -> None:
    best = FanOutPolicy(aggregate="best", samples=3)
    found = [replace(one, score=score) for one, score in zip(replies(*map(said, "abc")), (None, 0.0, 0.4), strict=True)]
    assert aggregate(best, found).replies[0].number == 2
    assert aggregate(best, found[:2]).replies[0].number == 1


def test_tool_calls_are_not_joined() -> None:
    join = FanOutPolicy(aggregate="join", samples=3)
    call = calls("find", '"{}"', "1")
    chosen = aggregate(join, replies(call, said("x"), said(" ")))
    assert (chosen.text, [one.number for one in chosen.replies]) == ("x", [1])
    alone = aggregate(join, replies(call, call))
    assert (alone.text, alone.replies[0].number) == (None, 0)


CUT = "a text that was cut off in the mid"


@pytest.mark.parametrize("kind", ["vote", "best", "join"])
@pytest.mark.parametrize("poor", [said(CUT, finish_reason="length"), said(" \n"), said(None)])
def test_a_reply_that_was_cut_off_or_is_empty_counts_only_where_there_is_no_whole_one(
    kind: Any, poor: Completion
) -> None:
    policy = FanOutPolicy(aggregate=kind, samples=3)
    whole = said("Whole.")
    scored = [replace(one, score=0.9 - one.number / 2) for one in replies(poor, poor, whole)]
    chosen = aggregate(policy, scored)
    assert [one.number for one in chosen.replies] == [2]
    assert [one.number for one in aggregate(policy, replies(poor, poor)).replies][:1] == [0]


def test_cut_texts_are_joined_only_where_there_are_too_few_whole_ones() -> None:
    cut, whole = said(CUT, finish_reason="length"), said("Whole.")
    for needed, numbers in ((1, [1]), (2, [0, 1])):
        chosen = aggregate(FanOutPolicy(aggregate="join", samples=2, needed=needed), replies(cut, whole))
        assert [one.number for one in chosen.replies] == numbers


def test_a_cut_reply_that_says_something_goes_before_one_that_declines() -> None:
    declined = said(None, refusal="No.")
    chosen = aggregate(FanOutPolicy(aggregate="best", samples=2), replies(declined, said(CUT, finish_reason="length")))
    assert [one.number for one in chosen.replies] == [1]
