"""OpenAI's Batch API, through its SDK."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import openai
from openai import AsyncOpenAI, DefaultAioHttpClient

from processors.batchapi.lines import ENDPOINT
from processors.batchapi.provider import METADATA, Seen
from processors.complete.routes import Deployment
from processors.model import cause
from schemas.errors import OutcomeUnknownError, ProviderError

_EXCHANGE_S = 60.0
# A file of 200 MB, the most that is taken, at 1 MB a second.
_TRANSFER_S = 240.0
_PAGE, _MOST_PAGES = 100, 30
# The SDK wants a key; endpoints without one ignore it.
_NO_KEY = "none"


class OpenAIBatches:
    """A ``BatchProvider`` with one connection pool for each deployment. Of several keys the first is used."""

    def __init__(self) -> None:
        self._clients: dict[str, AsyncOpenAI] = {}

    async def upload(self, deployment: Deployment, name: str, data: bytes) -> str:
        async with _exchange(deployment, _TRANSFER_S):
            file = await self._client(deployment).files.create(
                file=(name, data, "application/jsonl"), purpose="batch", timeout=_TRANSFER_S
            )
            return file.id

    async def create(self, deployment: Deployment, file: str, batch_id: str) -> Seen:
        async with _exchange(deployment):
            return _seen(
                await self._client(deployment).batches.create(
                    input_file_id=file,
                    endpoint=ENDPOINT,
                    completion_window="24h",
                    metadata={METADATA: batch_id},
                )
            )

    async def find(self, deployment: Deployment, batch_id: str) -> Seen | None:
        async with _exchange(deployment, _TRANSFER_S):
            page = await self._client(deployment).batches.list(limit=_PAGE)
            for _ in range(_MOST_PAGES):
                for one in page.data:
                    if (one.metadata or {}).get(METADATA) == batch_id:
                        return _seen(one)
                if not page.data or not page.has_next_page():
                    break
                page = await page.get_next_page()
            return None

    async def look(self, deployment: Deployment, provider_batch: str) -> Seen:
        async with _exchange(deployment):
            return _seen(await self._client(deployment).batches.retrieve(provider_batch))

    async def cancel(self, deployment: Deployment, provider_batch: str) -> None:
        async with _exchange(deployment):
            await self._client(deployment).batches.cancel(provider_batch)

    async def download(self, deployment: Deployment, file: str) -> AsyncIterator[bytes]:
        async with _exchange(deployment, _TRANSFER_S):
            opened = self._client(deployment).files.with_streaming_response.content(file, timeout=_TRANSFER_S)
            async with opened as response:
                async for chunk in response.iter_bytes(1 << 16):
                    yield chunk

    async def discard(self, deployment: Deployment, file: str) -> None:
        async with _exchange(deployment):
            await self._client(deployment).files.delete(file)

    async def close(self) -> None:
        clients, self._clients = list(self._clients.values()), {}
        for client in clients:
            await client.close()

    def _client(self, deployment: Deployment) -> AsyncOpenAI:
        client = self._clients.get(deployment.name)
        if client is None:
            client = self._clients[deployment.name] = _new_client(deployment)
        return client


def _new_client(deployment: Deployment) -> AsyncOpenAI:
    timeout = openai.Timeout(_EXCHANGE_S, connect=deployment.connect_timeout_s)
    return AsyncOpenAI(
        base_url=deployment.base_url,
        api_key=deployment.api_key.get_secret_value() if deployment.api_key is not None else _NO_KEY,
        max_retries=0,
        timeout=timeout,
        # A redirect would take the key and the prompts to an endpoint that nobody configured.
        http_client=DefaultAioHttpClient(timeout=timeout, follow_redirects=False, trust_env=False),
    )


@asynccontextmanager
async def _exchange(deployment: Deployment, limit_s: float = _EXCHANGE_S) -> AsyncIterator[None]:
    """Turns what goes wrong inside into a ``ProviderError``, which has nothing of the library's as its context."""
    error: ProviderError
    try:
        async with asyncio.timeout(limit_s):
            yield
        return
    except TimeoutError:
        error = OutcomeUnknownError("timeout_total", f"deployment {deployment.name} did not reply in time (batches)")
    except openai.APIStatusError as failed:
        error = cause.from_status(failed.status_code, failed.body, failed.response.headers, deployment)
    except openai.APIConnectionError as failed:
        error = cause.from_connection(failed, deployment)
    except (openai.OpenAIError, ValueError, TypeError, AttributeError):
        error = OutcomeUnknownError("client_error", f"deployment {deployment.name}: its reply was not understood")
    raise error


def _seen(batch: Any) -> Seen:
    return Seen(
        provider_batch=batch.id,
        status=batch.status,
        output_file=batch.output_file_id,
        error_file=batch.error_file_id,
        input_file=batch.input_file_id,
    )
