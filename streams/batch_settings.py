"""The settings of a deployment's batches."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from processors.batchapi.policy import BatchPolicy
from streams.credentials import Section

if TYPE_CHECKING:
    from streams.route_settings import DeploymentSettings

# What a request of a lane that goes by batch may ask for, and gets from ``headrace submit``: a batch takes up to a day,
# and a request may wait for one, or for a second one.
LONGEST_TTL_MS = 72 * 3600 * 1000
SUBMITTED_TTL_MS = 48 * 3600 * 1000


class BatchSettings(Section):
    """``[deployments.NAME.batch]``: which lanes' calls go by the provider's Batch API, and how they are gathered."""

    lanes: tuple[str, ...] = Field(default=("bulk",), min_length=1)
    max_requests: int = Field(default=5_000, ge=1, le=50_000)
    # A batch is closed so long after its first request came, full or not.
    max_wait_s: float = Field(default=300.0, ge=0, le=86_400)
    max_bytes: int = Field(default=50_000_000, ge=1_000, le=150_000_000)
    poll_s: float = Field(default=60.0, ge=0.1, le=3_600)
    # Of the deployment's price.
    price_factor: Decimal = Field(default=Decimal("0.5"), ge=0, le=10)
    # A request with less time to live than this is called at once.
    min_ttl_s: float = Field(default=86_400.0, ge=0, le=LONGEST_TTL_MS / 1000)
    # What becomes of a request that its batch did not answer.
    again: Literal["call", "batch"] = "call"

    def policy(self) -> BatchPolicy:
        """The same for the stage."""
        return BatchPolicy(**{**self.model_dump(), "lanes": frozenset(self.lanes)})


def goes_by_batch(lane: str, deployments: Iterable[DeploymentSettings]) -> bool:
    """Whether some deployment takes the lane's calls by batch."""
    return any(one.batch is not None and lane in one.batch.lanes for one in deployments)
