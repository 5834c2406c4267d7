"""A deployment that streams only where somebody listens: other replies come as one body, under the same protection."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import SecretStr

from processors.complete.routes import Api, Deployment
from processors.model import Heard, ModelClients, ModelReply
from schemas.errors import OutcomeUnknownError, PermanentProviderError, ProviderError, TransientProviderError
from tests.provider.here import Here

APIS: tuple[Api, ...] = ("openai", "azure", "responses", "anthropic")


async def ask(
    client: ModelClients,
    here: Here,
    api: Api = "openai",
    fault: str = "ok",
    *,
    heard: Heard | None = None,
    deadline_s: float = 30.0,
    **changes: Any,
) -> ModelReply:
    url = here.base_url if api in ("openai", "responses") else here.url
    settings: dict[str, Any] = {"base_url": url, "stream": "asked", "first_token_timeout_s": 0.2, **changes}
    where = Deployment(name="d1", model="fake", api=api, api_key=SecretStr("sk-1"), **settings)
    payload = {"model": "fake", "messages": [{"role": "user", "content": f"hi [[fault:{fault}]]"}], "max_tokens": 50}
    return await client.chat(where, payload, deadline_s=deadline_s, headers={}, heard=heard)


@pytest.mark.parametrize("api", APIS)
async def test_it_is_one_body_with_the_same_text_and_usage(here: Here, client: ModelClients, api: Api) -> None:
    whole = await ask(client, here, api)
    streamed = await ask(client, here, api, stream="always", first_token_timeout_s=30.0)
    assert whole.first_token_ms is None and streamed.first_token_ms is not None
    assert (whole.text, whole.finish_reason, whole.usage) == (streamed.text, streamed.finish_reason, streamed.usage)


@pytest.mark.parametrize("api", APIS)
async def test_what_somebody_listens_to_streams(here: Here, client: ModelClients, api: Api) -> None:
    pieces: list[str] = []
    reply = await ask(client, here, api, heard=lambda text, _: pieces.append(text), first_token_timeout_s=30.0)
    assert len(pieces) > 1 and "".join(pieces) == reply.text


@pytest.mark.parametrize("api", APIS)
async def test_one_that_takes_longer_than_a_first_output_may_is_waited_for(
    here: Here, client: ModelClients, api: Api
) -> None:
    assert (await ask(client, here, api, "slow:0.5")).finish_reason == "stop"


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize(
    ("fault", "kind", "code"),
    [
        ("hang", OutcomeUnknownError, "timeout_total"),
        ("disconnect", OutcomeUnknownError, "connection_lost"),
        ("garbage", TransientProviderError, "malformed_response"),
        ("html", TransientProviderError, "malformed_response"),
        ("429", TransientProviderError, "http_429"),
        ("401", PermanentProviderError, "http_401"),
        ("context", PermanentProviderError, "context_too_long"),
    ],
)
async def test_a_fault_ends_as_it_does_in_a_stream(
    here: Here, client: ModelClients, api: Api, fault: str, kind: type[ProviderError], code: str
) -> None:
    with pytest.raises(ProviderError) as caught:
        await ask(client, here, api, fault, deadline_s=0.5 if fault == "hang" else 30.0)
    assert (type(caught.value), caught.value.code) == (kind, code)
