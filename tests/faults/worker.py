"""One worker process as an operator's supervisor would run it: started, watched, killed, started again."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

ROOT = Path(__file__).parents[2]
# Far more than it takes on a busy machine.
READY_S = 180.0
STOP_S = 90.0
PAGE_S = 30.0
POLL_S = 0.05
LOG_LINES = 30
SAYS_PORT = re.compile(rb'"http_port": (\d+)')


class WorkerFailedError(Exception):
    """A worker did not come up or did not end; the message holds the end of its log."""


class WorkerProcess:
    """Runs ``python -m <module> worker STAGE`` in a process group of its own, with the same slot in every life."""

    def __init__(
        self, stages: tuple[str, ...], *, lane: str, slot: str, env: Mapping[str, str], folder: Path, cpu: int | None,
        module: str = "streams", root: Path = ROOT,
    ) -> None:  # fmt: skip
        self.stages, self.slot = stages, slot
        self.log = folder / f"{'+'.join(stages)}.{slot}.log"
        self.lives = 0
        self.started_at = 0.0
        self._module, self._lane, self._folder = module, lane, folder
        self._env = {**_inherited(), **env, "PYTHONPATH": str(root)}
        self._cpu = cpu
        # The system chooses the port of each life; the log says which.
        self._port = 0
        self._life_at = 0
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, **changes: str) -> None:
        """Start a life. ``changes`` are environment variables for this life alone. Returns before it is ready."""
        assert self._process is None or self._process.poll() is not None
        self._port = 0
        argv = [sys.executable, "-m", self._module, "worker", *self.stages]
        argv += ["--slot", self.slot, "--lane", self._lane, "--folder", str(self._folder)]
        argv += ["--cpu", str(self._cpu)] if self._cpu is not None else []
        self.lives += 1
        self.started_at = time.time()
        with self.log.open("ab") as log:
            log.write(f"--- life {self.lives}\n".encode())
            log.flush()
            self._life_at = log.tell()
            self._process = subprocess.Popen(
                argv,
                cwd=self._folder,
                env={**self._env, "HEADRACE_WORKER__HTTP_PORT": "0", **changes},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """The process of this life."""
        return self._running().pid

    @property
    def port(self) -> int:
        """Where this life serves its pages; 0 while it has not said so."""
        if not self._port:
            said = SAYS_PORT.search(self.log.read_bytes(), self._life_at)
            self._port = int(said[1]) if said else 0
        return self._port

    @property
    def code(self) -> int | None:
        """The exit code; None while it lives."""
        return self._running().poll()

    def is_ready(self) -> bool:
        """Whether ``/readyz`` says so now."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/readyz", timeout=2) as reply:
                return bool(reply.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def wait_ready(self, timeout_s: float = READY_S) -> None:
        """Block until it is ready. Raises ``WorkerFailedError`` when it ended or takes too long."""
        deadline = time.monotonic() + timeout_s
        while not self.is_ready():
            if self.code is not None or time.monotonic() > deadline:
                state = f"ended with {self.code}" if self.code is not None else f"is not ready after {timeout_s:g} s"
                raise WorkerFailedError(f"the worker of {'+'.join(self.stages)} {state}:\n{self.tail()}")
            time.sleep(POLL_S)

    def wait_end(self, timeout_s: float) -> int:
        """Block until the process ended; its exit code (-9 after SIGKILL)."""
        try:
            return self._running().wait(timeout_s)
        except subprocess.TimeoutExpired:
            text = f"the worker of {'+'.join(self.stages)} still runs after {timeout_s:g} s:\n{self.tail()}"
            raise WorkerFailedError(text) from None

    def kill(self) -> tuple[float, float]:
        """SIGKILL the whole group. Returns the times just before and just after its end."""
        process = self._running()
        before = time.time()
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(PAGE_S)
        return before, time.time()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the whole group."""
        os.killpg(self._running().pid, number)

    def stop(self, timeout_s: float = STOP_S) -> int:
        """SIGTERM and wait; SIGKILL when that does not end it. Returns the exit code."""
        process = self._running()
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                self.kill()
        return int(process.returncode)

    def metrics(self) -> dict[str, float]:
        """The counters and gauges by name, summed over their labels; empty when it does not answer."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=PAGE_S) as reply:
                text = reply.read().decode()
        except (urllib.error.URLError, OSError):
            return {}
        sums: dict[str, float] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                sums[sample.name] = sums.get(sample.name, 0.0) + sample.value
        return sums

    def cpu_s(self) -> float:
        """Processor time of this life so far, all threads."""
        fields = Path(f"/proc/{self._running().pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def tail(self) -> str:
        """The end of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-LOG_LINES:])

    def _running(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "the worker was never started"
        return self._process


def _inherited() -> dict[str, str]:
    """The environment without settings of whoever runs the harness."""
    return {name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_")}
