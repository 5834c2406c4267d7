"""Items and batches, as they are stored."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from processors.journal.entry import CallKey

# waiting: in no batch. taken: in one, and being claimed. sent: claimed. answered: its reply is here. returned: called
# as every other call. withdrawn: its request ended before the reply came. done: the journal has what became of it.
ItemState = Literal["waiting", "taken", "sent", "answered", "returned", "withdrawn", "done"]
BatchState = Literal["claiming", "uploading", "uploaded", "creating", "open", "ended", "lost"]
OVER: tuple[BatchState, ...] = ("ended", "lost")
# Items whose call a batch may still answer.
IN_BATCH: tuple[ItemState, ...] = ("waiting", "taken", "sent", "answered")


def owner_of(batch_id: str) -> str:
    """The lease owner of a batch's calls."""
    return f"batch:{batch_id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """A call that goes by batch. ``input`` is the event that asks for it; ``event_id`` finds the one set aside.

    ``attempt_id`` and ``epoch`` are those under which it was claimed; ``reply`` is the line that the provider wrote.
    """

    key: CallKey
    deployment: str
    route: str
    event_id: str
    input: bytes
    control_offset: int = -1
    expires_at: datetime | None = None
    state: ItemState = "waiting"
    batch_id: str | None = None
    attempt_id: str | None = None
    epoch: int = 0
    reply: bytes | None = None
    # When the item's batch was made, and when its reply was stored.
    sent_at: datetime | None = None
    replied_at: datetime | None = None

    @property
    def call_id(self) -> str:
        """The call's id, which is the line's ``custom_id``."""
        return self.key.call_id


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """A batch. Ages are by the database's clock, in seconds: since it was about to be made, was made, was looked at."""

    batch_id: str
    lane: str
    deployment: str
    state: BatchState
    provider_file: str | None = None
    provider_batch: str | None = None
    provider_status: str = ""
    since_creating_s: float = 0.0
    since_open_s: float = 0.0
    since_looked_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """What waits for a batch at a deployment, counted no further than a batch takes."""

    items: int
    size: int
    oldest_s: float


@dataclass(frozen=True, slots=True)
class Claimed:
    """An item whose call is the batch's."""

    call_id: str
    attempt_id: str
    epoch: int
    input: bytes


@dataclass(frozen=True, slots=True)
class Figures:
    """What a deployment's batches are at: how many are open, items by state, and the age of the oldest open item."""

    open: int
    items: dict[str, int]
    oldest_s: float
