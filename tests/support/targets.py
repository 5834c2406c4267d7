"""Where calls of tests go, and at what price at most."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from processors.journal import Bound, Target


def bound(usd: str, *, prompt_tokens: int = 100, completion_tokens: int = 50) -> Bound:
    """The most that a call may cost."""
    return Bound(prompt_tokens=prompt_tokens, completion_tokens=completion_tokens, usd=Decimal(usd))


def target(usd: str | Bound, **changed: Any) -> Target:
    """An attempt at a deployment, of at most ``usd``; ``changed``: what of it is to be different."""
    fields = {
        "route": "default",
        "deployment": "d1",
        "provider": "openai",
        "model": "m1",
        "price_source": "settings",
        "account": "acct",
        "stage_version": "1",
        "control_offset": 7,
        "bound": usd if isinstance(usd, Bound) else bound(usd),
    }
    return Target(**fields | changed)
