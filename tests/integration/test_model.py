"""The model client against a provider that does everything wrong, over real HTTP."""

from __future__ import annotations

import asyncio
import resource
import socket
import time
import traceback
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from pydantic import SecretStr

from processors.complete.routes import Deployment
from processors.model import Heard, ModelReply, OpenAIClient
from schemas.errors import OutcomeUnknownError, PermanentProviderError, ProviderError, TransientProviderError
from tests.provider.process import ProviderProcess

KEY = "sk-canary-key"
# A machine that is busy must not be taken for a slow provider.
PATIENT_S = 60.0
# What notices each silence.
SHORT: dict[str, dict[str, float]] = {
    "hang": {"first_token_timeout_s": 0.5},
    "drip:0.1": {"first_token_timeout_s": 0.5},
    "hang_after_first": {"between_chunks_timeout_s": 0.3},
}
PROMPT = "canary-prompt"


@pytest.fixture
async def client() -> AsyncIterator[OpenAIClient]:
    opened = OpenAIClient(max_body_bytes=1_000_000)
    yield opened
    await opened.close()


def deployment(provider: ProviderProcess, **changes: Any) -> Deployment:
    settings: dict[str, Any] = {
        "base_url": provider.base_url,
        "api_key": SecretStr(KEY),
        "connect_timeout_s": PATIENT_S,
        "first_token_timeout_s": PATIENT_S,
        "between_chunks_timeout_s": PATIENT_S,
        "total_timeout_s": PATIENT_S,
    }
    return Deployment(name="d1", model="fake", **(settings | changes))


async def ask(
    client: OpenAIClient,
    provider: ProviderProcess,
    fault: str = "ok",
    *,
    deadline_s: float = PATIENT_S,
    heard: Heard | None = None,
    **changes: Any,
) -> ModelReply:
    content = f"{PROMPT} [[marker:m7]] [[fault:{fault}]]"
    payload = {"model": "fake", "messages": [{"role": "user", "content": content}], "max_tokens": 50}
    headers = {"X-Request-Id": f"r-{fault}", "X-Client-Request-Id": "a-1"}
    where = deployment(provider, **changes)
    return await client.chat(where, payload, deadline_s=deadline_s, headers=headers, heard=heard)


async def test_a_reply_is_read_whole(client: OpenAIClient, provider: ProviderProcess) -> None:
    reply = await ask(client, provider)
    assert reply.text is not None and reply.text.endswith("Marker m7.")
    assert (reply.finish_reason, reply.model) == ("stop", "fake")
    assert reply.usage is not None and reply.usage["completion_tokens"] > 0
    assert reply.first_token_ms is not None and 0 < reply.first_token_ms <= reply.duration_ms
    begin = next(line for line in provider.calls() if line["request_id"] == "r-ok")
    assert (begin["attempt_id"], begin["paid"]) == ("a-1", True)


async def test_the_text_is_heard_in_pieces_while_it_is_written(client: OpenAIClient, provider: ProviderProcess) -> None:
    pieces: list[tuple[str, float]] = []
    reply = await ask(client, provider, "trickle:0.2", heard=lambda text, at: pieces.append((text, at)))
    assert "".join(text for text, _ in pieces) == reply.text and all(text for text, _ in pieces)
    times = [at for _, at in pieces]
    assert times == sorted(times) and times[-1] - times[0] > 0.2 * (len(pieces) - 1) / 2


async def test_one_body_is_heard_as_one_piece(client: OpenAIClient, provider: ProviderProcess) -> None:
    pieces: list[str] = []
    reply = await ask(client, provider, "no_stream", heard=lambda text, at: pieces.append(text))
    assert pieces == [reply.text]


async def test_what_was_heard_before_a_break_is_all_there_was(client: OpenAIClient, provider: ProviderProcess) -> None:
    pieces: list[str] = []
    with pytest.raises(OutcomeUnknownError):
        await ask(client, provider, "break_at:14:0.1", heard=lambda text, at: pieces.append(text))
    assert len("".join(pieces)) == 14


async def test_a_call_that_is_given_up_is_closed_at_the_provider(
    client: OpenAIClient, provider: ProviderProcess
) -> None:
    begun = asyncio.Event()
    call = asyncio.create_task(ask(client, provider, "hang_at:14", heard=lambda text, at: begun.set()))
    await asyncio.wait_for(begun.wait(), PATIENT_S)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    deadline = time.monotonic() + PATIENT_S
    while await _open_calls(provider) and time.monotonic() < deadline:
        await asyncio.sleep(0.02)
    ended = [line for line in provider.calls() if line["request_id"] == "r-hang_at:14" and line["event"] == "end"]
    assert [line["outcome"] for line in ended] == ["broken"]


