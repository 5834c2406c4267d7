"""The provider's HTTP side."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import orjson
from aiohttp import web

from tests.provider import reply
from tests.provider.calls import CallLog
from tests.provider.faults import STATUSES, Fault, Script

_BIG_BYTES = 100 * 1024 * 1024
_FOREVER_S = 3600
_CUT_AT = ("break_at", "error_at", "hang_at")


@dataclass(frozen=True, slots=True)
class Latency:
    """How long a call takes: the median, and for ``slow_share`` of the calls ``slow_ms`` instead; seeded by request."""

    median_ms: float = 0.0
    slow_ms: float = 0.0
    slow_share: float = 0.0
    seed: int = 0

    def seconds(self, request_id: str) -> float:
        chance = random.Random(f"{self.seed}/{request_id}")
        slow = chance.random() < self.slow_share
        return (self.slow_ms if slow else self.median_ms * chance.uniform(0.5, 1.5)) / 1000


class Provider:
    """One provider. ``app`` serves it."""

    def __init__(self, log: CallLog, latency: Latency, *, dimension: int = 384) -> None:
        self.log, self.latency, self.script = log, latency, Script()
        self._dimension = dimension
        self.app = web.Application(client_max_size=32 * 1024 * 1024)
        self.app.add_routes(
            [
                web.post("/v1/chat/completions", self.chat),
                web.post("/v1/embeddings", self.embed),
                web.get("/v1/models", self.models),
                web.get("/calls", self.calls),
                web.post("/script", self.load),
            ]
        )

    async def models(self, request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": "fake", "object": "model"}]})

    async def calls(self, request: web.Request) -> web.Response:
        return web.json_response({"open": self.log.open, "paid": self.log.paid, "calls": self.log.recent()})

    async def load(self, request: web.Request) -> web.Response:
        posted = await request.json()
        self.script.load(posted)
        if "latency" in posted:
            self.latency = Latency(**posted["latency"])
        return web.json_response({})

    async def embed(self, request: web.Request) -> web.Response:
        body = await request.json()
        texts = [body["input"]] if isinstance(body["input"], str) else body["input"]
        data = [
            {"object": "embedding", "index": n, "embedding": reply.embedding(text, self._dimension)}
            for n, text in enumerate(texts)
        ]
        tokens = sum(len(text.split()) for text in texts)
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return web.json_response({"object": "list", "data": data, "model": body.get("model", "fake"), "usage": usage})

    async def chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        request_id = request.headers.get("X-Request-Id", "")
        attempt_id = request.headers.get("X-Client-Request-Id", "")
        fault = self.script.next(request_id, reply.prompt_of(body), str(body.get("model", "")))
        number = self.log.begin(
            request_id=request_id,
            attempt_id=attempt_id,
            kind="chat",
            fault=fault.name,
            paid=fault.paid,
        )
        outcome = "broken"
        try:
            if fault.name in STATUSES or fault.name == "context":
                response: web.StreamResponse = _refusal(fault)
            else:
                response = await self._answer(request, body, fault, number)
            outcome = "answered"
            return response
        finally:
            self.log.end(number, outcome, request_id=request_id, attempt_id=attempt_id)

    async def _answer(
        self, request: web.Request, body: dict[str, Any], fault: Fault, number: int
    ) -> web.StreamResponse:
        await asyncio.sleep(self.latency.seconds(request.headers.get("X-Request-Id", "")))
        if fault.name == "slow":
            await asyncio.sleep(float(fault.argument or 1))
        if fault.name == "hang":
            await asyncio.sleep(_FOREVER_S)
        if fault.name == "disconnect":
            _cut(request)
        if fault.name == "html":
            return web.Response(text="<html><body>Gateway is fine</body></html>", content_type="text/html")
        if fault.name == "garbage":
            return web.Response(body=b'{"choices": [{"mess', content_type="application/json")
        text, finish = reply.answer_to(body, request.headers.get("X-Client-Request-Id", "")), "stop"
        if fault.name == "length":
            text, finish = text[: len(text) // 2], "length"
        if fault.name == "empty_text":
            text = ""
        usage: Any = reply.usage_of(body, text)
        if fault.name == "no_usage":
            usage = None
        if fault.name == "wrong_usage":
            usage = {"prompt_tokens": -5, "completion_tokens": "many", "total_tokens": None}
        if fault.name == "no_stream" or not body.get("stream"):
            whole = reply.whole(body, text, finish=finish, usage=usage, number=number)
            if fault.name == "empty_choices":
                whole["choices"] = []
            return web.json_response(whole)
        return await self._stream(request, body, fault, number, text=text, finish=finish, usage=usage)

    async def _stream(
        self,
        request: web.Request,
        body: dict[str, Any],
        fault: Fault,
        number: int,
        *,
        text: str,
        finish: str,
        usage: Any,
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        if fault.name == "big":
            await _big(response)
            return response
        if fault.name != "empty_choices":
            async for data in self._pieces(request, body, fault, number, text):
                await response.write(data)
            if fault.name == "truncated":
                await response.write_eof()
                return response
            await response.write(_event(reply.chunk(body, number=number, finish=finish)))
        if usage is not None and (body.get("stream_options") or {}).get("include_usage"):
            await response.write(_event(reply.usage_chunk(body, usage, number)))
        await response.write(b"data: [DONE]\n\n")
        await response.write_eof()
        return response

    async def _pieces(
        self, request: web.Request, body: dict[str, Any], fault: Fault, number: int, text: str
    ) -> AsyncIterator[bytes]:
        character, pause_s = fault.at if fault.name in _CUT_AT else (len(text), 0.0)
        for n, word in enumerate(reply.words(text[:character])):
            if fault.name == "trickle" and n:
                await asyncio.sleep(float(fault.argument or 0.05))
            data = _event(reply.chunk(body, number=number, text=word))
            if fault.name == "drip":
                for byte in data:
                    yield bytes([byte])
                    await asyncio.sleep(float(fault.argument or 10))
                continue
            if fault.name in ("hang_after_first", "disconnect_stream", "truncated", "error_event") and n == 2:
                if fault.name == "hang_after_first":
                    await asyncio.sleep(_FOREVER_S)
                if fault.name == "disconnect_stream":
                    _cut(request)
                if fault.name == "error_event":
                    yield _event({"error": {"message": "CANARY overloaded", "code": int(fault.argument or 503)}})
                return
            yield data
        if fault.name == "hang_at":
            await asyncio.sleep(_FOREVER_S)
        if fault.name == "break_at":
            await asyncio.sleep(pause_s)
            _cut(request)
        if fault.name == "error_at":
            await asyncio.sleep(pause_s)
            yield _event({"error": {"message": "CANARY overloaded", "code": 503}})


async def _big(response: web.StreamResponse) -> None:
    """A body of 100 MB in one event: no blank line ever comes."""
    await response.write(b'data: {"choices":[{"index":0,"delta":{"content":"')
    block = b"x" * 65536
    for _ in range(_BIG_BYTES // len(block)):
        await response.write(block)


def _refusal(fault: Fault) -> web.Response:
    if fault.name == "context":
        error = {"code": 400, "type": "exceed_context_size_error", "message": "CANARY the request exceeds the context"}
        return web.json_response({"error": error}, status=400)
    headers = {"Retry-After": fault.argument} if fault.argument else {}
    error = {"message": "CANARY text of the provider", "type": "server_error", "code": None}
    return web.json_response({"error": error}, status=STATUSES[fault.name], headers=headers)


def _event(data: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(data) + b"\n\n"


def _cut(request: web.Request) -> None:
    """Reset the connection and end the handler."""
    if request.transport is not None:
        request.transport.abort()
    raise ConnectionResetError("cut off by script")
