"""What a transport raises before or after it sent is told apart, whichever transport it is."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest

from processors.complete.routes import Deployment
from processors.model.anthropic_assembly import MessageAssembly
from processors.model.assembly import ChatAssembly
from processors.model.exchange import Assembly, Call, Opened
from schemas.errors import OutcomeUnknownError, ProviderError, TransientProviderError

HERE = Deployment(name="d1", base_url="http://x", model="m")


@asynccontextmanager
async def failing(error: Exception) -> AsyncIterator[Opened]:
    raise error
    yield  # type: ignore[unreachable]


@pytest.mark.parametrize("assembly", [ChatAssembly, MessageAssembly])
@pytest.mark.parametrize(
    ("raised", "kind", "code"),
    [
        (aiohttp.ConnectionTimeoutError("slow to connect"), TransientProviderError, "connect_error"),
        (aiohttp.SocketTimeoutError("slow to read"), OutcomeUnknownError, "timeout_total"),
        (aiohttp.ServerDisconnectedError(), OutcomeUnknownError, "connection_lost"),
        (aiohttp.ClientPayloadError("half"), OutcomeUnknownError, "connection_lost"),
        (ConnectionResetError(), OutcomeUnknownError, "connection_lost"),
    ],
)
async def test_only_what_was_never_sent_is_booked_at_nothing(
    assembly: type[Assembly], raised: Exception, kind: type[ProviderError], code: str
) -> None:
    with pytest.raises(ProviderError) as caught:
        await Call(HERE, assembly()).reply(failing(raised), deadline_s=60)
    assert (type(caught.value), caught.value.code) == (kind, code)
    assert caught.value.__context__ is None, "what a library raised may hold the provider's text"


async def test_the_first_output_is_told_once_and_before_the_reply_is_whole() -> None:
    told: list[bool] = []

    @asynccontextmanager
    async def wire() -> AsyncIterator[Opened]:
        async def chunks() -> AsyncIterator[bytes]:
            yield b'data: {"choices": [{"index": 0, "delta": {"role": "assistant"}}]}\n\n'
            assert told == [], "a role is no output"
            yield b'data: {"choices": [{"index": 0, "delta": {"content": "one "}}]}\n\n'
            assert told == [True]
            yield b'data: {"choices": [{"index": 0, "delta": {"content": "two"}, "finish_reason": "stop"}]}\n\n'
            yield b"data: [DONE]\n\n"

        yield Opened("text/event-stream", chunks())

    reply = await Call(HERE, ChatAssembly(), began=lambda: told.append(True)).reply(wire(), deadline_s=60)
    assert (reply.text, told) == ("one two", [True])
