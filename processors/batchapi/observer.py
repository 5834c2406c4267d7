"""What batches tell whoever counts."""

from __future__ import annotations

from typing import Protocol

from processors.batchapi.entry import Figures


class BatchObserver(Protocol):
    """Hears of every step. Must not block or raise."""

    def on_batch(self, deployment: str, event: str) -> None:
        """A batch was ``made``, ``refused``, ``ended`` or ``lost``; ``not-offered``: its provider takes none."""
        ...

    def on_trouble(self, deployment: str, code: str) -> None:
        """An exchange with the provider failed; it is tried again."""
        ...

    def on_figures(self, deployment: str, figures: Figures | None) -> None:
        """What there is now; ``None``: another worker tells."""
        ...


class NullBatchObserver:
    """Counts nothing."""

    def on_batch(self, deployment: str, event: str) -> None: ...

    def on_trouble(self, deployment: str, code: str) -> None: ...

    def on_figures(self, deployment: str, figures: Figures | None) -> None: ...
