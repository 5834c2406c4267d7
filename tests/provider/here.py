"""The provider in the test's own process and loop: for tests that look into it while it serves."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from tests.provider.calls import CallLog
from tests.provider.server import Latency, Provider


class Here:
    """A provider that is served. ``url`` is its root; ``base_url`` OpenAI's."""

    def __init__(self, provider: Provider, port: int) -> None:
        self.provider = provider
        self.url = f"http://127.0.0.1:{port}"
        self.base_url = f"{self.url}/v1"

    @property
    def bill(self) -> dict[str, object]:
        """What it would charge for."""
        return self.provider.log.bill.shown()


@asynccontextmanager
async def serving(*, dimension: int = 384) -> AsyncIterator[Here]:
    """Serve until the block ends; open calls are cut off then."""
    provider = Provider(CallLog(None), Latency(), dimension=dimension)
    runner = web.AppRunner(provider.app, handler_cancellation=True, shutdown_timeout=0.2)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield Here(provider, runner.addresses[0][1])
    finally:
        await runner.cleanup()
