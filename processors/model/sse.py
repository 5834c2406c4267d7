"""Server-sent events, read as they come: of a chat stream, only the ``data`` lines matter.

Follows the event stream format of the HTML standard as far as chat endpoints use it.
"""

from __future__ import annotations

DONE = b"[DONE]"


class EventReader:
    """The data of a stream's events; comments and empty events are left out. Holds what is unfinished, unbounded."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self._data: list[bytes] = []

    def feed(self, chunk: bytes) -> list[bytes]:
        """The data of the events that end with this chunk."""
        rest = self._rest
        rest += chunk
        if b"\n" not in chunk and b"\r" not in chunk:
            return []
        if b"\r" in rest:
            # A carriage return at the end may be the first half of a line's end.
            held = b"\r" if rest.endswith(b"\r") else b""
            text = bytes(rest[: len(rest) - len(held)]).replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        else:
            held, text = b"", bytes(rest)
        *lines, last = text.split(b"\n")
        self._rest = bytearray(last + held)
        return self._events(lines)

    def end(self) -> list[bytes]:
        """The data of what the stream ended in; a line that was cut off is not used.

        A cut can only be told from an end by what is missing: of an unfinished line nothing is used but the end's mark.
        """
        rest = self._rest
        last = bytes(rest).rstrip(b"\r")
        whole = rest.endswith(b"\r") or last == b"data: " + DONE
        return self._events([last, b""] if whole else [b""])

    def _events(self, lines: list[bytes]) -> list[bytes]:
        found, data = [], self._data
        for line in lines:
            if not line:
                if data:
                    found.append(data[0] if len(data) == 1 else b"\n".join(data))
                    data.clear()
            elif line.startswith(b"data:"):
                data.append(line[6:] if line.startswith(b"data: ") else line[5:])
        return found
