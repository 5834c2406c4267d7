"""What a provider can do wrong, and who decides when.

A fault is ``name`` or ``name:argument``. It is chosen by, in this order: a script posted to ``/script``, the marker
``[[fault:...]]`` in the prompt, the model name ``fault:...``. A marker may name several for successive calls of one
request, separated by commas: ``[[fault:500,429,ok]]``; the last one stays.

``trickle:S`` pauses S seconds between words. ``break_at:N`` and ``break_at:N:S`` cut the stream off when N characters
of the text were sent, S seconds after the last of them; ``error_at`` says an error there and bills nothing, and
``hang_at:N`` sends no more then. ``[[fault:break_at:40,ok]]`` breaks the first attempt only.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

_MARKER = re.compile(r"\[\[fault:([a-z0-9_.:,-]+)\]\]")
_MOST_REQUESTS = 100_000

# Begun and not billed: the provider says itself that it could not go on.
UNBILLED = frozenset({"context", "error_at"})
STATUSES = {"429": 429, "500": 500, "502": 502, "503": 503, "400": 400, "401": 401, "403": 403, "404": 404, "408": 408}
PAID = frozenset(
    {
        "ok",
        "hang_after_first",
        "disconnect_stream",
        "truncated",
        "garbage",
        "html",
        "drip",
        "empty_choices",
        "empty_text",
        "length",
        "no_usage",
        "wrong_usage",
        "big",
        "error_event",
        "hang",
        "disconnect",
        "slow",
        "no_stream",
        "trickle",
        "break_at",
        "hang_at",
    }
)


@dataclass(frozen=True, slots=True)
class Fault:
    """What one call does. ``ok`` is no fault."""

    name: str
    argument: str = ""

    @property
    def paid(self) -> bool:
        """Whether a provider would put the call on its bill: it took the request and began to work on it."""
        return self.name in PAID

    @property
    def at(self) -> tuple[int, float]:
        """Of ``break_at``, ``error_at`` and ``hang_at``: the character, and the pause before the cut in seconds."""
        character, _, pause = self.argument.partition(":")
        return int(character or 0), float(pause or 0)

    @classmethod
    def parse(cls, text: str) -> Fault:
        name, _, argument = text.partition(":")
        if name not in PAID and name not in STATUSES and name not in UNBILLED:
            raise ValueError(f"no such fault: {text}")
        return cls(name, argument)


@dataclass(slots=True)
class Script:
    """Which fault is next. ``queue`` holds for any request, ``by_request`` for one; both are used up in order."""

    queue: list[Fault] = field(default_factory=list)
    by_request: dict[str, list[Fault]] = field(default_factory=dict)
    _calls: OrderedDict[str, int] = field(default_factory=OrderedDict)

    def load(self, posted: dict[str, Any]) -> None:
        """Replace the script: ``{"queue": [...], "by_request": {id: [...]}}``."""
        self.queue = [Fault.parse(text) for text in posted.get("queue", [])]
        self.by_request = {
            key: [Fault.parse(text) for text in texts] for key, texts in posted.get("by_request", {}).items()
        }

    def next(self, request_id: str, prompt: str, model: str) -> Fault:
        """The fault of this call."""
        number = self._calls.pop(request_id, 0)
        self._calls[request_id] = number + 1
        if len(self._calls) > _MOST_REQUESTS:
            self._calls.popitem(last=False)
        if self.by_request.get(request_id):
            return self.by_request[request_id].pop(0)
        if self.queue:
            return self.queue.pop(0)
        marked = _MARKER.search(prompt)
        if marked:
            names = marked[1].split(",")
            return Fault.parse(names[min(number, len(names) - 1)])
        return Fault.parse(model.removeprefix("fault:")) if model.startswith("fault:") else Fault("ok")
