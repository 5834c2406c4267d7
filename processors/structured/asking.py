"""The payload that asks for a reply once more, with what was wrong with the one before."""

from __future__ import annotations

import orjson

from processors.complete.payload import Payload
from processors.structured.check import Fault

# A token of ordinary text is about this many bytes; only to see whether a reply may be quoted.
_BYTES_PER_TOKEN = 3
_LEFT_OUT = "(a reply in the wrong form)"


def ask_again(first: Payload, wrote: str, fault: Fault, *, room_tokens: int) -> Payload:
    """The first payload, the reply and its fault. The replies before the last are not in it.

    ``room_tokens`` is what the context window has for the prompt: a reply that does not fit is left out.
    """
    said = {"role": "user", "content": f"Your answer is not in the form that was asked for. {fault.told}\n{_WISH}"}
    quoted = _with(first, wrote, said)
    if len(orjson.dumps(quoted["messages"])) <= room_tokens * _BYTES_PER_TOKEN and wrote:
        return quoted
    return _with(first, _LEFT_OUT, said)


_WISH = "Write the whole answer again as valid JSON, with nothing before or after it."


def _with(first: Payload, wrote: str, said: dict[str, str]) -> Payload:
    # Between two turns of the user there is one of the assistant: some chat templates insist.
    return {**first, "messages": [*first["messages"], {"role": "assistant", "content": wrote}, said]}
