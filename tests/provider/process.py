"""Starts the provider as a process of its own, for tests and the faults harness."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import orjson

ROOT = Path(__file__).parents[2]


class ProviderProcess:
    """A running provider. ``stop`` ends it."""

    def __init__(self, log: Path, *options: str) -> None:
        """Start it and wait for its port."""
        self.log = log
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.provider", "--log", str(log), *options],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the fake provider did not start: exit code {self._process.wait(10)}")
        self.port = int(line)
        self.url = f"http://127.0.0.1:{self.port}"
        self.base_url = f"{self.url}/v1"

    @property
    def pid(self) -> int:
        """The process."""
        return self._process.pid

    def calls(self) -> list[dict[str, Any]]:
        """Every whole line of the log."""
        return [orjson.loads(line) for line in self.log.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]

    def paid(self) -> Counter[str]:
        """Paid calls by request."""
        return Counter(line["request_id"] for line in self.calls() if line["event"] == "begin" and line["paid"])

    def stop(self) -> None:
        """End it."""
        self._process.terminate()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(5)
        assert self._process.stdout is not None
        self._process.stdout.close()
