"""The provider's HTTP side: which API is under which path, and who is served."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

from aiohttp import web

from tests.provider.answering import Answering, cut, refusal, spoil
from tests.provider.anthropic_form import AnthropicForm
from tests.provider.batches import Batches
from tests.provider.calls import Caller, CallLog, OpenCall
from tests.provider.faults import STATUSES, Fault, Script
from tests.provider.form import Form
from tests.provider.openai_form import OpenAIForm
from tests.provider.reply import Said, embedding, said, tokens_of
from tests.provider.responses_form import ResponsesForm

OPENAI, RESPONSES, ANTHROPIC = OpenAIForm(), ResponsesForm(), AnthropicForm()


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
    """One provider. ``app`` serves it: OpenAI's API, Azure's form of it, Anthropic's, and OpenAI's batches."""

    def __init__(self, log: CallLog, latency: Latency, *, dimension: int = 384, limit: int | None = None) -> None:
        """``limit``: so many calls at a time; one more is refused with 429."""
        self.log, self.latency, self.script = log, latency, Script()
        self._limit = limit
        self._dimension = dimension
        # What was asked of it last, for tests in the same process.
        self.bodies: deque[Mapping[str, Any]] = deque(maxlen=100)
        self.batches = Batches(self.answer_one, self.script)
        self.app = web.Application(client_max_size=256 * 1024 * 1024)
        self.app.add_routes(
            [
                web.post("/v1/chat/completions", self.chat),
                web.post("/v1/embeddings", self.embed),
                web.get("/v1/models", self.models),
                web.get("/v1/models/{model}", self.model),
                web.post("/openai/deployments/{model}/chat/completions", self.azure_chat),
                web.post("/openai/deployments/{model}/embeddings", self.embed),
                web.get("/openai/models", self.models),
                web.post("/v1/messages", self.messages),
                web.post("/v1/responses", self.responses),
                web.get("/calls", self.calls),
                web.post("/script", self.load),
                *self.batches.routes(),
            ]
        )

    async def models(self, request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": "fake", "object": "model"}]})

    async def model(self, request: web.Request) -> web.Response:
        name = request.match_info["model"]
        if name != "fake":
            return refusal(ANTHROPIC, Fault("404"))
        return web.json_response({"type": "model", "id": name})

    async def calls(self, request: web.Request) -> web.Response:
        return web.json_response({**self.log.bill.shown(), "calls": self.log.recent()})

    async def load(self, request: web.Request) -> web.Response:
        posted = await request.json()
        self.script.load(posted)
        if "latency" in posted:
            self.latency = Latency(**posted["latency"])
        return web.json_response({})

    async def embed(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        texts = [body["input"]] if isinstance(body["input"], str) else body["input"]
        caller = self._caller(request, OPENAI, "embeddings", body)
        fault = self._fault(request, caller, "\n".join(texts))
        tokens = sum(tokens_of(text) for text in texts)
        call = self.log.begin(caller, fault=fault.name, paid=fault.paid, prompt_tokens=tokens)
        self.log.bill.texts += len(texts)
        outcome = "broken"
        try:
            await asyncio.sleep(self.latency.seconds(caller.request_id))
            response = await self._embedded(request, body, texts, fault, tokens)
            outcome = "answered"
            return response
        finally:
            self.log.end(call, outcome)

    async def chat(self, request: web.Request) -> web.StreamResponse:
        return await self._call(request, await request.json(), OPENAI, "chat")

    async def azure_chat(self, request: web.Request) -> web.StreamResponse:
        if "api-version" not in request.query or "api-key" not in request.headers:
            kind = Fault("404" if "api-version" not in request.query else "401")
            return refusal(OPENAI, kind)
        body = {**await request.json(), "model": request.match_info["model"]}
        return await self._call(request, body, OPENAI, "chat")

    async def responses(self, request: web.Request) -> web.StreamResponse:
        return await self._call(request, await request.json(), RESPONSES, "chat")

    async def messages(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        if "x-api-key" not in request.headers:
            return refusal(ANTHROPIC, Fault("401"))
        if "anthropic-version" not in request.headers or "max_tokens" not in body:
            return refusal(ANTHROPIC, Fault("400"))
        return await self._call(request, body, ANTHROPIC, "chat")

    def answer_one(self, body: Mapping[str, Any], custom_id: str, share: Decimal) -> tuple[int, dict[str, Any]]:
        """The status and body of a call that nobody waits for: of a batch."""
        caller = Caller(request_id=custom_id, attempt_id=custom_id, kind="batch", model=str(body.get("model", "")))
        prompt = OPENAI.prompt(body)
        fault = self.script.next(custom_id, prompt, caller.model)
        call = self.log.begin(caller, fault=fault.name, paid=fault.paid, prompt_tokens=tokens_of(prompt), share=share)
        answer = self._said(OPENAI, body, caller, call, fault)
        if fault.name in STATUSES:
            status, told = STATUSES[fault.name], OPENAI.error(STATUSES[fault.name], fault.name)
        else:
            call.completion_tokens += tokens_of(answer.text)
            status, told = 200, OPENAI.whole(answer)
        self.log.end(call, "answered")
        return status, told

    async def _call(self, request: web.Request, body: Mapping[str, Any], form: Form, kind: str) -> web.StreamResponse:
        caller = self._caller(request, form, kind, body)
        self.bodies.append(body)
        prompt = form.prompt(body)
        fault = self._fault(request, caller, prompt)
        if self._limit is not None and self.log.bill.open >= self._limit:
            fault = Fault("429")
        call = self.log.begin(caller, fault=fault.name, paid=fault.paid, prompt_tokens=tokens_of(prompt))
        outcome = "broken"
        try:
            if fault.name not in STATUSES:
                await asyncio.sleep(self.latency.seconds(caller.request_id))
            answer = self._said(form, body, caller, call, fault)
            answering = Answering(form=form, request=request, body=body, fault=fault, call=call, said=answer)
            response = await answering.respond()
            outcome = "answered"
            return response
        finally:
            self.log.end(call, outcome)

    def _said(self, form: Form, body: Mapping[str, Any], caller: Caller, call: OpenCall, fault: Fault) -> Said:
        whole = said(
            form.prompt(body),
            model=caller.model,
            number=call.number,
            as_json=form.wants_json(body),
            sample=caller.attempt_id,
            tools=bool(body.get("tools")),
            text=self.script.said(caller.request_id),
        )
        return spoil(replace(whole, logprobs=bool(body.get("logprobs"))), fault)

    def _fault(self, request: web.Request, caller: Caller, prompt: str) -> Fault:
        header = request.headers.get("X-Fault", "")
        return self.script.next(caller.request_id, prompt, caller.model, key=caller.key, header=header)

    def _caller(self, request: web.Request, form: Form, kind: str, body: Mapping[str, Any]) -> Caller:
        return Caller(
            request_id=request.headers.get("X-Request-Id", ""),
            attempt_id=request.headers.get("X-Client-Request-Id", ""),
            kind=kind,
            model=str(body.get("model", "")),
            key=form.key(request),
        )

    async def _embedded(
        self, request: web.Request, body: Mapping[str, Any], texts: list[str], fault: Fault, tokens: int
    ) -> web.Response:
        if fault.name in STATUSES:
            return refusal(OPENAI, fault)
        if fault.name == "slow":
            await asyncio.sleep(fault.seconds or 1)
        if fault.name == "hang":
            await asyncio.sleep(3600)
        if fault.name == "disconnect":
            cut(request)
        if fault.name == "garbage":
            return web.Response(body=b'{"data": [{"emb', content_type="application/json")
        data = [
            {"object": "embedding", "index": n, "embedding": embedding(text, self._dimension)}
            for n, text in enumerate(texts)
        ]
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return web.json_response({"object": "list", "data": data, "model": body.get("model", "fake"), "usage": usage})