@pytest.mark.parametrize(
    ("fault", "kind", "code"),
    [
        ("429", TransientProviderError, "http_429"),
        ("500", TransientProviderError, "http_500"),
        ("503", TransientProviderError, "http_503"),
        ("408", TransientProviderError, "http_408"),
        ("400", PermanentProviderError, "http_400"),
        ("401", PermanentProviderError, "http_401"),
        ("403", PermanentProviderError, "http_403"),
        ("404", PermanentProviderError, "http_404"),
        ("context", PermanentProviderError, "context_too_long"),
        ("html", TransientProviderError, "malformed_response"),
        ("garbage", TransientProviderError, "malformed_response"),
        ("empty_choices", TransientProviderError, "malformed_response"),
        ("error_event:503", TransientProviderError, "stream_error"),
        ("error_event:400", PermanentProviderError, "stream_error"),
        ("big", PermanentProviderError, "response_too_large"),
        ("hang", OutcomeUnknownError, "timeout_first_token"),
        ("hang_after_first", OutcomeUnknownError, "timeout_next_chunk"),
        ("drip:0.1", OutcomeUnknownError, "timeout_first_token"),
        ("disconnect", OutcomeUnknownError, "connection_lost"),
        ("disconnect_stream", OutcomeUnknownError, "connection_lost"),
        ("truncated", OutcomeUnknownError, "cut_off"),
    ],
)
async def test_every_fault_has_its_own_error(
    client: OpenAIClient, provider: ProviderProcess, fault: str, kind: type[ProviderError], code: str
) -> None:
    with pytest.raises(ProviderError) as caught:
        await ask(client, provider, fault, **SHORT.get(fault, {}))
    assert (type(caught.value), caught.value.code) == (kind, code)
    told = "".join(traceback.format_exception(caught.value)) + repr(vars(caught.value))
    assert not [word for word in ("CANARY", PROMPT, KEY) if word in told]
    assert caught.value.__cause__ is None and caught.value.__context__ is None


async def test_a_slot_is_free_after_every_fault(client: OpenAIClient, provider: ProviderProcess) -> None:
    with pytest.raises(OutcomeUnknownError):
        await ask(client, provider, "hang", **SHORT["hang"])
    deadline = time.monotonic() + PATIENT_S
    while (await _open_calls(provider)) and time.monotonic() < deadline:
        await asyncio.sleep(0.02)
    assert await _open_calls(provider) == 0


async def test_retry_after_is_told(client: OpenAIClient, provider: ProviderProcess) -> None:
    with pytest.raises(TransientProviderError) as caught:
        await ask(client, provider, "429:7")
    assert caught.value.retry_after_s == 7


async def test_the_deadline_for_all_holds(client: OpenAIClient, provider: ProviderProcess) -> None:
    with pytest.raises(OutcomeUnknownError) as caught:
        await ask(client, provider, "drip:0.1", deadline_s=0.3)
    assert caught.value.code == "timeout_total"


async def test_a_port_where_nobody_listens_was_never_called(client: OpenAIClient, provider: ProviderProcess) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(TransientProviderError) as caught:
            await ask(client, provider, base_url=f"http://127.0.0.1:{taken.getsockname()[1]}/v1")
    assert caught.value.code == "connect_error"


async def test_a_body_of_100_mb_is_not_read_into_memory(client: OpenAIClient, provider: ProviderProcess) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(PermanentProviderError):
        await ask(client, provider, "big")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 30_000  # kB


async def test_what_was_cut_short_or_is_empty_is_a_reply(client: OpenAIClient, provider: ProviderProcess) -> None:
    assert (await ask(client, provider, "length")).finish_reason == "length"
    assert not (await ask(client, provider, "empty_text")).text


@pytest.mark.parametrize("fault", ["no_usage", "wrong_usage"])
async def test_wrong_usage_does_not_spoil_a_reply(client: OpenAIClient, provider: ProviderProcess, fault: str) -> None:
    assert (await ask(client, provider, fault)).finish_reason == "stop"


async def test_an_endpoint_that_does_not_stream_is_understood(client: OpenAIClient, provider: ProviderProcess) -> None:
    reply = await ask(client, provider, "no_stream")
    assert reply.text is not None and reply.usage is not None and reply.finish_reason == "stop"


async def test_a_log_line_is_written_before_the_answer(provider: ProviderProcess, client: OpenAIClient) -> None:
    call = asyncio.create_task(ask(client, provider, f"slow:{PATIENT_S:g}"))
    deadline = time.monotonic() + PATIENT_S / 2
    while not any(line["request_id"] == f"r-slow:{PATIENT_S:g}" for line in provider.calls()):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
    assert not call.done()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call


async def _open_calls(provider: ProviderProcess) -> int:
    async with aiohttp.ClientSession() as session, session.get(f"{provider.url}/calls") as response:
        return int((await response.json())["open"])


def test_the_call_log_stands_where_it_was_asked_for(provider: ProviderProcess) -> None:
    assert isinstance(provider.log, Path) and provider.log.exists()
