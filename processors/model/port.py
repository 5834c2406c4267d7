"""What a stage asks of a model, and a fake that answers by script."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from processors.complete.routes import Deployment

# Field names of the chat completions API; what is in them is checked by whoever books it.
RawUsage = Mapping[str, Any]
# Hears every piece of the text as it comes, never empty, with its monotonic time in seconds. Called while the reply is
# read: must return at once and raise nothing.
Heard = Callable[[str, float], None]
# Told that the reply has begun. Must not block or raise.
Began = Callable[[], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelReply:
    """A whole reply. ``usage`` is as the provider gave it, or ``None``; the texts are unfiltered."""

    text: str | None
    finish_reason: str
    refusal: str | None = None
    tool_calls_json: str | None = None
    logprobs_json: str | None = None
    model: str = ""
    response_id: str | None = None
    fingerprint: str | None = None
    usage: RawUsage | None = None
    duration_ms: float = 0.0
    first_token_ms: float | None = None


class ModelClient(Protocol):
    """A client of chat endpoints."""

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
        """Make one call, without retries, and wait for the whole reply, ``deadline_s`` at most.

        ``heard`` gets the text piece by piece meanwhile; together the pieces are the reply's text. ``began`` is called
        once, with the first output of any kind, where there is one before the whole. Cancelling closes the connection
        at once. Costs money as soon as it is sent. Raises ``TransientProviderError`` (not sent, or
        refused for now), ``OutcomeUnknownError`` (sent, and no whole reply was read) and ``PermanentProviderError``. No
        error holds text of the provider or of the payload.
        """
        ...

    async def close(self) -> None:
        """Close every connection."""
        ...


@dataclass(slots=True)
class SentCall:
    """A call that the fake was asked to make."""

    deployment: str
    payload: Mapping[str, Any]
    headers: Mapping[str, str]
    deadline_s: float


Script = Callable[[SentCall], ModelReply | Exception]


@dataclass(slots=True)
class FakeModelClient:
    """A model that echoes the last message, or answers by ``script``; ``hold`` makes calls wait while it is clear.

    ``pieces`` are heard before that, one list a call; without them, the reply's words are. ``cancelled`` counts calls
    that were given up while they ran.
    """

    script: Script | None = None
    calls: list[SentCall] = field(default_factory=list)
    hold: asyncio.Event | None = None
    # The same for the calls at one deployment.
    holds: dict[str, asyncio.Event] = field(default_factory=dict)
    running: int = 0
    most_running: int = 0
    pieces: list[list[str]] = field(default_factory=list)
    cancelled: int = 0

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
        call = SentCall(deployment.name, payload, headers, deadline_s)
        self.calls.append(call)
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        scripted = self.pieces.pop(0) if self.pieces else None
        try:
            if scripted and began is not None:
                began()
            await _say(scripted or (), heard)
            for hold in filter(None, (self.hold, self.holds.get(deployment.name))):
                await hold.wait()
            answer = self.script(call) if self.script is not None else echo(call)
            if scripted is None and isinstance(answer, ModelReply):
                await _say(re.findall(r"\S+\s*", answer.text or ""), heard)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def close(self) -> None:
        """Nothing is open."""


async def _say(pieces: Iterable[str], heard: Heard | None) -> None:
    for piece in pieces:
        if heard is not None:
            heard(piece, time.monotonic())
            await asyncio.sleep(0)


def echo(call: SentCall) -> ModelReply:
    """A reply that repeats the last message and counts a token for each word."""
    text = str(call.payload["messages"][-1]["content"])
    words = sum(len(str(message["content"]).split()) for message in call.payload["messages"])
    return ModelReply(
        text=text,
        finish_reason="stop",
        model=str(call.payload["model"]),
        response_id=f"fake-{len(call.headers)}",
        usage={"prompt_tokens": words, "completion_tokens": len(text.split())},
        duration_ms=1.0,
        first_token_ms=0.5,
    )
