"""Free TCP ports on the loopback address."""

from __future__ import annotations

import random
import socket
from collections.abc import Collection

LOOPBACK = "127.0.0.1"
# Below the range that kernels hand out to outgoing connections: a port chosen here is not taken by a client meanwhile.
FIRST, LAST = 20_000, 32_000
TRIES = 500


def is_free(port: int) -> bool:
    """Whether a server could listen on the port now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
        return True


def free_port(*, preferred: int | None = None, taken: Collection[int] = ()) -> int:
    """A port that is free now and not in ``taken``; ``preferred`` when it is free. Raises OSError if there is none."""
    if preferred is not None and preferred not in taken and is_free(preferred):
        return preferred
    for _ in range(TRIES):
        port = random.randrange(FIRST, LAST)
        if port not in taken and is_free(port):
            return port
    raise OSError(f"no free port between {FIRST} and {LAST} on {LOOPBACK}")
