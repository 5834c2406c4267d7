"""Asks a provider what became of an attempt whose outcome is unknown, before another one is sent."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import aiohttp

from processors.complete.routes import Deployment
from processors.journal import AttemptRow
from processors.model.assembly import ChatAssembly
from processors.model.fields import MalformedError, ReportedError
from processors.model.port import ModelReply

_TIMEOUT_S = 10.0
_MOST_BYTES = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Replied:
    """The provider answered the attempt: it is paid, and this is its reply."""

    reply: ModelReply


@dataclass(frozen=True, slots=True)
class NotTaken:
    """The provider never took the attempt: it costs nothing, and another one may be sent."""


@dataclass(frozen=True, slots=True)
class Undecided:
    """Nobody can tell, or not yet."""


Known = Replied | NotTaken | Undecided


class Reconciler(Protocol):
    """Knows what became of attempts, by their ids (``X-Client-Request-Id`` of the call)."""

    async def ask(self, attempt: AttemptRow, deployment: Deployment) -> Known:
        """What became of the attempt. Blocks for one round trip; never raises but for cancellation."""
        ...


@dataclass(slots=True)
class FakeReconciler:
    """Answers by ``script``, given the attempt's id; keeps what it was asked."""

    script: Callable[[str], Known] = field(default=lambda _: Undecided())
    asked: list[str] = field(default_factory=list)

    async def ask(self, attempt: AttemptRow, deployment: Deployment) -> Known:  # noqa: ARG002
        self.asked.append(attempt.attempt_id)
        return self.script(attempt.attempt_id)


class HttpReconciler:
    """Asks the deployment's ``reconcile_url`` with its key.

    200 with a chat completion: the reply. 404 or 410: never taken. All else, 202 too (it is still at work): undecided.
    """

    async def ask(self, attempt: AttemptRow, deployment: Deployment) -> Known:
        if deployment.reconcile_url is None:
            return Undecided()
        key = deployment.api_key
        headers = {} if key is None else {"Authorization": f"Bearer {key.get_secret_value()}"}
        url = deployment.reconcile_url.replace("{attempt_id}", attempt.attempt_id)
        try:
            async with (
                asyncio.timeout(_TIMEOUT_S),
                aiohttp.ClientSession(headers=headers) as session,
                # A redirect would take the key to an endpoint that nobody configured.
                session.get(url, allow_redirects=False) as response,
            ):
                if response.status in (404, 410):
                    return NotTaken()
                return _reply(await _body(response)) if response.status == 200 else Undecided()
        except (aiohttp.ClientError, OSError, TimeoutError):
            return Undecided()


async def _body(response: aiohttp.ClientResponse) -> bytes:
    """All of the body, or what is no JSON where it is longer than is read."""
    parts, size = [], 0
    async for part in response.content.iter_any():
        parts.append(part)
        size += len(part)
        if size > _MOST_BYTES:
            return b""
    return b"".join(parts)


def _reply(body: bytes) -> Known:
    assembly = ChatAssembly()
    try:
        assembly.add_body(body)
        return Replied(assembly.reply(duration_ms=0.0, first_token_ms=None))
    except (MalformedError, ReportedError):
        return Undecided()
