"""One call while it runs, whatever API it goes to: its deadlines, its bounds, and the error that it ends with.

A ``Wire`` sends the request and opens the reply; an ``Assembly`` puts the reply together. What is here holds for all.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import aiohttp

from processors.complete.routes import Deployment
from processors.model import cause
from processors.model.fields import MalformedError, ReportedError
from processors.model.port import Began, Heard, ModelReply
from processors.model.sse import DONE, EventReader
from schemas.errors import OutcomeUnknownError, PermanentProviderError, ProviderError, TransientProviderError

MAX_BODY_BYTES = 8 * 1024 * 1024


class BodyTooLargeError(Exception):
    """The body is larger than what is read."""


class RefusedStatusError(Exception):
    """The reply's status says no. ``body`` is its JSON, if it is any."""

    def __init__(self, status: int, body: Any, headers: Mapping[str, str]) -> None:
        super().__init__(f"status {status}")
        self.status, self.body, self.headers = status, body, headers


@dataclass(frozen=True, slots=True)
class Opened:
    """A successful reply whose body is still to be read. ``kind`` is its content type, in small letters."""

    kind: str
    chunks: AsyncIterator[bytes]


# A reply while it is open; entering sends the request. Raises what the transport raises.
Wire = AbstractAsyncContextManager[Opened]


class Assembly(Protocol):
    """Puts a reply together. Its methods raise ``MalformedError`` and ``ReportedError``."""

    began: bool
    # The provider's reason to stop, as soon as it is told: nothing that matters comes behind it.
    finish_reason: str | None

    @property
    def ended(self) -> bool:
        """Whether the stream itself said that this was all."""
        ...

    def add_event(self, data: str | bytes) -> bool:
        """Take a stream's event; whether it brought output."""
        ...

    def add_body(self, body: bytes) -> None:
        """Take a whole reply."""
        ...

    def end(self) -> None:
        """The mark of the end came."""
        ...

    def reply(self, *, duration_ms: float, first_token_ms: float | None) -> ModelReply:
        """The reply as it stands."""
        ...


class Call:
    """One call."""

    def __init__(
        self,
        deployment: Deployment,
        assembly: Assembly,
        *,
        max_body_bytes: int = MAX_BODY_BYTES,
        began: Began | None = None,
        whole: bool = False,
    ) -> None:
        """``whole``: no stream was asked for, so that nothing shows before the end that the model is alive."""
        self._deployment, self._tell, self._whole = deployment, began, whole
        self._assembly = assembly
        self._max_body_bytes = max_body_bytes
        self._began = time.monotonic()
        self._first_token_ms: float | None = None
        self._duration_ms = 0.0
        self._timer: asyncio.Timeout | None = None
        self._waiting_for = "connect"

    async def reply(self, wire: Wire, *, deadline_s: float) -> ModelReply:
        """Make the call. Raises a ``ProviderError``."""
        error = await self._run(wire, deadline_s)
        if error is not None:
            # Outside any handler: an exception of a library, which may hold the provider's text, must not hang on to
            # it as its context.
            raise error
        return self._assembly.reply(duration_ms=self._duration_ms, first_token_ms=self._first_token_ms)

    async def _run(self, wire: Wire, deadline_s: float) -> ProviderError | None:
        """The error that the call ended with, if any."""
        deployment, name = self._deployment, self._deployment.name
        try:
            async with asyncio.timeout(deadline_s):
                await self._exchange(wire)
        except TimeoutError as error:
            # aiohttp's own, for connecting, is a TimeoutError too.
            return cause.from_connection(error, deployment) if cause.never_sent(error) else self._timed_out()
        except BodyTooLargeError:
            return PermanentProviderError(
                "response_too_large", f"deployment {name} replied with too large a body", http_status=200
            )
        except MalformedError as error:
            return self._malformed(error.reason)
        except ReportedError as error:
            return cause.from_reported(error.status, deployment)
        except RefusedStatusError as error:
            return cause.from_status(error.status, error.body, error.headers, deployment)
        except (aiohttp.ClientError, OSError) as error:
            # What broke off behind the end of the output lost us nothing.
            return None if self._assembly.finish_reason is not None else cause.from_connection(error, deployment)
        finally:
            self._duration_ms = (time.monotonic() - self._began) * 1000
        return self._incomplete()

    async def _exchange(self, wire: Wire) -> None:
        self._began = time.monotonic()
        first_s = None if self._whole else self._deployment.first_token_timeout_s
        async with asyncio.timeout(first_s) as self._timer:
            self._waiting_for = "first_token"
            async with wire as opened:
                chunks = _bounded(opened.chunks, self._max_body_bytes)
                if opened.kind == "application/json":
                    await self._read_body(chunks)
                elif opened.kind in ("text/event-stream", ""):
                    await self._read_events(chunks)
                else:
                    raise MalformedError("content_type")

    async def _read_body(self, chunks: AsyncIterator[bytes]) -> None:
        # One body comes when everything is generated: only the deadline for all holds.
        self._reschedule(None)
        self._assembly.add_body(b"".join([chunk async for chunk in chunks]))

    async def _read_events(self, chunks: AsyncIterator[bytes]) -> None:
        reader = EventReader()
        async for chunk in chunks:
            if self._take(reader.feed(chunk)):
                return
            if self._assembly.began:
                self._waiting_for = "next_chunk"
                self._reschedule(self._deployment.between_chunks_timeout_s)
        self._take(reader.end())

    def _take(self, events: Sequence[bytes]) -> bool:
        """Whether the stream says that it is over with one of these events; what follows it is not looked at."""
        assembly = self._assembly
        for data in events:
            if data.strip() == DONE:
                assembly.end()
                return True
            if assembly.add_event(data) and self._first_token_ms is None:
                self._first_token_ms = (time.monotonic() - self._began) * 1000
                if self._tell is not None:
                    self._tell()
            if assembly.ended:
                return True
        return False

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


def comes_whole(deployment: Deployment, heard: Heard | None, began: Began | None) -> bool:
    """Whether the reply is asked for as one body: the deployment's choice where nobody listens to its pieces."""
    return deployment.stream == "asked" and heard is None and began is None


def content_type(headers: Mapping[str, str]) -> str:
    """The type of a body, without its parameters."""
    return headers.get("content-type", "").partition(";")[0].strip().lower()


async def _bounded(chunks: AsyncIterator[bytes], limit_bytes: int) -> AsyncIterator[bytes]:
    """The chunks, until they are more than ``limit_bytes`` together; then ``BodyTooLargeError``."""
    read = 0
    async for chunk in chunks:
        read += len(chunk)
        if read > limit_bytes:
            raise BodyTooLargeError
        yield chunk
