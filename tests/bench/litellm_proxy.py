"""The LiteLLM proxy before the fake provider, in a venv of its own, and a client that keeps requests open."""

from __future__ import annotations

import asyncio
import os
import secrets
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import aiohttp

from infra.embedded.ports import free_port
from tests.bench.flow import Measured
from tests.bench.machine import tell

HERE = Path(__file__).parent
VENV, PINNED = HERE / ".litellm", HERE / "litellm.txt"
READY_S = 120.0
_CONFIG = """
model_list:
  - model_name: fake
    litellm_params: {{model: openai/fake, api_base: "{base_url}", api_key: none, input_cost_per_token: 0.00000015,
                      output_cost_per_token: 0.0000006}}
litellm_settings: {{set_verbose: false, request_timeout: 600}}
"""
# What its documentation asks for in production; its table of prices is the packaged one, and nothing is fetched.
_ENVIRONMENT = {
    "LITELLM_MODE": "PRODUCTION",
    "LITELLM_LOG": "ERROR",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "PYTHONUNBUFFERED": "1",
}


def installed() -> Path:
    """The venv's ``litellm``, installed at the pinned versions where it is not there. Takes minutes the first time."""
    command = VENV / "bin" / "litellm"
    stamp = VENV / ".installed"
    if not stamp.exists() or stamp.read_text() != PINNED.read_text():
        tell(f"installing the LiteLLM proxy into {VENV}")
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(VENV)], check=True)
        pip = [str(VENV / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
        subprocess.run([*pip, "--requirement", str(PINNED)], check=True)
        stamp.write_text(PINNED.read_text())
    return command


def installed_version() -> str:
    """The pinned version."""
    [line] = [line for line in PINNED.read_text().splitlines() if line.startswith("litellm==")]
    return line.partition("==")[2]


class LiteLLMProxy:
    """A running proxy with one worker. Use it in a ``with`` block."""

    def __init__(self, base_url: str, folder: Path) -> None:
        self._folder, self._port = folder, free_port()
        self._log = folder / "litellm.log"
        # It does not start without one.
        self.key = f"sk-{secrets.token_hex(32)}"
        config = folder / "litellm.yaml"
        config.write_text(_CONFIG.format(base_url=base_url))
        argv = [str(installed()), "--config", str(config), "--host", "127.0.0.1", "--port", str(self._port)]
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("HEADRACE_", "LITELLM"))}
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [*argv, "--num_workers", "1", "--telemetry", "False"],
                env={**inherited, **_ENVIRONMENT, "LITELLM_MASTER_KEY": self.key},
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    @property
    def pid(self) -> int:
        """The process."""
        return self._process.pid

    @property
    def url(self) -> str:
        """Where chat completions are asked for."""
        return f"http://127.0.0.1:{self._port}/v1/chat/completions"

    def __enter__(self) -> LiteLLMProxy:
        deadline = time.monotonic() + READY_S
        while not self._ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.__exit__()
                raise RuntimeError(f"the LiteLLM proxy did not come up:\n{self._log.read_text()[-2000:]}")
            time.sleep(0.2)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(10)

    def _ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/health/liveliness", timeout=2) as reply:
                return bool(reply.status == 200)
        except (urllib.error.URLError, OSError):
            return False


def closed(url: str, question: str, *, in_flight: int, seconds: float, key: str = "none") -> Measured:
    """Keep so many requests open at an OpenAI-compatible address for so long. What fails counts as lost."""
    return asyncio.run(_closed(url, question, in_flight=in_flight, seconds=seconds, key=key))


async def _closed(url: str, question: str, *, in_flight: int, seconds: float, key: str) -> Measured:
    found = Measured(began=time.monotonic())
    body = {"model": "fake", "messages": [{"role": "user", "content": question}]}
    ends = found.began + seconds

    async def ask(session: aiohttp.ClientSession) -> None:
        while (sent_at := time.monotonic()) < ends:
            name = str(found.sent)
            found.sent += 1
            found.accepted.add(name)
            try:
                async with session.post(url, json=body, headers={"Authorization": f"Bearer {key}"}) as reply:
                    whole = await reply.json()
            except (aiohttp.ClientError, TimeoutError, ValueError):
                continue
            if reply.status == 200 and whole.get("choices"):
                now = time.monotonic()
                found.answered_at[name], found.latencies_ms[name] = now, (now - sent_at) * 1000

    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(120)) as session:
        await asyncio.gather(*(ask(session) for _ in range(in_flight)))
    return found
