"""Azure's form, the Responses API and Anthropic's messages over real HTTP: the same outcomes as everywhere."""

from __future__ import annotations

import json
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from pydantic import SecretStr

from processors.complete.routes import Api, Deployment, Route
from processors.event import Recorded
from processors.model import ModelClients, ModelReply
from processors.prices.tokens import counted
from schemas.errors import OutcomeUnknownError, PermanentProviderError, ProviderError, TransientProviderError
from schemas.records import Completion, Cost, Sampling
from tests.provider.here import Here
from tests.support.completing import PRICE, Bench, event
from tests.support.polling import until

APIS: tuple[Api, ...] = ("azure", "responses", "anthropic")
PATIENT: dict[str, Any] = {"first_token_timeout_s": 30.0, "between_chunks_timeout_s": 30.0, "total_timeout_s": 60.0}
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}


def deployment(here: Here, api: Api, **changes: Any) -> Deployment:
    settings: dict[str, Any] = {
        "base_url": here.base_url if api == "responses" else here.url,
        "model": "fake",
        "api_key": SecretStr("sk-canary"),
        "price": PRICE,
        **PATIENT,
    }
    return Deployment(name="d1", api=api, **(settings | changes))


async def ask(
    client: ModelClients, here: Here, api: Api, text: str, *, body: dict[str, Any] | None = None, **changes: Any
) -> ModelReply:
    payload = {"model": "fake", "messages": [{"role": "user", "content": text}], "max_tokens": 50, **(body or {})}
    headers = {"X-Request-Id": "r1", "X-Client-Request-Id": "a1"}
    return await client.chat(deployment(here, api, **changes), payload, deadline_s=60, headers=headers)


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("fault", ["ok", "no_stream"])
async def test_a_reply_is_read_with_all_it_counted(here: Here, client: ModelClients, api: Api, fault: str) -> None:
    reply = await ask(client, here, api, f"a b [[marker:m7]] [[cached:40]] [[fault:{fault}]]")
    assert reply.text is not None and reply.text.endswith("Marker m7.")
    assert (reply.finish_reason, reply.model) == ("stop", "fake") and reply.response_id
    usage = counted(reply.usage or {}, None)
    assert usage is not None and (usage.prompt_tokens, usage.cached_prompt_tokens) == (45, 40)
    assert usage.completion_tokens == len(reply.text.split())
    begin, end = here.provider.log.recent()
    assert (begin["attempt_id"], begin["request_id"], end["outcome"]) == ("a1", "r1", "answered")


