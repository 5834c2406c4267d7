"""What a mirror's process tells over HTTP: that it lives, that it leads its mirror, and the mirror's metrics."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from schemas.errors import ConfigurationError
from streams.mirroring.figures import MirrorMetrics


@asynccontextmanager
async def serving(metrics: MirrorMetrics, host: str, port: int) -> AsyncIterator[int]:
    """Serve ``/livez``, ``/readyz`` and ``/metrics``; gives the port that was bound.

    Raises ``ConfigurationError`` where it can't listen there.
    """
    registry = CollectorRegistry()
    registry.register(metrics)

    async def alive(_request: web.Request) -> web.Response:
        return web.json_response({"ok": True})

    async def ready(_request: web.Request) -> web.Response:
        leads = metrics.figures is not None
        return web.json_response({"ok": leads}, status=200 if leads else 503)

    async def told(_request: web.Request) -> web.Response:
        return web.Response(body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    app = web.Application()
    app.router.add_get("/livez", alive)
    app.router.add_get("/readyz", ready)
    app.router.add_get("/metrics", told)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            raise ConfigurationError(
                f"--http-port: can't listen on {host}:{port} ({error.strerror}); name another port, or 0 for any"
            ) from None
        yield int(runner.addresses[0][1])
    finally:
        await runner.cleanup()
