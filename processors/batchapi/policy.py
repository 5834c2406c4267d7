"""When calls go by batch, and how large a batch gets."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

# What becomes of an item that its batch did not answer: called at once, or put into another batch.
Again = Literal["call", "batch"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchPolicy:
    """A deployment's batches. ``lanes``: whose calls go by batch. ``price_factor``: of the deployment's price.

    A batch is closed with ``max_requests`` items or ``max_bytes`` of a file, or ``max_wait_s`` after its first item
    came. It is looked at every ``poll_s``. A request goes by batch when it has ``min_ttl_s`` left at least: less is
    called at once.
    """

    lanes: frozenset[str] = frozenset({"bulk"})
    max_requests: int = 5_000
    max_wait_s: float = 300.0
    max_bytes: int = 50_000_000
    poll_s: float = 60.0
    price_factor: Decimal = Decimal("0.5")
    min_ttl_s: float = 86_400.0
    again: Again = "call"
