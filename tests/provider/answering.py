"""Answers one call in any form, or does to it what its fault says."""

from __future__ import annotations

import asyncio
import email.utils
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from aiohttp import web

from tests.provider.calls import OpenCall
from tests.provider.faults import STATUSES, Fault
from tests.provider.form import Form
from tests.provider.reply import Said, Used, tokens_of, words

_BIG_BYTES = 100 * 1024 * 1024
_FOREVER_S = 3600
_CUT_AT = ("break_at", "error_at", "hang_at")
_CUT_AFTER_TWO = ("hang_after_first", "disconnect_stream", "truncated", "error_event", "garbage_event")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answering:
    """One call's answer. ``call`` is billed for what is said, word by word."""

    form: Form
    request: web.Request
    body: Mapping[str, Any]
    fault: Fault
    call: OpenCall
    said: Said

    async def respond(self) -> web.StreamResponse:
        """Answer. Raises ``ConnectionResetError`` after a cut."""
        fault = self.fault
        if fault.name in STATUSES:
            return refusal(self.form, fault)
        if fault.name == "slow":
            await asyncio.sleep(fault.seconds or 1)
        if fault.name == "hang":
            await asyncio.sleep(_FOREVER_S)
        if fault.name == "disconnect":
            cut(self.request)
        if fault.name == "html":
            self._bill(self.said.text)
            return web.Response(text="<html><body>Gateway is fine</body></html>", content_type="text/html")
        if fault.name == "garbage":
            self._bill(self.said.text)
            return web.Response(body=b'{"choices": [{"mess', content_type="application/json")
        if fault.name == "no_stream" or not self.body.get("stream"):
            self._bill(self.said.text)
            whole = self.form.whole(self.said)
            return web.json_response(
                {**whole, "choices": [], "content": [], "output": None} if fault.name == "empty_choices" else whole
            )
        return await self._stream()

    async def _stream(self) -> web.StreamResponse:
        fault, said = self.fault, self.said
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(self.request)
        if fault.name == "big":
            await _big(response)
            return response
        if fault.name == "empty_choices":
            await response.write(b"data: [DONE]\n\n")
            await response.write_eof()
            return response
        async for data in self._pieces():
            await response.write(data)
        if fault.name not in ("truncated", "error_event", "error_at", "garbage_event"):
            for data in self.form.closing(said, self.body):
                await response.write(data)
            self.call.completion_tokens += (said.used.reasoning if said.used else 0) + (said.tool is not None)
        await response.write_eof()
        return response

    async def _pieces(self) -> AsyncIterator[bytes]:
        fault, form, said = self.fault, self.form, self.said
        for data in form.opening(said):
            async for piece in self._dripped(data):
                yield piece
        character, pause_s = fault.at if fault.name in _CUT_AT else (len(said.text), 0.0)
        for n, word in enumerate(words(said.text[:character])):
            if fault.name == "trickle" and n:
                await asyncio.sleep(fault.seconds or 0.05)
            if fault.name in _CUT_AFTER_TWO and n == 2:
                async for data in self._break():
                    yield data
                return
            self._bill(word)
            async for piece in self._dripped(form.piece(said, word)):
                yield piece
        if fault.name == "hang_at":
            await asyncio.sleep(_FOREVER_S)
        if fault.name == "break_at":
            await asyncio.sleep(pause_s)
            cut(self.request)
        if fault.name == "error_at":
            await asyncio.sleep(pause_s)
            yield form.error_event(503)

    async def _dripped(self, data: bytes) -> AsyncIterator[bytes]:
        if self.fault.name != "drip":
            yield data
            return
        for byte in data:
            yield bytes([byte])
            await asyncio.sleep(self.fault.seconds or 10)

    async def _break(self) -> AsyncIterator[bytes]:
        name = self.fault.name
        if name == "hang_after_first":
            await asyncio.sleep(_FOREVER_S)
        if name == "disconnect_stream":
            cut(self.request)
        if name == "error_event":
            yield self.form.error_event(int(self.fault.argument or 503))
        if name == "garbage_event":
            yield b'data: {"choices": [{"del\n\n'
        # A stream that is truncated ends as if all had been said.

    def _bill(self, text: str) -> None:
        if self.call.paid and text:
            self.call.completion_tokens += tokens_of(text)


def spoil(said: Said, fault: Fault) -> Said:
    """What is said under faults of the content: cut short, filtered, empty, with a wrong usage or none."""
    half = said.text[: len(said.text) // 2]
    changed = {
        "length": lambda: replace(said, text=half, finish="length", used=_shortened(said, half)),
        "filtered": lambda: replace(said, text=half, finish="content_filter", used=_shortened(said, half)),
        "empty_text": lambda: replace(said, text="", used=_shortened(said, "")),
        "no_usage": lambda: replace(said, used=None),
        "wrong_usage": lambda: replace(said, spoilt=True),
    }
    return changed[fault.name]() if fault.name in changed else said


def refusal(form: Form, fault: Fault) -> web.Response:
    """An error by status, with the headers that its fault names."""
    status, headers = STATUSES[fault.name], {}
    if fault.name == "429_date":
        now = time.time()
        later = now + (fault.seconds or 0)
        headers = {"Date": email.utils.formatdate(now, usegmt=True)}
        headers |= {"Retry-After": email.utils.formatdate(later, usegmt=True)}
    elif fault.name == "429_reset":
        headers = {
            "x-ratelimit-remaining-requests": "0",
            "x-ratelimit-reset-requests": f"{fault.seconds or 0:g}s",
            "x-ratelimit-remaining-tokens": "1000",
            "x-ratelimit-reset-tokens": "1h0m0s",
        }
    elif fault.argument:
        headers = {"Retry-After": fault.argument}
    return web.json_response(form.error(status, fault.name), status=status, headers=headers)


def cut(request: web.Request) -> None:
    """Reset the connection and end the handler."""
    if request.transport is not None:
        request.transport.abort()
    raise ConnectionResetError("cut off by script")


def _shortened(said: Said, text: str) -> Used | None:
    return None if said.used is None else replace(said.used, completion=tokens_of(text) if text else 0)


async def _big(response: web.StreamResponse) -> None:
    """A body of 100 MB in one event: no blank line ever comes."""
    await response.write(b'data: {"choices":[{"index":0,"delta":{"content":"')
    block = b"x" * 65536
    for _ in range(_BIG_BYTES // len(block)):
        await response.write(block)
