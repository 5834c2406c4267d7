"""How a process uses a deployment: figures for whoever shares it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """Calls of one process at one deployment.

    ``most`` were open at a time since it was asked last, ``limit`` may be now, ``waiting`` requests could use a place
    there and have none anywhere. ``requests`` and ``tokens`` count from the start of the process. ``throttled_s``:
    seconds since its provider last said that there are too many; ``None``: it never did.
    """

    in_flight: int = 0
    most: int = 0
    limit: int = 0
    waiting: int = 0
    requests: int = 0
    tokens: int = 0
    throttled_s: float | None = None
