"""Ports where nobody listens, for as long as a test needs that."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

from infra.embedded.ports import LOOPBACK


@contextmanager
def nobodys_port() -> Iterator[int]:
    """A port that refuses connections: it is bound, so nobody else gets it, and nobody listens."""
    with socket.socket() as held:
        held.bind((LOOPBACK, 0))
        yield int(held.getsockname()[1])
