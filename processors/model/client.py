"""Calls through the OpenAI SDK on its aiohttp transport, with deadlines and bounds of our own.

They go to chat completions, to Azure's form of them, or to the Responses API, as the deployment says.

Every call streams, whatever the request wants, because only a stream shows that a model is alive: there is a deadline
to the first output, one between events and one for all. The SDK builds and sends the request and sorts out statuses;
its retries are off, and its reader is not used, because that has no bound and takes a stream that was cut off for
whole. An endpoint that answers with one JSON body in spite of ``stream`` is understood too.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import openai
from openai import AsyncAzureOpenAI, AsyncOpenAI, DefaultAioHttpClient

from processors.complete.routes import Deployment
from processors.model.assembly import ChatAssembly
from processors.model.exchange import MAX_BODY_BYTES, Assembly, Call, Opened, Wire, content_type
from processors.model.port import Began, Heard, ModelReply
from processors.model.responses_assembly import ResponsesAssembly
from processors.model.responses_payload import to_responses

# The SDK wants a key; endpoints without one ignore it.
_NO_KEY = "none"
_MAX_ERROR_BYTES = 64 * 1024
# The last version of Azure's dated API; its later one is OpenAI's own, under /openai/v1.
AZURE_VERSION = "2024-10-21"


class OpenAIClient:
    """A ``ModelClient`` with one connection pool for each deployment, kept for the life of the process."""

    def __init__(self, *, max_body_bytes: int = MAX_BODY_BYTES) -> None:
        self._max_body_bytes = max_body_bytes
        self._clients: dict[Deployment, AsyncOpenAI] = {}

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
        client = self._client(deployment)
        assembly: Assembly
        wire: Wire
        if deployment.api == "responses":
            assembly, wire = ResponsesAssembly(say), _responses(client, to_responses(payload), headers)
        else:
            assembly, wire = ChatAssembly(say), _chat(client, payload, headers)
        call = Call(deployment, assembly, max_body_bytes=self._max_body_bytes, began=began)
        return await call.reply(wire, deadline_s=deadline_s)

    async def close(self) -> None:
        clients, self._clients = list(self._clients.values()), {}
        for client in clients:
            await client.close()

    def _client(self, deployment: Deployment) -> AsyncOpenAI:
        client = self._clients.get(deployment)
        if client is None:
            client = self._clients[deployment] = _new_client(deployment)
        return client


def _new_client(deployment: Deployment) -> AsyncOpenAI:
    timeout = openai.Timeout(None, connect=deployment.connect_timeout_s)
    options: dict[str, Any] = {
        "api_key": deployment.api_key.get_secret_value() if deployment.api_key is not None else _NO_KEY,
        "max_retries": 0,
        "timeout": timeout,
        # A redirect would take the key and the prompt to an endpoint that nobody configured.
        "http_client": DefaultAioHttpClient(
            timeout=timeout,
            follow_redirects=False,
            trust_env=False,
            event_hooks={"response": [_bound_error_body]},
        ),
    }
    if deployment.api == "azure":
        root = deployment.base_url.rstrip("/").removesuffix("/openai")
        version = deployment.api_version or AZURE_VERSION
        return AsyncAzureOpenAI(azure_endpoint=root, api_version=version, **options)
    return AsyncOpenAI(base_url=deployment.base_url, **options)


@asynccontextmanager
async def _chat(client: AsyncOpenAI, payload: Mapping[str, Any], headers: Mapping[str, str]) -> AsyncIterator[Opened]:
    body = {**payload, "stream": True, "stream_options": {"include_usage": True}}
    create: Any = client.chat.completions.with_streaming_response.create
    async with create(
        model=body["model"], messages=body["messages"], stream=True, extra_body=body, extra_headers=_extra(headers)
    ) as response:
        yield Opened(content_type(response.headers), response.iter_bytes())


@asynccontextmanager
async def _responses(client: AsyncOpenAI, body: Mapping[str, Any], headers: Mapping[str, str]) -> AsyncIterator[Opened]:
    create: Any = client.responses.with_streaming_response.create
    async with create(
        model=body["model"], input=body["input"], stream=True, extra_body=dict(body), extra_headers=_extra(headers)
    ) as response:
        yield Opened(content_type(response.headers), response.iter_bytes())


def _extra(headers: Mapping[str, str]) -> dict[str, str]:
    return {"Accept-Encoding": "identity", **headers}


class _Truncated(httpx2.AsyncByteStream):
    """A body of which no more than ``limit_bytes`` are read."""

    def __init__(self, stream: httpx2.AsyncByteStream, limit_bytes: int) -> None:
        self._stream = stream
        self._left = limit_bytes

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._stream:
            yield chunk[: self._left]
            self._left -= len(chunk)
            if self._left <= 0:
                return

    async def aclose(self) -> None:
        await self._stream.aclose()


async def _bound_error_body(response: httpx2.Response) -> None:
    """The SDK reads the whole body of an error before it raises: give it no more than a code takes."""
    if response.status_code >= 400 and isinstance(response.stream, httpx2.AsyncByteStream):
        response.stream = _Truncated(response.stream, _MAX_ERROR_BYTES)
