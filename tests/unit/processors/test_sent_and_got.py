"""From a producer's line to the printed answer, through the stages and over HTTP: what is asked for is sent, and what
comes back is got. Every event is encoded and decoded between the stages.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, TypeVar

import orjson
import pytest

from processors.admit import AdmitPolicy
from processors.cache.key import personal
from processors.clock import FakeClock
from processors.complete.pricing import upper_bound
from processors.complete.processor import Complete
from processors.complete.routes import Deployment, Route
from processors.control import FakeControl
from processors.embeddings import HashingEmbedder
from processors.enrich import Enrich, EnrichPolicy
from processors.event import Incoming
from processors.filter.policy import FilterPolicy
from processors.filter.processor import Filter
from processors.journal import MemoryJournal
from processors.model import OpenAIClient
from processors.passages import FakePassages
from processors.prices.tariff import Price
from processors.prompts import FakePrompts
from schemas.codec import Codec
from schemas.errors import RefusedError
from schemas.records import Admitted, Answer, Completion, Cost, Enrichment
from streams.answers import answer_view
from streams.requests import parse_request
from tests.provider.here import Here, serving
from tests.support.admission import Bench as Admission

R = TypeVar("R", Admitted, Enrichment, Completion)
CODEC = Codec.offline()
PRICE = Price(prompt=Decimal("3"), completion=Decimal("15"), cached_prompt=Decimal("0.3"))
SCHEMA = {"type": "object", "properties": {"answer": {"type": "string"}}, "required": ["answer"]}
FUNCTION = {"name": "look_up", "description": "Looks it up.", "parameters": {"type": "object"}, "strict": True}
TOOL = {"type": "function", "function": FUNCTION}


class Line:
    """The stages in a row; ``last`` is what the provider was asked, ``costs`` what was booked."""

    def __init__(self, here: Here, client: OpenAIClient) -> None:
        self.clock = FakeClock(datetime(2026, 1, 1, tzinfo=UTC))
        self.here, self.costs = here, list[Cost]()
        self.embedder = HashingEmbedder(dimension=8)
        control = FakeControl()
        self._admit = Admission(policy=AdmitPolicy(), clock=self.clock)
        self._enrich = Enrich(
            FakePassages(),
            self.embedder,
            prompts=FakePrompts(),
            control=control,
            clock=self.clock,
            policy=EnrichPolicy(context_tokens=8192),
        )
        deployment = Deployment(name="d1", base_url=here.base_url, model="fake", price=PRICE)
        self._complete = Complete(
            MemoryJournal(self.clock),
            client,
            routes={"default": Route(name="default", deployment=deployment)},
            codec=CODEC,
            clock=self.clock,
            control=control,
            owner="w1",
        )
        self._filter = Filter(policy=FilterPolicy(), clock=self.clock)

    @property
    def last(self) -> Mapping[str, Any]:
        return self.here.provider.bodies[-1]

    async def answer(self, **line: Any) -> Answer:
        request = parse_request(orjson.dumps(line), tenant="default", lane="live")
        admitted = await self._admit.admitted(request)
        (enrichment,) = await self._enrich(self._event(admitted, Admitted))
        assert isinstance(enrichment, Enrichment)
        *costs, recorded = await self._complete(self._event(enrichment, Enrichment))
        self.costs = [cost for cost in costs if isinstance(cost, Cost)]
        answer = recorded
        if not isinstance(recorded, Answer):
            (*_, answer) = await self._filter(self._event(recorded.record, Completion))
        assert isinstance(answer, Answer)
        return CODEC.decode(CODEC.encode(answer), Answer)

    def _event(self, record: R, kind: type[R]) -> Incoming[R]:
        raw = CODEC.encode(record)
        read = CODEC.decode(raw, kind)
        now = self.clock.now()
        return Incoming(record=read, meta=replace(read.meta, accepted_at=now), raw=raw, appended_at=now)


@pytest.fixture
async def line() -> AsyncIterator[Line]:
    client = OpenAIClient()
    async with serving() as here:
        yield Line(here, client)
        await client.close()


async def test_every_parameter_is_sent_as_it_was_given(line: Line) -> None:
    given = {
        "temperature": 0.2,
        "top_p": 0.9,
        "max_tokens": 99,
        "stop": ["END", "\n\n"],
        "seed": -7,
        "presence_penalty": 0.5,
        "frequency_penalty": -0.5,
        "reasoning_effort": "xhigh",
        "logprobs": True,
        "top_logprobs": 3,
        "tools": [TOOL],
        "tool_choice": {"type": "function", "function": {"name": "look_up"}},
        "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA, "strict": True}},
    }
    answer = await line.answer(query="What is a lamp?", **given)
    assert answer.status == "answered"
    assert {name: line.last.get(name) for name in given} == given
    assert set(line.last) == {"model", "messages", "stream", "stream_options", *given}
    assert line.last["messages"][-1] == {"role": "user", "content": "What is a lamp?"}


async def test_nothing_is_sent_that_was_not_asked_for(line: Line) -> None:
    await line.answer(query="What is a lamp?")
    assert set(line.last) == {"model", "messages", "max_tokens", "stream", "stream_options"}


async def test_a_conversation_with_tools_and_parts_is_sent_whole(line: Line) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "look_up", "arguments": '{"topic":"lamp"}'}}
    parts = [
        {"type": "text", "text": "And this one?"},
        {"type": "image_url", "image_url": {"url": "https://example.com/lamp.png", "detail": "low"}},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}},
        {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}},
        {"type": "file", "file": {"file_data": "data:application/pdf;base64,JVBERi0=", "filename": "lamp.pdf"}},
    ]
    said = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What is a lamp?", "name": "ada"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "It gives light.", "tool_call_id": "c1"},
        {"role": "user", "content": parts},
    ]
    answer = await line.answer(messages=said, tools=[TOOL])
    assert answer.status == "answered"
    assert [message for message in line.last["messages"] if message in said] == said
    assert answer.messages[-1].content[1].url == "https://example.com/lamp.png"
    [booked] = line.costs
    assert booked.amount_usd > 0


async def test_a_picture_alone_is_sent_and_searches_for_nothing(line: Line) -> None:
    picture = {"type": "image_url", "image_url": {"url": "https://example.com/lamp.png", "detail": "low"}}
    answer = await line.answer(messages=[{"role": "user", "content": [picture]}])
    assert answer.status == "answered" and line.embedder.embedded == []
    assert line.last["messages"][-1]["content"] == [picture]


def test_a_picture_may_show_anything_and_cost_any_number_of_tokens() -> None:
    picture = {"type": "image_url", "image_url": {"url": "https://example.com/lamp.png"}}
    asked, plain = (
        parse_request(orjson.dumps(body), tenant="default", lane="live")
        for body in ({"messages": [{"role": "user", "content": [picture]}]}, {"query": "What is a lamp?"})
    )
    assert personal(asked) and not personal(plain)
    deployment = Deployment(name="d1", base_url="http://x/v1", model="m", price=PRICE, context_tokens=9_000)
    shown, said = (
        upper_bound({"messages": [{"role": "user", "content": content}]}, deployment, 1, at=datetime.now(UTC))
        for content in ([picture], "What is a lamp?")
    )
    assert shown.prompt_tokens == 9_000 > said.prompt_tokens


async def test_pictures_that_can_not_fit_are_refused_where_they_stand(line: Line) -> None:
    picture = {"type": "image_url", "image_url": {"url": "https://example.com/lamp.png"}}
    with pytest.raises(RefusedError, match=r"messages\[0\] is too long"):
        await line.answer(messages=[{"role": "user", "content": [picture] * 8}])


async def test_calls_of_tools_come_back(line: Line) -> None:
    answer = await line.answer(query="[[call:look_up]] What is a lamp?", tools=[TOOL], tool_choice="auto")
    assert (answer.status, answer.finish_reason) == ("answered", "tool_calls")
    (call,) = answer_view(answer)["tool_calls"]
    assert (call["type"], call["function"]["name"]) == ("function", "look_up")
    assert set(orjson.loads(call["function"]["arguments"])) == {"topic"}
    assert call["id"]


async def test_log_probabilities_come_back(line: Line) -> None:
    answer = await line.answer(query="What is a lamp?", logprobs=True, top_logprobs=1)
    told = answer_view(answer)["logprobs"]["content"]
    assert answer.text is not None
    assert "".join(token["token"] for token in told) == answer.text.inline
    assert {token["logprob"] for token in told} == {-0.25} and len(told[0]["top_logprobs"]) == 1


async def test_log_probabilities_of_a_masked_text_do_not(line: Line) -> None:
    answer = await line.answer(query="[[marker:ada@example.org]] Who?", logprobs=True)
    assert answer.status == "answered" and answer.text is not None and "ada@" not in (answer.text.inline or "")
    assert answer.logprobs_json is None and "logprobs" not in answer_view(answer)
    assert [verdict.outcome for verdict in answer.verdicts if verdict.guard == "logprobs"] == ["changed"]
    assert b"example.org" not in orjson.dumps(answer_view(answer))


async def test_cached_and_reasoning_tokens_are_counted_priced_and_told(line: Line) -> None:
    answer = await line.answer(query="[[cached:400]] [[reasoning:50]] What is a lamp?")
    usage, [booked] = answer.usage, line.costs
    assert (usage.cached_prompt_tokens, usage.reasoning_tokens, usage.estimated) == (400, 50, False)
    fresh = usage.prompt_tokens - 400
    assert booked.usage == usage == answer.attempts[0].usage
    expected = Decimal(fresh * 3 + usage.completion_tokens * 15) / 10**6 + Decimal("0.3") * 400 / 10**6
    assert answer.cost_usd == booked.amount_usd == expected
    shown = answer_view(answer)["usage"]
    assert (shown["cached_prompt_tokens"], shown["reasoning_tokens"]) == (400, 50)


async def test_json_that_was_asked_for_comes_back_as_such(line: Line) -> None:
    answer = await line.answer(query="What is a lamp?", response_format={"type": "json_object"})
    assert line.last["response_format"] == {"type": "json_object"}
    assert answer.text is not None and set(orjson.loads(answer.text.inline or "")) == {"answer", "marker"}


async def test_json_of_the_wrong_form_is_asked_for_twice_and_explained(line: Line) -> None:
    wanted = {"type": "json_schema", "json_schema": {"schema": {"required": ["lamp"]}}}
    answer = await line.answer(query="What is a lamp?", response_format=wanted)
    assert answer.status == "failed" and answer.failure is not None
    assert answer.failure.code == "invalid_output"
    assert "'required' is broken at the root; 2 replies" in answer.failure.message
    assert [cost.error_code for cost in line.costs] == ["invalid_output"] * 2
    assert all(cost.amount_usd > 0 and not cost.estimated for cost in line.costs)
    first, second = list(line.here.provider.bodies)[-2:]
    assert second["messages"][: len(first["messages"])] == first["messages"]
    assert [message["role"] for message in second["messages"][-2:]] == ["assistant", "user"]
