"""Where a worker serves its pages."""

from __future__ import annotations

import socket

import aiohttp
import pytest
from prometheus_client import CollectorRegistry

from processors.clock import FakeClock
from schemas.errors import ConfigurationError
from streams.health import Health
from streams.metrics import Metrics

LOOPBACK = "127.0.0.1"


def _health() -> Health:
    return Health(Metrics(CollectorRegistry()), FakeClock())


async def test_port_zero_is_any_that_is_free() -> None:
    runner, port = await _health().serve(LOOPBACK, 0)
    try:
        async with aiohttp.ClientSession() as client, client.get(f"http://{LOOPBACK}:{port}/livez") as reply:
            assert reply.status == 200
    finally:
        await runner.cleanup()


async def test_a_taken_port_is_named_with_what_to_do() -> None:
    with socket.create_server((LOOPBACK, 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ConfigurationError, match=rf"worker\.http_port: can't listen on {LOOPBACK}:{port} .*or 0"):
            await _health().serve(LOOPBACK, port)
