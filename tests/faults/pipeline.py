"""The system under test: a lane with its topics, five worker processes and a provider, and what the settings say."""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from schemas.codec import Codec
from schemas.files import event_schemas
from schemas.registry import Registry
from streams.settings import Settings
from streams.topics import apply, compare
from tests.faults.worker import READY_S, WorkerProcess
from tests.provider.process import ProviderProcess
from tests.support.stack import TestStack

STAGES = ("admit", "enrich", "complete", "filter", "index", "account")
STOCK_MODULE = "tests.faults.stock_worker"
MODEL = "fake"
# Short, so that what a killed worker held is taken up soon; the protocol does not depend on it.
LEASE_S = 5.0
SESSION_S = 10.0
MAX_ATTEMPTS = 5
_REGISTERING = threading.Lock()


@dataclass(frozen=True, slots=True)
class Kill:
    """One SIGKILL: the stage, and the times just before it and just after the process was gone."""

    stage: str
    before: float
    after: float
    # How many requests had been published.
    published: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """Where a run takes place."""

    folder: Path
    lane: str
    tenant: str
    prompt: str
    settings: Settings
    env: Mapping[str, str]
    codec: Codec
    provider: ProviderProcess
    # Other scenes call the same provider; request ids start with the lane then.
    shares_provider: bool = False

    @property
    def dsn(self) -> str:
        """Postgres."""
        return self.settings.postgres.dsn.get_secret_value()


@contextmanager
def scene(
    stack: TestStack,
    folder: Path,
    lane: str,
    *provider_options: str,
    shared: ProviderProcess | None = None,
    apart: Sequence[str] = (),
    **changes: Any,
) -> Iterator[Scene]:
    """A lane of its own: schemas registered, topics made, a provider that logs its calls (or the ``shared`` one).

    ``changes`` are settings, merged into the run's own. Each name of ``apart`` is a route to a deployment of its own at
    the same provider: what becomes of that one's key and breaker holds up no other.
    """
    folder.mkdir(parents=True, exist_ok=True)
    provider = shared or ProviderProcess(folder / "provider.jsonl", *provider_options)
    try:
        prompt = f"faults-{lane}"
        values = _merged(setting_values(stack, provider.base_url, prompt), changes)
        fake, default = values["deployments"]["fake"], values["routes"]["default"]
        values["deployments"] |= {name: {**fake, "max_concurrency": 4} for name in apart}
        values["routes"] |= {name: {**default, "deployment": name} for name in apart}
        settings = Settings(**values)
        # The registry refuses the second of two first registrations of a subject.
        with _REGISTERING:
            asyncio.run(Registry(stack.registry_url).register(event_schemas()))
        apply(settings, lane, compare(settings, lane))
        yield Scene(
            folder=folder,
            lane=lane,
            tenant=f"tenant-{lane}",
            prompt=prompt,
            settings=settings,
            env={f"HEADRACE_{name.upper()}": _text(value) for name, value in values.items()},
            codec=asyncio.run(Codec.connect(stack.registry_url)),
            provider=provider,
            shares_provider=shared is not None,
        )
    finally:
        if shared is None:
            provider.stop()


def setting_values(stack: TestStack, model_url: str, prompt: str) -> dict[str, Any]:
    """The settings of every worker: the real stack and its embeddings, the fake provider, short times."""
    deployment = {
        "base_url": model_url,
        "model": MODEL,
        "max_concurrency": 128,
        "total_timeout_s": 20.0,
        "first_token_timeout_s": 15.0,
        "price": {"prompt": "0.15", "completion": "0.60"},
    }
    route = {"deployment": "fake", "prompt": prompt, "k": 4, "minimum_score": -1, "max_attempts": MAX_ATTEMPTS}
    return {
        "stack": "external",
        "kafka": {"bootstrap": stack.kafka_bootstrap},
        "registry": {"url": stack.registry_url},
        "postgres": {"dsn": stack.postgres_dsn},
        "embeddings": {"base_url": stack.embeddings_url, "model": stack.embeddings_model},
        "deployments": {"fake": deployment},
        "routes": {"default": route},
        "stages": {"complete": {"timeout_s": 60}},
        "worker": {"lease_s": LEASE_S, "session_timeout_s": SESSION_S, "heartbeat_s": 1.0, "grace_s": 15.0},
    }


class Pipeline:
    """The workers of a scene, one process a stage unless told otherwise. Use it in a ``with`` block."""

    def __init__(
        self,
        scene: Scene,
        groups: Sequence[tuple[str, ...]] = tuple((stage,) for stage in STAGES),
        *,
        stock_commit: bool = False,
        slot: str = "w0",
    ) -> None:
        cores = os.cpu_count() or 1
        self.workers = {
            stages: WorkerProcess(
                stages,
                lane=scene.lane,
                slot=slot,
                env=scene.env,
                folder=scene.folder,
                # Pinned as the product's own workers are: the threads of one process don't fight over its lock then.
                cpu=number % cores if cores > 1 else None,
                module=STOCK_MODULE if stock_commit else "streams",
            )
            for number, stages in enumerate(groups)
        }
        self.kills: list[Kill] = []
        # Workers that ended though nobody had killed them: stage and exit code.
        self.died: list[tuple[str, int]] = []
        self._counted: Counter[str] = Counter()

    def __enter__(self) -> Pipeline:
        for worker in self.workers.values():
            worker.start()
        try:
            self.wait_ready()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self.workers.values():
            if worker.lives and worker.code is None:
                worker.kill()

    def wait_ready(self, timeout_s: float = READY_S) -> None:
        """Block until every worker is ready."""
        deadline = time.monotonic() + timeout_s
        for worker in self.workers.values():
            worker.wait_ready(max(1.0, deadline - time.monotonic()))

    def worker(self, stage: str) -> WorkerProcess:
        """The worker that runs a stage."""
        return next(worker for stages, worker in self.workers.items() if stage in stages)

    def kill(self, stage: str, *, published: int = 0) -> Kill:
        """SIGKILL the stage's worker; it stays down."""
        worker = self.worker(stage)
        # What its counters said dies with it.
        self._counted.update(worker.metrics())
        self.kills.append(Kill(stage, *worker.kill(), published))
        return self.kills[-1]

    def revive(self) -> None:
        """Start again every worker that ended by itself, and note it."""
        for worker in self.workers.values():
            code = worker.code
            if code is not None:
                self.died.append(("+".join(worker.stages), code))
                worker.start()

    def counters(self) -> Counter[str]:
        """The workers' counters, summed over all lives; what a life counted in its last moment is missing."""
        total = Counter(self._counted)
        for worker in self.workers.values():
            total.update(worker.metrics())
        return total

    def stop(self) -> dict[str, int]:
        """SIGTERM to all; the exit codes by stage."""
        return {"+".join(worker.stages): worker.stop() for worker in self.workers.values()}


def _merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    both = {key for key, value in over.items() if isinstance(value, dict) and isinstance(under.get(key), dict)}
    return {**under, **{key: _merged(under[key], over[key]) if key in both else over[key] for key in over}}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
