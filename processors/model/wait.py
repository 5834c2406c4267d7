"""How long a provider asks to wait before the next call, as its reply's headers say."""

from __future__ import annotations

import email.utils
import math
import re
import time
from collections.abc import Mapping
from datetime import datetime

# A provider that asks for more than this is taken at this: a wrong clock or header must not park a request for days.
LONGEST_S = 3600.0
# Groups of headers about limits: what is left, when the limit is whole again. OpenAI's (and those who follow it) and
# Anthropic's.
_LIMITS = (
    *((f"x-ratelimit-remaining-{kind}", f"x-ratelimit-reset-{kind}") for kind in ("requests", "tokens")),
    *(
        (f"anthropic-ratelimit-{kind}-remaining", f"anthropic-ratelimit-{kind}-reset")
        for kind in ("requests", "tokens", "input-tokens", "output-tokens")
    ),
)
_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|h|m|s)")
_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """The provider's wish in seconds, an hour at most; ``None`` without one.

    ``retry-after-ms``, or ``Retry-After`` in seconds or as a date (RFC 9110); without them, when the limits that are
    used up are whole again. ``headers`` have to find names whatever their case.
    """
    milliseconds, after = _number(headers.get("retry-after-ms")), headers.get("retry-after")
    seconds = milliseconds / 1000 if milliseconds is not None else _number(after)
    if seconds is None and after:
        seconds = _until(after, headers.get("date"))
    if seconds is None:
        seconds = _until_whole(headers)
    return None if seconds is None else min(max(0.0, seconds), LONGEST_S)


def _until_whole(headers: Mapping[str, str]) -> float | None:
    """The longest wait of the limits of which nothing is left."""
    used_up = [headers.get(reset) for left, reset in _LIMITS if _number(headers.get(left)) == 0]
    waits = [_duration(value, headers.get("date")) for value in used_up if value]
    return max((wait for wait in waits if wait is not None), default=None)


def _duration(value: str, date: str | None) -> float | None:
    """Seconds of ``6m0s``, ``20ms``, plain seconds, or a time by RFC 3339."""
    plain = _number(value)
    if plain is not None:
        return plain
    if _PART.sub("", value) == "":
        return sum(float(number) * _UNITS_S[unit] for number, unit in _PART.findall(value))
    try:
        return datetime.fromisoformat(value).timestamp() - _now(date)
    except (ValueError, OverflowError):
        return None


def _until(after: str, date: str | None) -> float | None:
    """From the reply's own date to ``after``: the provider's clock against itself, where it says what time it is."""
    try:
        return email.utils.parsedate_to_datetime(after).timestamp() - _now(date)
    except (ValueError, TypeError, OverflowError):
        return None


def _now(date: str | None) -> float:
    return email.utils.parsedate_to_datetime(date).timestamp() if date else time.time()


def _number(value: str | None) -> float | None:
    try:
        number = float(value) if value else None
    except ValueError:
        return None
    return number if number is not None and math.isfinite(number) else None
