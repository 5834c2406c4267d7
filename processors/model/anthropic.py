"""Chat calls to Anthropic's messages API, over aiohttp: the same deadlines, bounds and errors as everywhere else."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import orjson

from processors.complete.routes import Deployment
from processors.model.anthropic_assembly import MessageAssembly
from processors.model.anthropic_payload import to_messages
from processors.model.exchange import MAX_BODY_BYTES, Call, Opened, RefusedStatusError, content_type
from processors.model.port import Began, Heard, ModelReply

# The version of the API, which has been the only one since its beginning.
ANTHROPIC_VERSION = "2023-06-01"
_MAX_ERROR_BYTES = 64 * 1024
_CHUNK_BYTES = 64 * 1024


class AnthropicClient:
    """A ``ModelClient`` with one connection pool for each deployment, kept for the life of the process."""

    def __init__(self, *, max_body_bytes: int = MAX_BODY_BYTES) -> None:
        self._max_body_bytes = max_body_bytes
        self._sessions: dict[Deployment, aiohttp.ClientSession] = {}

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
        body = orjson.dumps({**to_messages(payload), "stream": True})
        assembly = MessageAssembly(None if heard is None else lambda text: heard(text, time.monotonic()))
        call = Call(deployment, assembly, max_body_bytes=self._max_body_bytes, began=began)
        wire = _wire(self._session(deployment), messages_url(deployment.base_url), body, headers)
        return await call.reply(wire, deadline_s=deadline_s)

    async def close(self) -> None:
        sessions, self._sessions = list(self._sessions.values()), {}
        for session in sessions:
            await session.close()

    def _session(self, deployment: Deployment) -> aiohttp.ClientSession:
        session = self._sessions.get(deployment)
        if session is None:
            session = self._sessions[deployment] = aiohttp.ClientSession(
                # Slots limit the calls; deadlines are the call's.
                connector=aiohttp.TCPConnector(limit=0),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=deployment.connect_timeout_s),
                headers=_headers(deployment),
                trust_env=False,
            )
        return session


def messages_url(base_url: str) -> str:
    """Where messages are sent, whether or not the address says the version."""
    return f"{base_url.rstrip('/').removesuffix('/v1')}/v1/messages"


def _headers(deployment: Deployment) -> dict[str, str]:
    headers = {
        "anthropic-version": deployment.api_version or ANTHROPIC_VERSION,
        "Content-Type": "application/json",
        "Accept-Encoding": "identity",
    }
    if deployment.api_key is not None:
        headers["x-api-key"] = deployment.api_key.get_secret_value()
    return headers


@asynccontextmanager
async def _wire(
    session: aiohttp.ClientSession, url: str, body: bytes, headers: Mapping[str, str]
) -> AsyncIterator[Opened]:
    # A redirect would take the key and the prompt to an endpoint that nobody configured.
    async with session.post(url, data=body, headers=dict(headers), allow_redirects=False) as response:
        if response.status != 200:
            raise RefusedStatusError(response.status, await _error_body(response), response.headers)
        yield Opened(content_type(response.headers), response.content.iter_chunked(_CHUNK_BYTES))


async def _error_body(response: aiohttp.ClientResponse) -> Any:
    """The JSON of an error, read no further than a code takes."""
    read = bytearray()
    async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
        read += chunk
        if len(read) > _MAX_ERROR_BYTES:
            return None
    try:
        return orjson.loads(bytes(read))
    except orjson.JSONDecodeError:
        return None
