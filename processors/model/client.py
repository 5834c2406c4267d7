"""Calls to OpenAI-compatible endpoints: chat completions, Azure's form of them, or the Responses API.

A call is one request of prepared bytes: the SDK would build it anew from every message. See
``docs/decisions/0006-calls-are-bytes.md``.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import orjson
from yarl import URL

from processors.complete.routes import Deployment
from processors.model.assembly import ChatAssembly
from processors.model.exchange import MAX_BODY_BYTES, Assembly, Call, comes_whole
from processors.model.port import Began, Heard, ModelReply
from processors.model.responses_assembly import ResponsesAssembly
from processors.model.responses_payload import to_responses
from processors.model.sending import Endpoint, Sender

# The last version of Azure's dated API; its later one is OpenAI's own, under /openai/v1.
AZURE_VERSION = "2024-10-21"


class OpenAIClient:
    """A ``ModelClient`` with one connection pool, kept for the life of the process."""

    def __init__(self, *, max_body_bytes: int = MAX_BODY_BYTES) -> None:
        self._max_body_bytes = max_body_bytes
        self._sender = Sender(endpoint_of)

    async def chat(
        self,
        deployment: Deployment,
        payload: Mapping[str, Any],
        *,
        deadline_s: float,
        headers: Mapping[str, str],
        heard: Heard | None = None,
        began: Began | None = None,
    ) -> ModelReply:
        say = None if heard is None else lambda text: heard(text, time.monotonic())
        assembly: Assembly
        whole = comes_whole(deployment, heard, began)
        if deployment.api == "responses":
            assembly, body = (
                ResponsesAssembly(say),
                to_responses(payload) if whole else _streamed(to_responses(payload)),
            )
        else:
            assembly = ChatAssembly(say)
            body = payload if whole else {**_streamed(payload), "stream_options": {"include_usage": True}}
        wire = self._sender.post(deployment, orjson.dumps(body), headers)
        call = Call(deployment, assembly, max_body_bytes=self._max_body_bytes, began=began, whole=whole)
        return await call.reply(wire, deadline_s=deadline_s)

    async def close(self) -> None:
        await self._sender.close()


def _streamed(body: Mapping[str, Any]) -> Mapping[str, Any]:
    return {**body, "stream": True}


def endpoint_of(deployment: Deployment) -> Endpoint:
    """Where a deployment is called, and with what."""
    root, key = deployment.base_url.rstrip("/"), deployment.api_key
    if deployment.api == "azure":
        version = quote(deployment.api_version or AZURE_VERSION, safe="")
        path = f"/openai/deployments/{quote(deployment.model, safe='')}/chat/completions?api-version={version}"
        secret = {"api-key": key.get_secret_value()} if key is not None else {}
        return Endpoint(URL(root.removesuffix("/openai") + path, encoded=True), secret)
    path = "/responses" if deployment.api == "responses" else "/chat/completions"
    secret = {"Authorization": f"Bearer {key.get_secret_value()}"} if key is not None else {}
    return Endpoint(URL(root + path), secret)
