"""What a provider's API looks like on the wire, apart from what goes wrong behind it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import orjson
from aiohttp import web

from tests.provider.reply import Said


class Form(Protocol):
    """One API: how a request is read, and how an answer, a stream and an error are written."""

    def prompt(self, body: Mapping[str, Any]) -> str:
        """All text of the request."""
        ...

    def wants_json(self, body: Mapping[str, Any]) -> bool:
        """Whether the answer has to be JSON."""
        ...

    def key(self, request: web.Request) -> str:
        """The API key that the request bears."""
        ...

    def whole(self, said: Said) -> dict[str, Any]:
        """The answer in one body."""
        ...

    def opening(self, said: Said) -> Iterable[bytes]:
        """The events before the text."""
        ...

    def piece(self, said: Said, text: str) -> bytes:
        """The event of a piece of the text."""
        ...

    def closing(self, said: Said, body: Mapping[str, Any]) -> Iterable[bytes]:
        """The events behind the text: calls of tools, the reason to stop, the usage, the end."""
        ...

    def error(self, status: int, kind: str) -> dict[str, Any]:
        """The body of an error; ``kind`` is a fault's name."""
        ...

    def error_event(self, status: int) -> bytes:
        """The event of an error in a stream that began well."""
        ...


def event(data: Mapping[str, Any], *, name: str | None = None) -> bytes:
    """A server-sent event."""
    head = b"" if name is None else b"event: " + name.encode() + b"\n"
    return head + b"data: " + orjson.dumps(data) + b"\n\n"
