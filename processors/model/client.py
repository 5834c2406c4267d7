"""Chat calls through the OpenAI SDK on its aiohttp transport, with deadlines and bounds of our own.

Every call streams, whatever the request wants, because only a stream shows that a model is alive: there is a deadline
to the first output, one between events and one for all. The SDK builds and sends the request and sorts out statuses;
its retries are off, and its reader is not used, because that has no bound and takes a stream that was cut off for
whole. An endpoint that answers with one JSON body in spite of ``stream`` is understood too.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

import aiohttp
import httpx2
import openai
from openai import AsyncOpenAI, DefaultAioHttpClient

from processors.complete.routes import Deployment
from processors.model import cause
from processors.model.assembly import Assembly, MalformedError, ReportedError
from processors.model.port import Heard, ModelReply
from processors.model.sse import DONE, BodyTooLargeError, bounded, events
from schemas.errors import OutcomeUnknownError, PermanentProviderError, ProviderError, TransientProviderError

MAX_BODY_BYTES = 8 * 1024 * 1024
# The SDK wants a key; endpoints without one ignore it.
_NO_KEY = "none"
_MAX_ERROR_BYTES = 64 * 1024


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
    ) -> ModelReply:
        call = _Call(deployment, self._max_body_bytes, heard)
        error = await call.run(self._client(deployment), payload, deadline_s=deadline_s, headers=headers)
        if error is not None:
            # Raised here, outside any handler: an exception of the SDK, which holds the provider's text, must not
            # hang on to it as its context.
            raise error
        return call.finished()

    async def close(self) -> None:
        clients, self._clients = list(self._clients.values()), {}
        for client in clients:
            await client.close()

    def _client(self, deployment: Deployment) -> AsyncOpenAI:
        client = self._clients.get(deployment)
        if client is None:
            timeout = openai.Timeout(None, connect=deployment.connect_timeout_s)
            key = deployment.api_key.get_secret_value() if deployment.api_key is not None else _NO_KEY
            client = AsyncOpenAI(
                base_url=deployment.base_url,
                api_key=key,
                max_retries=0,
                timeout=timeout,
                # A redirect would take the key and the prompt to an endpoint that nobody configured.
                http_client=DefaultAioHttpClient(
                    timeout=timeout,
                    follow_redirects=False,
                    trust_env=False,
                    event_hooks={"response": [_bound_error_body]},
                ),
            )
            self._clients[deployment] = client
        return client


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


class _Call:
    """One call while it runs."""

    def __init__(self, deployment: Deployment, max_body_bytes: int, heard: Heard | None) -> None:
        self._deployment = deployment
        self._max_body_bytes = max_body_bytes
        self._assembly = Assembly(None if heard is None else lambda text: heard(text, time.monotonic()))
        self._began = time.monotonic()
        self._first_token_ms: float | None = None
        self._duration_ms = 0.0
        self._timer: asyncio.Timeout | None = None
        self._waiting_for = "connect"

    async def run(
        self, client: AsyncOpenAI, payload: Mapping[str, Any], *, deadline_s: float, headers: Mapping[str, str]
    ) -> ProviderError | None:
        """Make the call; the error it ended with, if any."""
        deployment, name = self._deployment, self._deployment.name
        try:
            async with asyncio.timeout(deadline_s):
                await self._exchange(client, payload, headers)
        except TimeoutError:
            return self._timed_out()
        except BodyTooLargeError:
            return PermanentProviderError(
                "response_too_large", f"deployment {name} replied with too large a body", http_status=200
            )
        except MalformedError as error:
            return self._malformed(error.reason)
        except ReportedError as error:
            return cause.from_reported(error.status, deployment)
        except openai.OpenAIError as error:
            return cause.from_sdk(error, deployment)
        except (httpx2.HTTPError, httpx2.StreamError, aiohttp.ClientError, OSError) as error:
            # What broke off behind the end of the output lost us nothing.
            return None if self._assembly.finish_reason is not None else cause.from_connection(error, deployment)
        finally:
            self._duration_ms = (time.monotonic() - self._began) * 1000
        return self._incomplete()

    def finished(self) -> ModelReply:
        """The reply; only after ``run`` gave no error."""
        return self._assembly.reply(duration_ms=self._duration_ms, first_token_ms=self._first_token_ms)

    async def _exchange(self, client: AsyncOpenAI, payload: Mapping[str, Any], headers: Mapping[str, str]) -> None:
        body = {**payload, "stream": True, "stream_options": {"include_usage": True}}
        create: Any = client.chat.completions.with_streaming_response.create
        self._began = time.monotonic()
        async with asyncio.timeout(self._deployment.first_token_timeout_s) as self._timer:
            self._waiting_for = "first_token"
            extra = {"Accept-Encoding": "identity", **headers}
            async with create(
                model=body["model"], messages=body["messages"], stream=True, extra_body=body, extra_headers=extra
            ) as response:
                chunks = bounded(response.iter_bytes(), self._max_body_bytes)
                kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
                if kind == "application/json":
                    await self._read_body(chunks)
                elif kind in ("text/event-stream", ""):
                    await self._read_events(chunks)
                else:
                    raise MalformedError("content_type")

    async def _read_body(self, chunks: AsyncIterator[bytes]) -> None:
        # One body comes when everything is generated: only the deadline for all holds.
        self._reschedule(None)
        self._assembly.add_body(b"".join([chunk async for chunk in chunks]))

    async def _read_events(self, chunks: AsyncIterator[bytes]) -> None:
        async for data in events(chunks):
            if data.strip() == DONE:
                self._assembly.end()
                return
            if self._assembly.add_event(data) and self._first_token_ms is None:
                self._first_token_ms = (time.monotonic() - self._began) * 1000
            if self._assembly.began:
                self._waiting_for = "next_chunk"
                self._reschedule(self._deployment.between_chunks_timeout_s)

    def _reschedule(self, after_s: float | None) -> None:
        assert self._timer is not None
        self._timer.reschedule(None if after_s is None else asyncio.get_running_loop().time() + after_s)

    def _timed_out(self) -> ProviderError | None:
        if self._assembly.finish_reason is not None:
            return None
        waited = "total" if self._timer is None or not self._timer.expired() else self._waiting_for
        return OutcomeUnknownError(
            f"timeout_{waited}", f"deployment {self._deployment.name} did not reply in time ({waited})"
        )

    def _incomplete(self) -> ProviderError | None:
        """A stream that ended without an end was cut off; one that ended without a choice was no answer."""
        if not self._assembly.began and self._assembly.finish_reason is not None:
            return self._malformed("no_choices")
        if self._assembly.finish_reason is None:
            return OutcomeUnknownError("cut_off", f"deployment {self._deployment.name} broke its reply off")
        return None

    def _malformed(self, reason: str) -> ProviderError:
        return TransientProviderError(
            "malformed_response",
            f"deployment {self._deployment.name} replied with no chat completion ({reason})",
            http_status=200,
        )
