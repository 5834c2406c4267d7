"""Waiting in tests: by looking until a deadline, never by sleeping for a guess."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

POLL_S = 0.1


def eventually(holds: Callable[[], bool], what: str, *, timeout_s: float = 150.0) -> None:
    """Return when ``holds`` does. Fails the test, naming ``what``, when it does not within ``timeout_s``."""
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {what}"
        time.sleep(POLL_S)


async def until(holds: Callable[[], bool], what: str, *, timeout_s: float = 90.0) -> None:
    """``eventually`` for what happens on the test's own event loop."""
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {what}"
        await asyncio.sleep(0.002)


async def turns(times: int = 100) -> None:
    """Let everything on the event loop go on that waits for no time: what is not done by then waits for something."""
    for _ in range(times):
        await asyncio.sleep(0)
