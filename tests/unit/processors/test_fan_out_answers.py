"""What one answer a fan-out makes of several replies: the best, the whole, the joined."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from processors.budgets.port import FakeBudgets
from processors.budgets.rule import Budget
from processors.complete.purse import Guard
from schemas.errors import DependencyDownError, RefusedError
from schemas.records import ResponseFormat, Text
from tests.support.cascading import completion, reply
from tests.support.completing import as_bytes, event
from tests.support.fanning import Fanned, texts


async def test_the_best_is_chosen_by_its_score_and_ties_go_to_the_first() -> None:
    bench = Fanned({"a": texts("poor"), "b": texts("good"), "c": texts("fair")}, "best", scorer="relevance")
    bench.scorer.values = {"poor": 0.1, "good": 0.9, "fair": 0.9}
    one = completion(await bench.worker()(event()))
    assert one.text == Text(inline="good") and one.fan_out is not None
    assert [sample.score for sample in one.fan_out.samples] == [0.1, 0.9, 0.9]
    assert (one.fan_out.chosen, one.fan_out.scorer) == (1, "relevance")
    assert {name for name, *_ in bench.scorer.scored} == {"relevance"}


@pytest.mark.parametrize("aggregate", ["vote", "best", "join"])
async def test_a_whole_reply_answers_in_place_of_one_that_was_cut_off(aggregate: str) -> None:
    bench = Fanned({"a": [reply("cut off in the mid", finish_reason="length")], "b": texts("Whole.")}, aggregate)
    bench.scorer.failure = DependencyDownError("embeddings", "away")
    one = completion(await bench.worker()(event()))
    assert (one.text, one.finish_reason) == (Text(inline="Whole."), "stop")


async def test_without_scores_the_first_answer_stands() -> None:
    bench = Fanned({"a": texts("x"), "b": texts("y")}, "best")
    bench.scorer.failure = DependencyDownError("embeddings", "away")
    one = completion(await bench.worker()(event()))
    assert one.text == Text(inline="x") and one.fan_out is not None
    assert [sample.score for sample in one.fan_out.samples] == [None, None]


@pytest.mark.parametrize(
    ("policy", "text"), [({}, "x\n\ny"), ({"separator": " | "}, "x | y"), ({"as_json": True}, '["x","y"]')]
)
async def test_texts_are_joined_in_the_order_of_the_samples(policy: dict[str, Any], text: str) -> None:
    bench = Fanned({"a": texts("x"), "b": texts("y "), "c": [reply(None, refusal="No.")]}, "join", **policy)
    one = completion(await bench.worker()(event()))
    assert one.text == Text(inline=text) and one.refusal is None and one.fan_out is not None
    assert [sample.used for sample in one.fan_out.samples] == [True, True, False] and one.fan_out.chosen is None


async def test_joined_texts_are_no_json_so_a_request_for_json_is_refused_and_nothing_is_reserved() -> None:
    bench = Fanned({"a": texts("x"), "b": texts("y")}, "join")
    budgets = FakeBudgets(bench.clock)
    budget = Budget(name="acme", period="day", only={"tenant": "acme"}, hard_usd=Decimal(10))
    guard = Guard(budgets, (budget,), clock=bench.clock, hold_s=150)
    with pytest.raises(RefusedError) as refused:
        await bench.worker(guard=guard)(event(response_format=ResponseFormat(type="json_object")))
    assert (refused.value.code, refused.value.status) == ("fan_out_join", "rejected") and not bench.model.calls
    assert not budgets.reservations


async def test_json_that_was_answered_before_its_route_joined_texts_is_given_out() -> None:
    bench, asked = Fanned(texts('{"a": 1}', '{"a": 1}')), event(response_format=ResponseFormat(type="json_object"))
    first = await bench.worker()(asked)
    assert bench.route.fan_out is not None
    bench.route = replace(bench.route, fan_out=replace(bench.route.fan_out, aggregate="join"))
    assert as_bytes(await bench.worker("w2")(asked)) == as_bytes(first)