@pytest.mark.parametrize("api", APIS)
async def test_a_tool_is_called_and_its_result_given(here: Here, client: ModelClients, api: Api) -> None:
    reply = await ask(client, here, api, "[[call:look]]", body={"tools": [TOOL]})
    (call,) = json.loads(reply.tool_calls_json or "")
    assert reply.finish_reason == "tool_calls" and call["function"]["name"] == "look"
    assert "topic" in json.loads(call["function"]["arguments"])
    history = [
        {"role": "user", "content": "look"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": call["id"], "content": "[[marker:seen]]"},
    ]
    after = await ask(client, here, api, "", body={"messages": history, "tools": [TOOL]})
    assert after.text is not None and "Marker seen." in after.text


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize(
    ("fault", "kind", "code"),
    [
        ("429:7", TransientProviderError, "http_429"),
        ("500", TransientProviderError, "http_500"),
        ("529", TransientProviderError, "http_529"),
        ("400", PermanentProviderError, "http_400"),
        ("context", PermanentProviderError, "context_too_long"),
        ("401", PermanentProviderError, "http_401"),
        ("403", PermanentProviderError, "http_403"),
        ("404", PermanentProviderError, "http_404"),
        ("html", TransientProviderError, "malformed_response"),
        ("garbage", TransientProviderError, "malformed_response"),
        ("garbage_event", TransientProviderError, "malformed_response"),
        ("empty_choices", TransientProviderError, "malformed_response"),
        ("error_event:529", TransientProviderError, "stream_error"),
        ("error_event:400", PermanentProviderError, "stream_error"),
        ("big", PermanentProviderError, "response_too_large"),
        ("disconnect", OutcomeUnknownError, "connection_lost"),
        ("disconnect_stream", OutcomeUnknownError, "connection_lost"),
        ("truncated", OutcomeUnknownError, "cut_off"),
    ],
)
async def test_every_fault_has_the_error_that_it_has_everywhere(
    here: Here, client: ModelClients, api: Api, fault: str, kind: type[ProviderError], code: str
) -> None:
    with pytest.raises(ProviderError) as caught:
        await ask(client, here, api, f"hi [[fault:{fault}]]")
    assert (type(caught.value), caught.value.code) == (kind, code)
    assert caught.value.__cause__ is None and caught.value.__context__ is None
    assert "CANARY" not in str(caught.value) and "sk-canary" not in str(caught.value)
    if fault == "429:7":
        assert isinstance(caught.value, TransientProviderError) and caught.value.retry_after_s == 7
    await until(lambda: here.bill["open"] == 0, "the provider has no open call")


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize(
    ("fault", "code", "deadline"),
    [
        ("hang", "timeout_first_token", "first_token_timeout_s"),
        ("hang_after_first", "timeout_next_chunk", "between_chunks_timeout_s"),
    ],
)
async def test_a_silence_is_noticed_and_the_call_closed(
    here: Here, client: ModelClients, api: Api, fault: str, code: str, deadline: str
) -> None:
    short: dict[str, Any] = {deadline: 0.4}
    with pytest.raises(OutcomeUnknownError) as caught:
        await ask(client, here, api, f"hi [[fault:{fault}]]", **short)
    assert caught.value.code == code
    await until(lambda: here.bill["open"] == 0, "the provider has no open call")


@pytest.mark.parametrize("api", APIS)
async def test_a_key_that_is_missing_is_refused(here: Here, client: ModelClients, api: Api) -> None:
    here.provider.script.load({"by_key": {"": ["401"]}})
    with pytest.raises(PermanentProviderError) as caught:
        await ask(client, here, api, "hi", api_key=None)
    assert caught.value.http_status == 401


@pytest.mark.parametrize("api", APIS)
async def test_an_endpoint_that_is_away_was_never_called(client: ModelClients, here: Here, api: Api) -> None:
    with pytest.raises(TransientProviderError) as caught:
        await ask(client, here, api, "hi", base_url="http://127.0.0.1:9")
    assert caught.value.code == "connect_error"


async def test_what_can_not_be_asked_of_anthropic_costs_nothing(here: Here, client: ModelClients) -> None:
    with pytest.raises(PermanentProviderError) as caught:
        await ask(client, here, "anthropic", "hi", body={"logprobs": True, "top_logprobs": 3})
    assert caught.value.code == "unsupported_parameter" and here.bill["by_kind"] == {}


@pytest.mark.parametrize("api", APIS)
async def test_the_stage_books_a_native_call_to_the_token(here: Here, client: ModelClients, api: Api) -> None:
    bench = Bench()
    bench.model = client  # type: ignore[assignment]
    bench.route = Route(name="default", deployment=deployment(here, api), max_attempts=2)
    *_, cost, recorded = await bench.worker()(event(text="why? [[fault:500,ok]]"))
    assert isinstance(cost, Cost)
    assert isinstance(recorded, Recorded) and isinstance(recorded.record, Completion)
    assert [attempt.state for attempt in recorded.record.attempts] == ["failed", "done"]
    assert not recorded.record.estimated and cost.amount_usd == Decimal(str(here.bill["usd"]))


async def test_what_one_api_can_not_be_asked_goes_to_another_deployment(here: Here, client: ModelClients) -> None:
    bench = Bench()
    bench.model = client  # type: ignore[assignment]
    native = deployment(here, "anthropic")
    usual = replace(native, name="d2", api="openai", base_url=here.base_url)
    bench.route = Route(name="default", deployment=native, others=(usual,), max_attempts=2)
    stage, passed_on = bench.worker(), 0
    for n in range(8):
        *_, recorded = await stage(event(f"r{n}", sampling=Sampling(presence_penalty=0.5)))
        assert isinstance(recorded, Recorded) and isinstance(recorded.record, Completion)
        *refused, done = recorded.record.attempts
        assert done.deployment == "d2"
        assert [(one.error_code, one.cost_usd) for one in refused] in ([], [("unsupported_parameter", Decimal(0))])
        passed_on += bool(refused)
    assert passed_on and here.bill["by_kind"] == {"chat": 8}
