"""Whether a process is ready, asked in its own protocol. Every check is bounded by ``TIMEOUT_S`` and never raises."""

from __future__ import annotations

import socket
import struct
import urllib.error
import urllib.request

import psycopg

from infra.embedded.child import Health
from infra.embedded.ports import LOOPBACK

TIMEOUT_S = 2.0
_METADATA_KEY, _METADATA_VERSION = 3, 1


def is_ready(health: Health) -> bool:
    """Ask once. Blocks for at most about two seconds; call it in a thread."""
    try:
        match health.kind:
            case "http":
                return _http(health.target)
            case "kafka":
                return brokers(int(health.target)) > 0
            case "postgres":
                return _postgres(health.target)
            case "none":
                return True
    except (OSError, psycopg.Error, struct.error):
        return False


def _http(url: str) -> bool:
    request = urllib.request.Request(url, headers={"Connection": "close"})  # noqa: S310  (urls come from the spec)
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:  # noqa: S310
        return bool(response.status == 200)


def _postgres(dsn: str) -> bool:
    with psycopg.connect(dsn, connect_timeout=int(TIMEOUT_S)) as connection:
        return connection.execute("select 1").fetchone() == (1,)


def brokers(port: int) -> int:
    """How many unfenced brokers the cluster counts: a Metadata request for no topics, written by hand.

    A connect alone is not enough: the port takes requests before the broker may serve them. Raises OSError.
    """
    client = b"headrace"
    body = struct.pack(f">hhih{len(client)}si", _METADATA_KEY, _METADATA_VERSION, 1, len(client), client, 0)
    with socket.create_connection((LOOPBACK, port), timeout=TIMEOUT_S) as connection:
        connection.sendall(struct.pack(">i", len(body)) + body)
        reply = _read(connection, struct.unpack(">i", _read(connection, 4))[0])
    (count,) = struct.unpack(">i", reply[4:8])
    return int(count)


def _read(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        chunk = connection.recv(size - len(data))
        if not chunk:
            raise ConnectionError("closed while reading")
        data += chunk
    return data
