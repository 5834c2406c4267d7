"""The client of a worker: each deployment is called in what it speaks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from processors.complete.routes import Deployment
from processors.model.anthropic import AnthropicClient
from processors.model.client import OpenAIClient
from processors.model.exchange import MAX_BODY_BYTES
from processors.model.port import Began, Heard, ModelClient, ModelReply


class ModelClients:
    """A ``ModelClient`` over those of every API."""

    def __init__(self, *, max_body_bytes: int = MAX_BODY_BYTES) -> None:
        openai = OpenAIClient(max_body_bytes=max_body_bytes)
        anthropic = AnthropicClient(max_body_bytes=max_body_bytes)
        self._clients: Mapping[str, ModelClient] = {
            "openai": openai,
            "azure": openai,
            "responses": openai,
            "anthropic": anthropic,
        }

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
        client = self._clients[deployment.api]
        return await client.chat(deployment, payload, deadline_s=deadline_s, headers=headers, heard=heard, began=began)

    async def close(self) -> None:
        for client in set(self._clients.values()):
            await client.close()
