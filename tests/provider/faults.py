"""What a provider can do wrong, and who decides when.

A fault is ``name`` or ``name:argument``. It is chosen by, in this order: a script posted to ``/script`` (for one
request, for one key, for one model, for any call), the header ``X-Fault``, the marker ``[[fault:...]]`` in the prompt,
the model name ``fault:...``. A header or marker may name several for successive calls of one request, separated by
commas: ``[[fault:500,429,ok]]``; the last one stays.

``429:S`` and ``503:S`` ask for S seconds by Retry-After, ``429_date:S`` by a date, ``429_reset:S`` by rate-limit
headers alone. ``slow:S`` answers S seconds late. ``trickle:S`` pauses S seconds between words, ``drip:S`` between
bytes. ``break_at:N`` and ``break_at:N:S`` cut the stream off when N characters of the text were sent, S seconds after
the last of them; ``error_at`` says an error there and bills nothing, and ``hang_at:N`` sends no more then.
``[[fault:break_at:40,ok]]`` breaks the first attempt only.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

_MARKER = re.compile(r"\[\[fault:([a-z0-9_.:,-]+)\]\]")
_MOST_REQUESTS = 100_000

STATUSES = {
    **{str(status): status for status in (400, 401, 403, 404, 408, 409, 422, 429, 500, 502, 503, 504, 529)},
    "429_date": 429,
    "429_reset": 429,
    "quota": 429,
    "context": 400,
    "moderated": 400,
    "no_model": 404,
}
# Begun and not billed: the provider says itself that it could not go on.
UNBILLED = frozenset({"error_at"})
PAID = frozenset(
    {
        "ok",
        "hang_after_first",
        "disconnect_stream",
        "truncated",
        "garbage",
        "garbage_event",
        "html",
        "drip",
        "empty_choices",
        "empty_text",
        "length",
        "filtered",
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
    def seconds(self) -> float | None:
        """The argument as a number."""
        return float(self.argument) if self.argument else None

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


OK = Fault("ok")


@dataclass(slots=True)
class Script:
    """Which fault is next, and what is said.

    ``queue`` holds for any request and ``by_request`` for one; both are used up in order. ``by_key`` and ``by_model``
    hold until the next script; of several the last one stays. ``says`` are texts in place of a request's answers, one a
    call; the last one stays.
    """

    queue: list[Fault] = field(default_factory=list)
    by_request: dict[str, list[Fault]] = field(default_factory=dict)
    by_key: dict[str, list[Fault]] = field(default_factory=dict)
    by_model: dict[str, list[Fault]] = field(default_factory=dict)
    says: dict[str, list[str]] = field(default_factory=dict)
    # Looks at a batch until it ends, and how it ends: completed, failed or expired.
    batch_turns: int = 2
    batch_end: str = "completed"
    # What is not served of it: files or batches.
    batch_without: str = ""
    _calls: OrderedDict[str, int] = field(default_factory=OrderedDict)

    def load(self, posted: dict[str, Any]) -> None:
        """Replace the script: ``{"queue": [...], "by_request": {id: [...]}, "by_key": ..., "by_model": ...}``."""
        self.queue = _parsed(posted.get("queue", []))
        self.by_request = {name: _parsed(texts) for name, texts in posted.get("by_request", {}).items()}
        self.by_key = {name: _parsed(texts) for name, texts in posted.get("by_key", {}).items()}
        self.by_model = {name: _parsed(texts) for name, texts in posted.get("by_model", {}).items()}
        self.says = {name: list(texts) for name, texts in posted.get("says", {}).items()}
        batch = posted.get("batch", {})
        self.batch_turns, self.batch_end = int(batch.get("turns", 2)), str(batch.get("end", "completed"))
        self.batch_without = str(batch.get("without", ""))

    def next(self, request_id: str, prompt: str, model: str, *, key: str = "", header: str = "") -> Fault:
        """The fault of this call."""
        number = self._counted(request_id)
        if self.by_request.get(request_id):
            return self.by_request[request_id].pop(0)
        for scripted in (self.by_key.get(key), self.by_model.get(model)):
            if scripted:
                return scripted.pop(0) if len(scripted) > 1 else scripted[0]
        if self.queue:
            return self.queue.pop(0)
        marked = _MARKER.search(prompt)
        names = header.split(",") if header else marked[1].split(",") if marked else []
        if names:
            return Fault.parse(names[min(number, len(names) - 1)])
        return Fault.parse(model.removeprefix("fault:")) if model.startswith("fault:") else OK

    def said(self, request_id: str) -> str | None:
        """The text that is scripted for this call, if any."""
        texts = self.says.get(request_id)
        if not texts:
            return None
        return texts.pop(0) if len(texts) > 1 else texts[0]

    def _counted(self, request_id: str) -> int:
        number = self._calls.pop(request_id, 0)
        self._calls[request_id] = number + 1
        if len(self._calls) > _MOST_REQUESTS:
            self._calls.popitem(last=False)
        return number


def _parsed(texts: list[str]) -> list[Fault]:
    return [Fault.parse(text) for text in texts]
