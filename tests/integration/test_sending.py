"""Connections of calls: kept where a reply was read, closed where it was not, and never more than calls at a time."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from processors.complete.routes import Deployment
from processors.model import OpenAIClient
from schemas.errors import PermanentProviderError, ProviderError, TransientProviderError

EVENT = b'data: {"model":"m","choices":[{"index":0,"delta":{"content":"hi"},"finish_reason":"stop"}]}\n\n'
DONE = b"data: [DONE]\n\n"


class Endpoint:
    """Streams a reply. ``pause_s`` passes between its end's mark and the end of its body; ``more`` comes in between."""

    def __init__(self) -> None:
        self.base_url = ""
        self.status, self.pause_s, self.more, self.end = 200, 0.0, b"", DONE
        # Calls by connection.
        self.connections: Counter[int] = Counter()
        self.sizes: list[int] = []

    async def serve(self, request: web.Request) -> web.StreamResponse:
        self.connections[id(request.protocol)] += 1
        self.sizes.append(len(await request.read()))
        if self.status != 200:
            return web.json_response({"error": {"code": "no"}}, status=self.status, headers={"Location": "/elsewhere"})
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(EVENT + self.end)
        await asyncio.sleep(self.pause_s)
        await response.write(self.more)
        await response.write_eof()
        return response


@asynccontextmanager
async def serving() -> AsyncIterator[Endpoint]:
    endpoint, app = Endpoint(), web.Application(client_max_size=1 << 24)
    app.router.add_route("*", "/{path:.*}", endpoint.serve)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    endpoint.base_url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    try:
        yield endpoint
    finally:
        await runner.cleanup()


@pytest.fixture
async def endpoint() -> AsyncIterator[Endpoint]:
    async with serving() as served:
        yield served


@pytest.fixture
async def client() -> AsyncIterator[OpenAIClient]:
    opened = OpenAIClient()
    yield opened
    await opened.close()


async def ask(client: OpenAIClient, endpoint: Endpoint, text: str = "?") -> str | None:
    where = Deployment(name="d1", base_url=endpoint.base_url, model="m", between_chunks_timeout_s=60.0)
    payload = {"model": "m", "messages": [{"role": "user", "content": text}]}
    return (await client.chat(where, payload, deadline_s=60, headers={})).text


async def test_calls_one_after_the_other_take_one_connection(client: OpenAIClient, endpoint: Endpoint) -> None:
    for _ in range(5):
        assert await ask(client, endpoint) == "hi"
        # What follows the end's mark is on its way.
        await _until_ended(client)
    assert list(endpoint.connections.values()) == [5]


async def test_calls_at_the_same_time_take_as_many_and_leave_them_to_the_next(
    client: OpenAIClient, endpoint: Endpoint
) -> None:
    for _ in range(2):
        await asyncio.gather(*(ask(client, endpoint) for _ in range(20)))
        await _until_ended(client)
    assert len(endpoint.connections) == 20 and sum(endpoint.connections.values()) == 40


async def test_a_reply_is_there_before_its_body_ends_and_its_connection_is_not_used_meanwhile(
    client: OpenAIClient, endpoint: Endpoint
) -> None:
    endpoint.pause_s = 60.0
    async with asyncio.timeout(30):
        assert [await ask(client, endpoint) for _ in range(2)] == ["hi", "hi"]
    assert len(endpoint.connections) == 2


async def test_a_refusal_keeps_its_connection_and_is_followed_nowhere(client: OpenAIClient, endpoint: Endpoint) -> None:
    refusals: tuple[tuple[int, type[ProviderError]], ...] = (
        (429, TransientProviderError),
        (302, PermanentProviderError),
        (401, PermanentProviderError),
    )
    for status, kind in refusals:
        endpoint.status = status
        with pytest.raises(kind) as caught:
            await ask(client, endpoint)
        assert caught.value.http_status == status
    assert list(endpoint.connections.values()) == [3]


async def test_a_reply_that_was_cut_off_leaves_no_connection(client: OpenAIClient, endpoint: Endpoint) -> None:
    endpoint.end = b""
    endpoint.more = b'data: {"half'
    assert await ask(client, endpoint) == "hi", "its reason to stop had come"
    endpoint.more = b"data: no json\n\n"
    with pytest.raises(TransientProviderError):
        await ask(client, endpoint)
    endpoint.end, endpoint.more = DONE, b""
    assert await ask(client, endpoint) == "hi"
    assert sum(endpoint.connections.values()) == 3


async def test_a_body_of_megabytes_is_sent_whole(client: OpenAIClient, endpoint: Endpoint) -> None:
    assert await ask(client, endpoint, "x" * 3_000_000) == "hi"
    assert endpoint.sizes[0] > 3_000_000


async def _until_ended(client: OpenAIClient) -> None:
    """Wait until the client has given back what it read from."""
    async with asyncio.timeout(30):
        while client._sender._ending:
            await asyncio.sleep(0.001)
