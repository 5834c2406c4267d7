"""Recorded exchanges of real endpoints, served again: the client reads every success and sorts every error."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from aiohttp import web

from processors.complete.routes import Api, Deployment
from processors.embeddings import EmbeddingPolicy, OpenAIEmbedder
from processors.model import ModelReply, OpenAIClient
from processors.model.cause import from_status
from processors.prices.library import Library
from processors.prices.tokens import counted
from schemas.errors import PermanentProviderError, ProviderError
from tests.unit.processors.test_recorded_replies import NO_COMPLETIONS

CHAT, RESPONSES, EMBEDDINGS = "/chat/completions", "/responses", "/embeddings"
# What endpoints reply with says whether it is read; how the price library calls those who sent it.
PROVIDERS = {
    "api.openai.com": "openai",
    "api.groq.com": "groq",
    "api.mistral.ai": "mistral",
    "openrouter.ai": "openrouter",
}


def exchanges(shared_data: Path) -> list[dict[str, Any]]:
    lines = (shared_data / "openai_recorded" / "public" / "exchanges.jsonl").read_text().splitlines()
    return [one for one in map(json.loads, lines) if one["id"] not in NO_COMPLETIONS]


def body_of(exchange: dict[str, Any]) -> tuple[bytes, str]:
    """The reply as it was sent, as far as the recording tells, and its type."""
    raw = exchange.get("response_raw")
    if raw is None:
        return json.dumps(exchange["response_json"]).encode(), "application/json"
    streamed = not raw.lstrip().startswith("{")
    return raw.encode(), "text/event-stream" if streamed else "application/json"


class Recordings:
    """Serves the exchange that ``now`` is."""

    def __init__(self) -> None:
        self.now: dict[str, Any] = {}
        self.base_url = ""

    async def serve(self, request: web.Request) -> web.Response:
        await request.read()
        body, kind = body_of(self.now)
        return web.Response(body=body, status=self.now["status"], content_type=kind)


@pytest.fixture
async def recordings() -> AsyncIterator[Recordings]:
    served, app = Recordings(), web.Application()
    app.router.add_route("*", "/{path:.*}", served.serve)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    served.base_url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    yield served
    await runner.cleanup()


@pytest.fixture
async def client() -> AsyncIterator[OpenAIClient]:
    opened = OpenAIClient()
    yield opened
    await opened.close()


async def ask(
    client: OpenAIClient, recordings: Recordings, exchange: dict[str, Any], *, api: Api = "openai"
) -> ModelReply:
    recordings.now = exchange
    asked = exchange["request"] if isinstance(exchange["request"], dict) and api == "openai" else {}
    payload = {"model": "m", "messages": [], **asked}
    where = Deployment(name="d1", base_url=recordings.base_url, model=payload["model"], api=api)
    return await client.chat(where, payload, deadline_s=60, headers={})


async def test_the_client_reads_every_recorded_success_and_its_cached_and_reasoning_tokens(
    client: OpenAIClient, recordings: Recordings, shared_data: Path
) -> None:
    read, library, seen = 0, Library(), {"cached": 0, "reasoning": 0}
    for exchange in exchanges(shared_data):
        if CHAT not in exchange["uri"] or exchange["status"] != 200:
            continue
        reply = await ask(client, recordings, exchange)
        assert reply.finish_reason and reply.model, exchange["id"]
        assert reply.text is not None or reply.tool_calls_json or reply.refusal, exchange["id"]
        read += 1
        told, host = _usage(exchange), urlsplit(exchange["uri"]).hostname or ""
        if told is None or host not in PROVIDERS:
            continue
        usage = counted(reply.usage or {}, library.provider(PROVIDERS[host]))
        assert usage is not None, exchange["id"]
        cached = (told.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
        reasoning = (told.get("completion_tokens_details") or {}).get("reasoning_tokens") or 0
        assert (usage.prompt_tokens, usage.cached_prompt_tokens) == (told["prompt_tokens"], cached), exchange["id"]
        assert usage.reasoning_tokens == reasoning, exchange["id"]
        seen["cached"] += cached > 0
        seen["reasoning"] += reasoning > 0
    assert read > 200 and seen["cached"] > 0 and seen["reasoning"] > 0


async def test_the_client_reads_every_recorded_success_of_the_responses_api(
    client: OpenAIClient, recordings: Recordings, shared_data: Path
) -> None:
    read = called = streamed = 0
    for exchange in exchanges(shared_data):
        if RESPONSES not in exchange["uri"] or exchange["status"] != 200:
            continue
        whole = whole_response(exchange)
        if whole["status"] == "queued":
            # What was sent to be worked on in the background is no answer yet. Nothing is sent so.
            with pytest.raises(ProviderError) as caught:
                await ask(client, recordings, exchange, api="responses")
            assert caught.value.code == "malformed_response"
            continue
        reply = await ask(client, recordings, exchange, api="responses")
        calls = [item["call_id"] for item in whole["output"] if item["type"] == "function_call"]
        assert [call["id"] for call in json.loads(reply.tool_calls_json or "[]")] == calls, exchange["id"]
        texts = [
            part["text"]
            for item in whole["output"]
            if item["type"] == "message"
            for part in item["content"]
            if part["type"] == "output_text"
        ]
        assert (reply.text or "") == "".join(texts), exchange["id"]
        assert reply.finish_reason == ("tool_calls" if calls else "stop") and reply.model and reply.response_id
        usage, told = counted(reply.usage or {}, None), whole["usage"]
        assert usage is not None and usage.prompt_tokens == told["input_tokens"], exchange["id"]
        assert usage.cached_prompt_tokens == told["input_tokens_details"]["cached_tokens"], exchange["id"]
        assert usage.reasoning_tokens == told["output_tokens_details"]["reasoning_tokens"], exchange["id"]
        read, called = read + 1, called + bool(calls)
        streamed += body_of(exchange)[1] != "application/json"
    assert read > 120 and called > 20 and streamed > 10


def whole_response(exchange: dict[str, Any]) -> dict[str, Any]:
    """The response as its recording ends."""
    last: dict[str, Any] = {}
    for told in _objects(exchange):
        last = told.get("response") or (told if "output" in told else last)
    return last


async def test_the_client_sorts_every_recorded_error(
    client: OpenAIClient, recordings: Recordings, shared_data: Path
) -> None:
    sorted_out = set()
    for exchange in exchanges(shared_data):
        if exchange["status"] == 200 or EMBEDDINGS in exchange["uri"]:
            continue
        api: Api = "openai" if CHAT in exchange["uri"] else "responses"
        with pytest.raises(ProviderError) as caught:
            await ask(client, recordings, exchange, api=api)
        assert caught.value.http_status == exchange["status"], exchange["id"]
        assert caught.value.retryable == (exchange["status"] == 429), exchange["id"]
        sorted_out.add((exchange["status"], caught.value.code))
    assert sorted_out == {(400, "http_400"), (400, "model_not_found"), (404, "model_not_found")}


def test_errors_of_every_endpoint_have_a_class(shared_data: Path) -> None:
    here, codes = Deployment(name="d1", base_url="http://x/v1", model="m"), []
    for exchange in exchanges(shared_data):
        if exchange["status"] != 200:
            error = from_status(exchange["status"], exchange.get("response_json"), {}, here)
            assert isinstance(error, PermanentProviderError), exchange["id"]
            codes.append(error.code)
    assert len(codes) == 8 and codes.count("model_not_found") == 4


def _usage(exchange: dict[str, Any]) -> dict[str, Any] | None:
    """The last usage of the recording, as it was told."""
    told = None
    for chunk in _objects(exchange):
        told = chunk.get("usage") or told
    return told


def _objects(exchange: dict[str, Any]) -> Iterator[dict[str, Any]]:
    body, kind = body_of(exchange)
    if kind == "application/json":
        yield json.loads(body)
        return
    for line in body.decode().splitlines():
        data = line.removeprefix("data:").strip()
        if line.startswith("data:") and data != "[DONE]":
            yield json.loads(data)


async def test_every_recorded_embedding_is_read(recordings: Recordings, shared_data: Path) -> None:
    read = 0
    for exchange in exchanges(shared_data):
        if EMBEDDINGS not in exchange["uri"]:
            continue
        recordings.now = exchange
        rows = exchange["response_json"].get("data") or []
        dimension = len(_floats(rows[0]["embedding"])) if rows else 1
        embedder = OpenAIEmbedder(
            EmbeddingPolicy(model="e", dimension=dimension), base_url=recordings.base_url, api_key="none"
        )
        try:
            if exchange["status"] != 200:
                with pytest.raises(ProviderError) as caught:
                    await embedder.embed(["a"])
                assert not caught.value.retryable, exchange["id"]
                continue
            vectors = await embedder.embed(["a"] * len(rows))
            for vector, row in zip(vectors, rows, strict=True):
                assert vector.tolist() == pytest.approx(_floats(row["embedding"])), exchange["id"]
            read += 1
        finally:
            await embedder.close()
    assert read == 2


def _floats(embedding: Any) -> list[float]:
    """A vector as it was sent: numbers, or their bytes in base64."""
    if isinstance(embedding, str):
        raw = base64.b64decode(embedding)
        return list(struct.unpack(f"<{len(raw) // 4}f", raw))
    return [float(value) for value in embedding]
