"""Items and batches in memory, under the same rules: for unit tests."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from processors.batchapi.entry import IN_BATCH, OVER, Batch, BatchState, Claimed, Figures, Item, ItemState, Waiting
from processors.clock import FakeClock
from processors.journal.entry import CallKey
from schemas.errors import DependencyDownError


@dataclass
class _Made:
    """A batch with the times that ages are taken from."""

    batch: Batch
    creating_at: datetime | None = None
    open_at: datetime | None = None
    looked_at: datetime | None = None


@dataclass
class MemoryBatches:
    """A ``BatchStore`` of one process. ``down`` makes every call fail; ``woken`` are the events that were let go."""

    clock: FakeClock
    down: bool = False
    rows: dict[str, Item] = field(default_factory=dict)
    batches: dict[str, _Made] = field(default_factory=dict)
    woken: set[str] = field(default_factory=set)
    leaders: dict[tuple[str, str], tuple[str, datetime]] = field(default_factory=dict)
    stored_at: dict[str, datetime] = field(default_factory=dict)
    not_before: dict[str, datetime] = field(default_factory=dict)
    # By call: whom it waits for, and its event.
    followers: dict[str, tuple[str, str]] = field(default_factory=dict)

    async def item(self, call_id: str) -> Item | None:
        self._reach()
        item = self.rows.get(call_id)
        made = self.batches.get(item.batch_id or "") if item is not None else None
        return item if item is None or made is None else replace(item, sent_at=made.open_at)

    async def add(self, item: Item) -> None:
        self._reach()
        if self.rows.setdefault(item.call_id, item) is item:
            self.stored_at[item.call_id] = self.not_before[item.call_id] = self.clock.now()

    async def move(self, call_id: str, *, was: ItemState, now: ItemState) -> bool:
        self._reach()
        item = self.rows.get(call_id)
        if item is None or item.state != was:
            return False
        dropped = replace(item, input=b"", reply=None) if now == "done" else item
        self.rows[call_id] = replace(dropped, state=now)
        if now in ("done", "withdrawn"):
            self.woken |= {event_id for leader, event_id in self.followers.values() if leader == call_id}
        return True

    async def follow(self, leader: str, key: CallKey, event_id: str) -> bool:
        self._reach()
        if not self.batched(leader):
            return False
        self.followers[key.call_id] = (leader, event_id)
        return True

    async def followed(self, call_id: str) -> str | None:
        self._reach()
        leader, _ = self.followers.pop(call_id, (None, ""))
        return leader

    def batched(self, call_id: str) -> bool:
        """Whether a batch may still answer the call."""
        item = self.rows.get(call_id)
        return item is not None and item.state in IN_BATCH

    async def lead(self, lane: str, deployment: str, owner: str, *, hold_s: float) -> bool:
        self._reach()
        leader, until = self.leaders.get((lane, deployment), (owner, self.clock.now()))
        if leader != owner and until > self.clock.now():
            return False
        self.leaders[lane, deployment] = owner, self.clock.now() + timedelta(seconds=hold_s)
        return True

    async def waiting(self, lane: str, deployment: str, *, limit: int, but: Collection[str]) -> Waiting:
        self._reach()
        ready = self._ready(lane, deployment, limit, but)
        oldest = min((self.stored_at[one.call_id] for one in ready), default=self.clock.now())
        size = sum(len(one.input) for one in ready)
        return Waiting(items=len(ready), size=size, oldest_s=(self.clock.now() - oldest).total_seconds())

    async def begin(
        self, batch_id: str, lane: str, deployment: str, *, limit: int, max_bytes: int, but: Collection[str]
    ) -> int:
        self._reach()
        size = taken = 0
        for item in self._ready(lane, deployment, limit, but):
            size += len(item.input)
            if taken and size > max_bytes:
                break
            taken += 1
            self.rows[item.call_id] = replace(item, state="taken", batch_id=batch_id)
        if taken:
            made = Batch(batch_id=batch_id, lane=lane, deployment=deployment, state="claiming")
            self.batches[batch_id] = _Made(made)
        return taken

    async def unfinished(self, lane: str, deployment: str) -> Sequence[Batch]:
        self._reach()
        return [
            replace(
                one.batch,
                since_creating_s=self._age_s(one.creating_at) or 0.0,
                since_open_s=self._age_s(one.open_at) or 0.0,
                since_looked_s=self._age_s(one.looked_at),
            )
            for one in self.batches.values()
            if (one.batch.lane, one.batch.deployment) == (lane, deployment) and one.batch.state not in OVER
        ]

    async def items(self, batch_id: str, state: ItemState, *, limit: int, after: str = "") -> Sequence[Item]:
        self._reach()
        found = [one for one in self.rows.values() if (one.batch_id, one.state) == (batch_id, state)]
        return sorted((one for one in found if one.call_id > after), key=lambda one: one.call_id)[:limit]

    async def claimed(self, batch_id: str, calls: Sequence[Claimed]) -> None:
        self._reach()
        for one in calls:
            item = self.rows[one.call_id]
            if (item.batch_id, item.state) == (batch_id, "taken"):
                self.rows[one.call_id] = replace(
                    item, state="sent", attempt_id=one.attempt_id, epoch=one.epoch, input=one.input
                )

    async def release(self, batch_id: str, call_ids: Sequence[str], *, wait_s: float | None) -> None:
        self._reach()
        for call_id in call_ids:
            item = self.rows[call_id]
            if item.batch_id == batch_id and item.state in ("taken", "sent"):
                state: ItemState = "returned" if wait_s is None else "waiting"
                self.rows[call_id] = replace(item, state=state, batch_id=None)
                self.not_before[call_id] = self.clock.now() + timedelta(seconds=wait_s or 0.0)

    async def advance(
        self,
        batch: Batch,
        state: BatchState,
        *,
        provider_file: str | None = None,
        provider_batch: str | None = None,
        provider_status: str | None = None,
    ) -> None:
        self._reach()
        made = self.batches[batch.batch_id]
        if made.batch.state in OVER:
            return
        known = made.batch
        made.batch = replace(
            known,
            state=state,
            provider_file=provider_file or known.provider_file,
            provider_batch=provider_batch or known.provider_batch,
            provider_status=known.provider_status if provider_status is None else provider_status,
        )
        made.creating_at = self.clock.now() if state == "creating" else made.creating_at
        made.open_at = self.clock.now() if state == "open" else made.open_at

    async def looked(self, batch: Batch, status: str) -> None:
        self._reach()
        made = self.batches[batch.batch_id]
        made.batch, made.looked_at = replace(made.batch, provider_status=status), self.clock.now()

    async def answer(self, batch_id: str, replies: Mapping[str, bytes]) -> int:
        self._reach()
        new = 0
        for call_id, reply in replies.items():
            item = self.rows.get(call_id)
            if item is not None and item.batch_id == batch_id and item.reply is None:
                state: ItemState = "answered" if item.state == "sent" else item.state
                if state in ("answered", "withdrawn"):
                    new += 1
                    self.rows[call_id] = replace(item, state=state, reply=reply, replied_at=self.clock.now())
        return new

    async def late(self, lane: str, deployment: str, *, limit: int) -> Sequence[Item]:
        self._reach()
        found = [one for one in self._of(lane, deployment) if one.state == "withdrawn" and one.reply is not None]
        return found[:limit]

    async def wake(self, lane: str) -> int:
        self._reach()
        due = {
            one.event_id
            for one in self.rows.values()
            if one.key.lane == lane and one.state in ("answered", "returned") and one.event_id not in self.woken
        }
        self.woken |= due
        return len(due)

    async def figures(self, lane: str, deployment: str) -> Figures:
        self._reach()
        items: dict[str, int] = {}
        for one in self._of(lane, deployment):
            if one.state != "done":
                items[one.state] = items.get(one.state, 0) + 1
        return Figures(len(await self.unfinished(lane, deployment)), items, 0.0)

    def _reach(self) -> None:
        if self.down:
            raise DependencyDownError("postgres", "the test took it away")

    def _age_s(self, moment: datetime | None) -> float | None:
        return None if moment is None else (self.clock.now() - moment).total_seconds()

    def _of(self, lane: str, deployment: str) -> list[Item]:
        return [one for one in self.rows.values() if (one.key.lane, one.deployment) == (lane, deployment)]

    def _ready(self, lane: str, deployment: str, limit: int, but: Collection[str]) -> list[Item]:
        found = [
            one
            for one in self._of(lane, deployment)
            if one.state == "waiting"
            and self.not_before[one.call_id] <= self.clock.now()
            and f"route/{one.route}" not in but
            and f"tenant/{one.key.tenant}" not in but
        ]
        return sorted(found, key=lambda one: (self.stored_at[one.call_id], one.call_id))[:limit]
