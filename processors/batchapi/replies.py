"""Stored replies, read as live ones are: the same classes of errors, the same bounds."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from typing import Any

import orjson

from processors.batchapi.entry import Item
from processors.batchapi.lines import UNKNOWN, read_reply
from processors.complete.routes import Deployment
from processors.model.assembly import ChatAssembly
from processors.model.exchange import Call, Opened, RefusedStatusError
from processors.model.port import Began, Heard, ModelClient, ModelReply
from schemas.errors import OutcomeUnknownError, TransientProviderError

_READ_S = 30.0
# Codes of ours, and those of providers that are passed on as they are; every other one is told as ``batch_error``.
_CODES = frozenset({"batch_expired", "batch_cancelled", "batch_failed", *UNKNOWN})


class BatchReplies:
    """A ``ModelClient`` that answers an attempt with a stored reply where it has one, and else calls."""

    def __init__(self, client: ModelClient) -> None:
        self._client = client
        self._stored: dict[str, Item] = {}

    @contextmanager
    def holding(self, item: Item) -> Iterator[None]:
        """The item's attempt is answered by its reply inside the block, once."""
        assert item.attempt_id is not None
        self._stored[item.attempt_id] = item
        try:
            yield
        finally:
            self._stored.pop(item.attempt_id, None)

    def answers(self, attempt_id: str) -> bool:
        """Whether a reply for the attempt is still to be read."""
        return attempt_id in self._stored

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
        item = self._stored.pop(headers.get("X-Client-Request-Id", ""), None)
        if item is not None:
            return await reply_of(item, deployment, heard=heard)
        return await self._client.chat(
            deployment, payload, deadline_s=deadline_s, headers=headers, heard=heard, began=began
        )

    async def close(self) -> None:
        await self._client.close()


async def reply_of(item: Item, deployment: Deployment, *, heard: Heard | None = None) -> ModelReply:
    """The item's reply; its duration is the time that the provider had it. Raises a ``ProviderError``."""
    assert item.reply is not None
    line = read_reply(item.reply)
    if line.status is None:
        raise _error(line.code, deployment)
    say = None if heard is None else lambda text: heard(text, time.monotonic())
    reply = await Call(deployment, ChatAssembly(say)).reply(_wire(line.status, line.body), deadline_s=_READ_S)
    if item.sent_at is None or item.replied_at is None:
        return reply
    return replace(reply, duration_ms=(item.replied_at - item.sent_at).total_seconds() * 1000, first_token_ms=None)


def _error(code: str | None, deployment: Deployment) -> OutcomeUnknownError | TransientProviderError:
    if code in UNKNOWN:
        return OutcomeUnknownError(
            code or "", f"deployment {deployment.name}: nobody can tell what became of the request in its batch"
        )
    known = code if code in _CODES else "batch_error"
    return TransientProviderError(
        known or "batch_error", f"deployment {deployment.name} did not work on the request in its batch"
    )


@asynccontextmanager
async def _wire(status: int, body: Any) -> AsyncIterator[Opened]:
    if status != 200:
        raise RefusedStatusError(status, body, {})

    async def chunks() -> AsyncIterator[bytes]:
        yield orjson.dumps(body)

    yield Opened("application/json", chunks())
