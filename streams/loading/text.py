"""Plain text and Markdown: decoding, and what a text must not hold."""

from __future__ import annotations

import codecs

from streams.loading.record import Reading, UnreadableError

MEDIA_TYPES = {"text": "text/plain", "markdown": "text/markdown"}
_BOMS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


def decode(data: bytes, encoding: str = "") -> str:
    """The text. A byte order mark decides, then ``encoding``, then UTF-8. Raises ``UnreadableError`` with the line."""
    encoding = next((name for mark, name in _BOMS if data.startswith(mark)), encoding or "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UnreadableError(f"is not {encoding} at byte {error.start}", "save it as UTF-8", line) from None
    except (LookupError, UnicodeError):
        raise UnreadableError(f"says that it is {encoding[:40]!r}, which can't be read", "save it as UTF-8") from None
    if not text.strip():
        raise UnreadableError("is empty", "remove it or write something")
    return text


def read_text(data: bytes, kind: str, *, name: str, encoding: str = "") -> Reading:
    """A text or Markdown file. ``name`` is the title of one without a heading."""
    text = decode(data, encoding)
    nul = text.find("\x00")
    if nul >= 0:
        line = text.count("\n", 0, nul) + 1
        raise UnreadableError("holds a NUL character", "remove it, or give a text file", line)
    title = heading(text) if kind == "markdown" else ""
    return Reading(text=text, title=title or name, media_type=MEDIA_TYPES[kind])


def heading(text: str) -> str:
    """The first heading of a Markdown text, if it comes early."""
    for line in text.splitlines()[:50]:
        if line.startswith("# "):
            return line[2:].strip()[:200]
    return ""
