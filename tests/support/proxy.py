"""A TCP proxy that a test can cut, heal and slow down, to take a server away from its clients."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress
from types import TracebackType

CHUNK_BYTES = 65_536


class TcpProxy:
    """Forwards ``127.0.0.1:port`` to a server. Runs in threads, so it goes on whatever a test's event loop does.

    A client that learns another address from the server itself (a Kafka broker's advertised listener) goes past it.
    """

    def __init__(self, target_host: str, target_port: int, *, port: int = 0) -> None:
        self.delay_s = 0.0
        self._target = (target_host, target_port)
        self._guard = threading.Lock()
        self._pairs: set[tuple[socket.socket, socket.socket]] = set()
        self._listener: socket.socket | None = self._listen(port)
        self.port: int = self._listener.getsockname()[1]
        self._accept_on(self._listener)

    def cut(self) -> None:
        """Drop all connections and refuse new ones, as a server that is gone."""
        with self._guard:
            listener, self._listener = self._listener, None
            pairs = list(self._pairs)
            self._pairs.clear()
        if listener is not None:
            _close(listener)
        for pair in pairs:
            for end in pair:
                _close(end)

    def heal(self) -> None:
        """Take connections again, on the same port."""
        if self._listener is None:
            self._listener = self._listen(self.port)
            self._accept_on(self._listener)

    def close(self) -> None:
        self.cut()

    def __enter__(self) -> TcpProxy:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _listen(self, port: int) -> socket.socket:
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen(128)
        return listener

    def _accept_on(self, listener: socket.socket) -> None:
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(self._target, timeout=5)
            except OSError:
                _close(client)
                continue
            server.settimeout(None)
            pair = (client, server)
            with self._guard:
                alive = self._listener is listener
                if alive:
                    self._pairs.add(pair)
            if not alive:
                _close(client)
                _close(server)
                return
            for source, sink in (pair, pair[::-1]):
                threading.Thread(target=self._pump, args=(source, sink, pair), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, pair: tuple[socket.socket, socket.socket]) -> None:
        try:
            while data := source.recv(CHUNK_BYTES):
                if self.delay_s > 0:
                    time.sleep(self.delay_s)
                sink.sendall(data)
        except OSError:
            pass
        with self._guard:
            self._pairs.discard(pair)
        _close(source)
        _close(sink)


def _close(end: socket.socket) -> None:
    # A close alone does not wake a thread that waits in accept or recv.
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    end.close()
