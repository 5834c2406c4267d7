"""``python -m tests.provider --port 0 --log FILE``: prints its port, serves until SIGTERM."""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
from pathlib import Path

from aiohttp import web

from tests.provider.calls import CallLog
from tests.provider.server import Latency, Provider


async def serve(options: argparse.Namespace) -> None:
    """Serve until told to stop."""
    latency = Latency(options.median_ms, options.slow_ms, options.slow_share, options.seed)
    provider = Provider(CallLog(options.log), latency, dimension=options.dimension, limit=options.limit)
    runner = web.AppRunner(provider.app, handler_cancellation=True, shutdown_timeout=0.5)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", options.port)
    await site.start()
    print(runner.addresses[0][1], flush=True)  # noqa: T201
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await stop.wait()
    await runner.cleanup()


def main() -> None:
    """Read the options and serve."""
    parser = argparse.ArgumentParser(prog="python -m tests.provider", description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--log", type=Path)
    parser.add_argument("--median-ms", type=float, default=0.0)
    parser.add_argument("--slow-ms", type=float, default=0.0)
    parser.add_argument("--slow-share", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dimension", type=int, default=384)
    parser.add_argument("--limit", type=int, help="calls at a time; one more is refused with 429")
    # A connection that a script cuts is no news.
    logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)
    asyncio.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
