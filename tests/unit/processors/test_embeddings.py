"""The embedding adapter against a server that misbehaves."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import numpy as np
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from processors.embeddings import CachedEmbedder, EmbeddingPolicy, HashingEmbedder, OpenAIEmbedder
from schemas.errors import DependencyDownError, HeadraceError, PermanentProviderError, TransientProviderError

Reply = Callable[[dict[str, Any]], Awaitable[web.Response]]
# A machine that is busy must not be taken for an endpoint that hangs.
POLICY = EmbeddingPolicy(model="m", dimension=3, batch=2, deadline_s=2.0)


class Endpoint:
    """An embeddings endpoint that replies as it is told."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.reply: Reply = self.vectors
        self.transport: asyncio.Transport | None = None

    async def handle(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.batches.append(body["input"])
        self.transport = request.transport
        return await self.reply(body)

    async def vectors(self, body: dict[str, Any]) -> web.Response:
        rows = [{"object": "embedding", "index": n, "embedding": [len(t), 1, 0]} for n, t in enumerate(body["input"])]
        rows.reverse()
        return web.json_response({"object": "list", "data": rows, "model": "m", "usage": {}})


@pytest.fixture
async def endpoint() -> AsyncIterator[tuple[Endpoint, OpenAIEmbedder, TestServer]]:
    endpoint, app = Endpoint(), web.Application()
    app.router.add_post("/v1/embeddings", endpoint.handle)
    server = TestServer(app)
    await server.start_server()
    embedder = OpenAIEmbedder(POLICY, base_url=str(server.make_url("/v1")), api_key="none")
    yield endpoint, embedder, server
    await embedder.close()
    await server.close()


Running = tuple[Endpoint, OpenAIEmbedder, TestServer]


async def test_texts_go_in_batches_and_vectors_come_back_in_order(endpoint: Running) -> None:
    server, embedder, _ = endpoint
    vectors = await embedder.embed(["a", "bb", "ccc"])
    assert server.batches == [["a", "bb"], ["ccc"]]
    assert [vector[0] for vector in vectors] == [1, 2, 3]
    assert all(vector.dtype == np.float32 for vector in vectors)
    assert await embedder.embed([]) == []


async def status(code: int) -> web.Response:
    return web.json_response({"error": {"message": "secret text"}}, status=code)


async def hang() -> web.Response:
    await asyncio.sleep(5)
    return web.Response()


async def data(rows: Any) -> web.Response:
    return web.json_response({"object": "list", "data": rows, "model": "m"})


def row(*values: float) -> dict[str, Any]:
    return {"object": "embedding", "index": 0, "embedding": list(values)}


async def page() -> web.Response:
    return web.Response(text="<html>", content_type="text/html")


async def garbage() -> web.Response:
    return web.Response(text="{", content_type="application/json")


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        *[(functools.partial(status, code), DependencyDownError) for code in (408, 425, 429, 502, 503, 504)],
        *[(functools.partial(status, code), TransientProviderError) for code in (409, 500, 501, 505)],
        (hang, TransientProviderError),
        (lambda: status(400), PermanentProviderError),
        (lambda: status(401), PermanentProviderError),
        (lambda: status(404), PermanentProviderError),
        (page, TransientProviderError),
        (garbage, TransientProviderError),
        (lambda: data([]), TransientProviderError),
        (lambda: data([{"index": 0}]), TransientProviderError),
        (lambda: data([row(1, 2, 3), row(1, 2, 3)]), TransientProviderError),
        (lambda: data([row(1, 2)]), PermanentProviderError),
        (lambda: data([row(0, 0, 0)]), PermanentProviderError),
    ],
)
async def test_every_fault_has_its_class_and_keeps_no_provider_text(
    endpoint: Running, reply: Callable[[], Awaitable[web.Response]], expected: type[HeadraceError]
) -> None:
    server, embedder, _ = endpoint

    async def misbehave(_: dict[str, Any]) -> web.Response:
        return await reply()

    server.reply = misbehave
    with pytest.raises(expected) as caught:
        await embedder.embed(["a"])
    assert len(server.batches) == 1
    assert "secret" not in str(caught.value)


async def test_an_endpoint_that_is_gone_is_a_dependency_down(endpoint: Running) -> None:
    _, embedder, server = endpoint
    await server.close()
    with pytest.raises(DependencyDownError, match="embeddings"):
        await embedder.embed(["a"])


async def test_a_connection_that_breaks_after_sending_is_counted(endpoint: Running) -> None:
    server, embedder, _ = endpoint

    async def drop(_: dict[str, Any]) -> web.Response:
        assert server.transport is not None
        server.transport.abort()
        return web.Response()

    server.reply = drop
    with pytest.raises(TransientProviderError, match="broke"):
        await embedder.embed(["a"])


async def test_a_redirect_is_not_followed(endpoint: Running) -> None:
    server, embedder, _ = endpoint

    async def redirect(_: dict[str, Any]) -> web.Response:
        return web.Response(status=307, headers={"Location": "/v1/embeddings"})

    server.reply = redirect
    with pytest.raises(PermanentProviderError, match="307"):
        await embedder.embed(["a"])
    assert len(server.batches) == 1


async def test_a_proxy_of_the_environment_is_not_used(endpoint: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    _, _, test_server = endpoint
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    embedder = OpenAIEmbedder(POLICY, base_url=str(test_server.make_url("/v1")), api_key="none")
    try:
        assert len(await embedder.embed(["a"])) == 1
    finally:
        await embedder.close()


async def test_a_query_asked_again_is_not_embedded_again() -> None:
    inner = HashingEmbedder(dimension=8)
    cached = CachedEmbedder(inner, size=2)
    first = await cached.embed(["a", "b", "a"])
    again = await cached.embed(["b", "a"])
    assert inner.embedded == ["a", "b"]
    assert np.array_equal(first[0], again[1])
    await cached.embed(["c"])
    await cached.embed(["a"])
    assert inner.embedded == ["a", "b", "c"]
    await cached.embed(["b"])
    assert inner.embedded == ["a", "b", "c", "b"]
