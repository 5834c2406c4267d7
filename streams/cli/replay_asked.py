"""What commands of replays and mirrors take alike: changes, amounts, and a desk to work at."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Sequence
from decimal import Decimal, InvalidOperation
from typing import TypeVar

import structlog

from schemas.errors import ConfigurationError
from streams.cli.output import say
from streams.replay.desk import Desk
from streams.settings import Settings

T = TypeVar("T")


def parse_sets(given: Sequence[str] | None) -> dict[str, str]:
    """``NAME=VALUE``, each. Raises ``ConfigurationError``."""
    found = {}
    for one in given or ():
        name, sign, value = one.partition("=")
        if not sign or not name.strip():
            raise ConfigurationError(f"--set {one}: write NAME=VALUE, e.g. prompt=support@7")
        found[name.strip()] = value.strip()
    return found


def usd(text: str | None, option: str = "--max-cost") -> Decimal | None:
    """An amount in US dollars. Raises ``ConfigurationError``."""
    if text is None:
        return None
    try:
        amount = Decimal(text)
    except InvalidOperation:
        amount = Decimal(-1)
    if not amount.is_finite() or amount <= 0:
        raise ConfigurationError(f"{option} {text}: it has to be an amount in US dollars above 0")
    return amount


def with_desk(settings: Settings, work: Callable[[Desk], Awaitable[T]]) -> T:
    """What ``work`` gives at a desk; blocks until it is done. Raises as ``Desk.open``."""

    async def run() -> T:
        async with Desk.open(settings, note=say) as desk:
            return await work(desk)

    if not structlog.is_configured():
        # What stages log, too, is no data.
        structlog.configure(logger_factory=lambda *_: structlog.PrintLogger(sys.stderr))
    return asyncio.run(run())
