"""Reading texts: the one place that knows which forms of ``Text`` are handled."""

from __future__ import annotations

from schemas.errors import RefusedError
from schemas.records import Message, Request, Text


def inline(text: Text, field: str = "text") -> str:
    """The text itself; ``field`` is its path in the event, for the message.

    Raises ``RefusedError`` naming the field for a reference to what is not stored, an encrypted text, and one with none
    or several forms.
    """
    if text.ref is not None:
        raise RefusedError(
            "unknown_body",
            f"{field}.ref: no such text is stored for the tenant, or the event would be too large with it",
            field=f"{field}.ref",
        )
    if text.sealed is not None:
        raise RefusedError("unsupported_text", f"{field}.sealed: not handled yet", field=f"{field}.sealed")
    if text.inline is None:
        raise RefusedError("invalid_request", f"{field}.inline: set it to the text", field=f"{field}.inline")
    return text.inline


def message_text(message: Message, field: str = "message") -> str:
    """A message's text parts, one a line; its other parts are left out.

    Raises ``RefusedError`` naming the field for a text that can't be read.
    """
    pieces = []
    for number, part in enumerate(message.content):
        path = f"{field}.content[{number}]"
        if part.type != "text":
            continue
        if part.text is None:
            raise RefusedError("invalid_request", f"{path}.text: a part of type text needs one", field=f"{path}.text")
        pieces.append(inline(part.text, f"{path}.text"))
    return "\n".join(pieces)


def question(request: Request) -> Text | None:
    """What was asked: the query, else the last user message; ``None`` where there is neither."""
    if request.query is not None:
        return request.query
    for message in reversed(request.messages):
        if message.role == "user":
            texts = [p.text.inline for p in message.content if p.text is not None and p.text.inline is not None]
            return Text(inline="\n".join(texts)) if texts else None
    return None
