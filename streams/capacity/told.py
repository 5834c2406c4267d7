"""What a process tells of the deployments that it calls, as its row has it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from processors.complete.routes import Deployment

Kind = Literal["live", "replay"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """One deployment, as one process uses it.

    Of a live worker ``most`` is how many calls were open at a time within the last five minutes, ``requests`` and
    ``tokens`` are what its busiest minute of these took. Of a replay: how many it may have open, and its last minute.
    ``limit`` is how many the process may have open by its settings and by what the provider said. ``waiting`` requests
    have no place. ``throttled_s``: seconds since the provider last said that there are too many, ``None`` where it did
    not.
    """

    name: str
    in_flight: int = 0
    most: int = 0
    limit: int = 0
    waiting: int = 0
    throttled_s: float | None = None
    requests: int = 0
    tokens: int = 0
    # The settings'; ``None``: there is no such limit.
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None

    def as_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Told:
        """What ``as_json`` gave, by this release or another."""
        known = {one.name for one in fields(cls)}
        return cls(**{name: value for name, value in values.items() if name in known})


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """A row: who tells it, how many seconds ago by the database's clock, and by endpoint what is used."""

    holder: str
    kind: Kind
    lane: str
    age_s: float
    uses: Mapping[str, Told]
    said: str = ""


def endpoint_of(deployment: Deployment) -> str:
    """What is the same for everybody who calls the same model at the same place, however they name it."""
    place = "\n".join((deployment.base_url.rstrip("/"), deployment.model, deployment.account))
    return hashlib.sha256(place.encode()).hexdigest()[:16]
