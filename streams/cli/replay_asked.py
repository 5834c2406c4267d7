"""What commands of replays and mirrors take alike: changes, amounts, and a desk to work at."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Sequence
from decimal import Decimal, InvalidOperation
from typing import TypeVar

import structlog
import typer

from schemas.errors import ConfigurationError
from streams.cli.output import print_json, say
from streams.replay.desk import Desk
from streams.replay.run import Run
from streams.settings import Settings

T = TypeVar("T")
Find = Callable[[Desk, str], Awaitable[Run]]


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


def end(settings: Settings, find: Find, name: str, word: str, *, json: bool) -> None:
    """End a run for good and say so; ``word``: what is said of it. Raises ``typer.Exit``: it had ended."""

    async def work(desk: Desk) -> bool:
        found = await find(desk, name)
        done = await desk.cancel(found)
        if json:
            print_json({"run": found.run, "name": found.name, word: done})
        else:
            say(f"{found.name} is {word}" if done else f"{found.name} had ended: {found.state}")
        return done

    if not with_desk(settings, work):
        raise typer.Exit(1)


def remove(settings: Settings, find: Find, name: str, *, json: bool) -> None:
    """Delete a run with what it made, and say so."""

    async def work(desk: Desk) -> None:
        found = await find(desk, name)
        removed = await desk.delete(found)
        if json:
            print_json({"run": found.run, "name": found.name, "removed": removed})
        else:
            say(f"{found.name} is deleted, with {len(removed)} topics and groups")

    with_desk(settings, work)
