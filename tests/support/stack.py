"""The embedded stack as tests see it: one per run, the model and the embeddings only when somebody asks for them."""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path

from infra import migrate
from infra.embedded import stack
from infra.embedded.state import StackState

FIRST = ("postgres", "kafka", "registry")


class TestStack:
    """Addresses of a running stack without workers. The database is migrated."""

    __test__ = False

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._guard = threading.Lock()
        self._state: StackState = stack.up(folder, components=FIRST, owner_pid=os.getpid())
        migrate.apply(self.postgres_dsn)

    @property
    def kafka_bootstrap(self) -> str:
        return str(self._state.endpoints["kafka_bootstrap"])

    @property
    def registry_url(self) -> str:
        return str(self._state.endpoints["registry_url"])

    @property
    def postgres_dsn(self) -> str:
        return str(self._state.endpoints["postgres_dsn"])

    @property
    def embeddings_url(self) -> str:
        """The base address for OpenAI clients, ending in ``/v1``. Starts the server on first use (about 2 s)."""
        return self._lazy("embeddings", "embeddings_url")

    @property
    def embeddings_model(self) -> str:
        return self._lazy("embeddings", "embeddings_model")

    @property
    def model_url(self) -> str:
        """The base address for OpenAI clients, ending in ``/v1``. Starts the server on first use (about 2 s)."""
        return self._lazy("model", "model_url")

    @property
    def model_name(self) -> str:
        return self._lazy("model", "model_name")

    @property
    def versions(self) -> dict[str, str]:
        """What runs, by name."""
        return {name: str(version) for name, version in self._state.versions.items()}

    def runs(self, component: str) -> bool:
        """Whether a component was started."""
        child = self._state.child(component)
        return child is not None and child.pid is not None

    def pid(self, component: str) -> int:
        """The process of a component, e.g. kafka; its children belong to it."""
        child = self._state.child(component)
        assert child is not None and child.pid is not None, f"{component} does not run"
        return child.pid

    def close(self) -> None:
        """Stop every process and remove the folder."""
        stack.down(self.folder)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _lazy(self, component: str, key: str) -> str:
        with self._guard:
            if key not in self._state.endpoints:
                self._state = stack.up(self.folder, components=(component,))
            return str(self._state.endpoints[key])
