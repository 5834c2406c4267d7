"""Sends events in the background: one thread, in order. What is away is noted once and slows nobody."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import structlog

from schemas.errors import ConfigurationError
from streams.credentials import secret
from streams.lineage.happening import Happening, Lineage, NoLineage, Sums
from streams.lineage_settings import LineageSettings
from streams.settings import Settings

log = structlog.get_logger(__name__)

# Events that wait to be sent. A run has a handful, so more than this is an endpoint that is away for hours.
MOST_WAITING = 1_000
# After an event was lost, RUNNING events are passed over for so long: each would wait for the same endpoint.
PAUSE_S = 60.0
# On top of the first attempt.
RETRIES, BACKOFF_S = 2, 0.2

Note = Callable[[str], None]


class Transport(Protocol):
    """Takes one event; what the library's transports are. Blocks; raises whatever it likes."""

    def emit(self, event: Any) -> Any:
        """Send it."""
        ...

    def close(self) -> Any:
        """Let go of what it holds open."""
        ...


def open_lineage(settings: Settings, *, note: Note | None = None) -> Lineage:
    """Whoever is told, as the settings say. Connects to nobody; ``note`` hears of the first event that is lost.

    Raises ``ConfigurationError`` for a key that is not there, and where the library is missing.
    """
    wanted = settings.lineage
    if not wanted.on:
        return NoLineage()
    try:
        from streams.lineage.openlineage import Events  # noqa: PLC0415  (the library is an extra)
    except ImportError:
        raise ConfigurationError(
            "lineage needs openlineage-python, which the extra `lineage` brings: install headrace[lineage], "
            "or take [lineage] out of the settings"
        ) from None
    events = Events(wanted.namespace, wanted.parent_run())
    return Emitter(_transport(wanted), events.event, timeout_s=wanted.timeout_s, where=_where(wanted), note=note)


class Emitter:
    """Sends what it is told. Its thread ends with ``close``, or with the process."""

    on = True

    def __init__(
        self,
        transport: Transport,
        make: Callable[[Happening], Any],
        *,
        timeout_s: float,
        where: str,
        note: Note | None = None,
    ) -> None:
        self._transport, self._make, self._timeout_s = transport, make, timeout_s
        self._where, self._note = where, note or _logged
        self._waiting = queue.Queue[Happening | None](MOST_WAITING)
        self._lock = threading.Lock()
        self._told, self._taken, self._reason = 0, 0, ""
        self._failed_at = -PAUSE_S
        self._thread: threading.Thread | None = None
        self._closed, self._given_up = False, False

    def tell(self, happening: Happening) -> None:
        with self._lock:
            if self._closed:
                return
            if happening.phase == "RUNNING" and time.monotonic() - self._failed_at < PAUSE_S:
                return
            self._told += 1
            if self._thread is None:
                self._thread = threading.Thread(target=self._send, daemon=True, name="lineage")
                self._thread.start()
        try:
            self._waiting.put_nowait(happening)
        except queue.Full:
            self._lost("too many events wait")

    def miss(self, reason: str) -> None:
        with self._lock:
            self._told += 1
        self._lost(reason)

    def close(self) -> Sums:
        with self._lock:
            self._closed, thread = True, self._thread
        if thread is not None:
            try:
                self._waiting.put_nowait(None)
            except queue.Full:
                pass
            else:
                thread.join(self._timeout_s)
            if thread.is_alive():
                # It ends with what it has in hand, or with the process.
                self._given_up = True
                self._lost(f"no answer in {self._timeout_s:g} s")
        with self._lock:
            return Sums(self._taken, self._told - self._taken, self._reason)

    def _send(self) -> None:
        try:
            self._send_all()
        finally:
            self._transport.close()

    def _send_all(self) -> None:
        while (happening := self._waiting.get()) is not None and not self._given_up:
            try:
                self._transport.emit(self._make(happening))
            except Exception as error:  # whatever the library and its transports let out: a run goes on without it
                self._lost(_said(error))
            else:
                with self._lock:
                    self._taken += 1

    def _lost(self, reason: str) -> None:
        with self._lock:
            first, self._reason = not self._reason, self._reason or reason
            self._failed_at = time.monotonic()
        if first:
            self._note(f"lineage: an event was not taken by {self._where} ({reason}); the run goes on")


def _transport(wanted: LineageSettings) -> Transport:
    """The library's transport. Its own client is left out: it reads files and variables of its own."""
    from openlineage.client.transport.file import FileConfig, FileTransport  # noqa: PLC0415
    from openlineage.client.transport.http import (  # noqa: PLC0415
        ApiKeyTokenProvider,
        HttpConfig,
        HttpTransport,
        TokenProvider,
    )

    if wanted.file is not None:
        _check_file(wanted.file)
        return FileTransport(FileConfig(log_file_path=str(wanted.file.absolute()), append=True))
    auth = TokenProvider({})
    if wanted.secured:
        auth = ApiKeyTokenProvider({"apiKey": secret(wanted, "api_key", at="lineage")})
    retry = {
        "total": RETRIES,
        "backoff_factor": BACKOFF_S,
        "status_forcelist": [429, 500, 502, 503, 504],
        "allowed_methods": ["POST"],
        # An endpoint that asks to be left alone for minutes is away.
        "respect_retry_after_header": False,
    }
    # Without the slash at its end the last part of the address would be replaced.
    url = wanted.url.rstrip("/") + "/"
    return HttpTransport(
        HttpConfig(url=url, endpoint=wanted.endpoint.lstrip("/"), timeout=wanted.timeout_s, auth=auth, retry=retry)
    )


def _check_file(file: Path) -> None:
    folder = file.absolute().parent
    if not folder.is_dir() or file.is_dir():
        raise ConfigurationError(f"lineage.file: {file} can't be written; name a file in a folder that is there")


def _where(wanted: LineageSettings) -> str:
    if wanted.file is not None:
        return str(wanted.file)
    parts = urlsplit(wanted.url)
    # Not its path: that may hold what is nobody's business.
    return f"{parts.scheme}://{parts.hostname}" + (f":{parts.port}" if parts.port else "")


def _said(error: Exception) -> str:
    """What went wrong, without the words of the other side."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    return type(error).__name__ if status is None else f"HTTP {status}"


def _logged(text: str) -> None:
    log.warning("lineage", said=text)
