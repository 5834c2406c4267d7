"""Chat calls to Anthropic's messages API: the same deadlines, bounds and errors as everywhere else."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import orjson
from yarl import URL

from processors.complete.routes import Deployment
from processors.model.anthropic_assembly import MessageAssembly
from processors.model.anthropic_payload import to_messages
from processors.model.exchange import MAX_BODY_BYTES, Call, comes_whole
from processors.model.port import Began, Heard, ModelReply
from processors.model.sending import Endpoint, Sender

# The version of the API, which has been the only one since its beginning.
ANTHROPIC_VERSION = "2023-06-01"


class AnthropicClient:
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
        whole, messages = comes_whole(deployment, heard, began), to_messages(payload)
        body = orjson.dumps(messages if whole else {**messages, "stream": True})
        assembly = MessageAssembly(None if heard is None else lambda text: heard(text, time.monotonic()))
        call = Call(deployment, assembly, max_body_bytes=self._max_body_bytes, began=began, whole=whole)
        return await call.reply(self._sender.post(deployment, body, headers), deadline_s=deadline_s)

    async def close(self) -> None:
        await self._sender.close()


def messages_url(base_url: str) -> str:
    """Where messages are sent, whether or not the address says the version."""
    return f"{base_url.rstrip('/').removesuffix('/v1')}/v1/messages"


def endpoint_of(deployment: Deployment) -> Endpoint:
    """Where a deployment is called, and with what."""
    headers = {"anthropic-version": deployment.api_version or ANTHROPIC_VERSION}
    if deployment.api_key is not None:
        headers["x-api-key"] = deployment.api_key.get_secret_value()
    return Endpoint(URL(messages_url(deployment.base_url)), headers)
