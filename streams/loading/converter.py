"""The parent's side of conversion: child processes, each of which is killed when a job takes too long."""

from __future__ import annotations

import json
import os
import queue
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any

from streams.loading.child import reading_from
from streams.loading.record import Reading, UnreadableError

# Python and the libraries have to be loaded, on a busy machine too.
START_TIMEOUT_S = 120.0
_READ_BYTES = 1 << 20


class Converters:
    """``count`` child processes, started when they are needed. ``convert`` may be called from several threads."""

    def __init__(self, count: int = 1) -> None:
        self._idle: queue.SimpleQueue[_Child] = queue.SimpleQueue()
        self._children = [_Child() for _ in range(count)]
        for child in self._children:
            self._idle.put(child)

    def convert(self, job: dict[str, Any], *, timeout_s: float) -> Reading:
        """Do a job in a child. Blocks for a free one, and then for ``timeout_s`` at most.

        Raises ``UnreadableError``, also for a job that made the child hang or crash.
        """
        with self._borrowed() as child:
            return reading_from(child.ask(job, timeout_s))

    @contextmanager
    def _borrowed(self) -> Iterator[_Child]:
        child = self._idle.get()
        try:
            yield child
        finally:
            self._idle.put(child)

    def close(self) -> None:
        """End the children, whatever they are doing."""
        for child in self._children:
            child.close()

    def __enter__(self) -> Converters:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Child:
    """One child process, or none."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._left = b""
        self._guard = threading.Lock()
        self._closed = False

    def ask(self, job: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        process = self._process if self._process is not None and self._process.poll() is None else self._start()
        assert process.stdin is not None
        with suppress(BrokenPipeError):
            process.stdin.write(json.dumps(job).encode() + b"\n")
            process.stdin.flush()
        line = self._line(process, timeout_s)
        if line is None:
            self.close(for_good=False)
            raise UnreadableError(
                f"was not read within {timeout_s:g} s", "raise --file-timeout, or split it; it may be made to hang"
            )
        if not line:
            code = process.wait()
            self.close(for_good=False)
            why = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            raise UnreadableError(f"made the converter crash ({why})", "open and save it anew, or split it")
        result: dict[str, Any] = json.loads(line)
        return result

    def close(self, *, for_good: bool = True) -> None:
        with self._guard:
            self._closed = self._closed or for_good
            process, self._process, self._left = self._process, None, b""
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with suppress(OSError):
                        pipe.close()

    def _start(self) -> subprocess.Popen[bytes]:
        self.close(for_good=False)
        with self._guard:
            if self._closed:
                raise UnreadableError("was not read, because the command ended", "run it again")
            self._process = process = subprocess.Popen(
                # -P: a folder of documents may hold a file that is named as a module.
                [sys.executable, "-P", "-m", "streams.loading.child"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                # Ctrl-C is the parent's: it ends its children.
                start_new_session=True,
            )
        if not self._line(process, START_TIMEOUT_S):
            self.close(for_good=False)
            raise UnreadableError("can't be converted: the converter does not start", "run `headrace doctor`")
        return process

    def _line(self, process: subprocess.Popen[bytes], timeout_s: float) -> bytes | None:
        """The next line; empty when the child ended, None when it took too long."""
        assert process.stdout is not None
        deadline, chunks = time.monotonic() + timeout_s, [self._left]
        while b"\n" not in chunks[-1]:
            left = deadline - time.monotonic()
            ready, _, _ = select.select([process.stdout], [], [], max(0.0, left))
            if not ready:
                return None
            chunk = os.read(process.stdout.fileno(), _READ_BYTES)
            if not chunk:
                return b""
            chunks.append(chunk)
        line, _, self._left = b"".join(chunks).partition(b"\n")
        return line
