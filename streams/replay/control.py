"""``control`` as it was: what was live when the event in hand was decided, for every event its own moment."""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

from processors.control import Cancel, Pausable, Pause
from processors.control_state import ControlState
from schemas.codec import Codec
from schemas.errors import PoisonError
from schemas.records import Control
from streams.imported import as_recorded
from streams.reading import TopicReader
from streams.settings import Settings
from streams.topics import topic_name

# The control offset of the event that the running task has in hand.
_MOMENT: ContextVar[int] = ContextVar("replay_control_offset", default=-1)


class RecordedControl:
    """A ``ControlView`` of the past. Pauses and cancels were for live traffic: a replay knows of none."""

    def __init__(self) -> None:
        # By name: the offsets at which a prompt was changed, and the version from there on.
        self._offsets: dict[str, list[int]] = {}
        self._versions: dict[str, list[str | None]] = {}
        self._fixed: dict[str, str] = {}
        # The offset of the latest record.
        self.last = -1
        self._none = ControlState()

    def apply(self, record: Control, offset: int) -> None:
        """Take in a control record; records come in the order of their offsets."""
        self.last = offset
        if record.kind == "prompt":
            self._offsets.setdefault(record.name, []).append(offset)
            self._versions.setdefault(record.name, []).append(None if record.removed else record.version)

    def fix(self, name: str, version: str) -> None:
        """Make a version of a prompt the live one at every moment."""
        self._fixed[name] = version

    @property
    def offset(self) -> int:
        return _MOMENT.get()

    def current_prompt(self, name: str) -> str | None:
        if name in self._fixed:
            return self._fixed[name]
        place = bisect_right(self._offsets.get(name, []), _MOMENT.get()) - 1
        return self._versions[name][place] if place >= 0 else None

    def paused(self, kind: Pausable, name: str) -> bool:
        return self._none.paused(kind, name)

    def cancelled(self, tenant: str, request_id: str) -> bool:
        return self._none.cancelled(tenant, request_id)

    async def until_cancelled(self, tenant: str, request_id: str) -> None:
        while not self.cancelled(tenant, request_id):
            await self.changed()

    def pauses(self) -> Sequence[Pause]:
        return self._none.pauses()

    def cancels(self, after: int = -1) -> Sequence[Cancel]:
        return self._none.cancels(after)

    async def changed(self) -> None:
        """Never: what was is not to change."""
        await asyncio.get_running_loop().create_future()


@contextmanager
def at_moment(offset: int) -> Iterator[None]:
    """Inside, what is asked of a ``RecordedControl`` is answered as of this control offset."""
    token = _MOMENT.set(offset)
    try:
        yield
    finally:
        _MOMENT.reset(token)


def read_control(reader: TopicReader, settings: Settings, codec: Codec, lane: str) -> RecordedControl:
    """The whole history of a lane's control topic. Blocks on the broker; it is small. None of it: nothing was live."""
    control = RecordedControl()
    follow_control(control, reader, settings, codec, lane)
    return control


def follow_control(control: RecordedControl, reader: TopicReader, settings: Settings, codec: Codec, lane: str) -> None:
    """Take in what is new in a lane's control topic. Blocks on the broker, which is read from the beginning."""
    topic = topic_name(settings.prefix, lane, "control")
    if topic not in reader.existing([topic]):
        return
    for entry in as_recorded(reader.read(reader.ends(reader.places([topic])))):
        if entry.offset <= control.last:
            continue
        try:
            control.apply(codec.decode(entry.value or b"", Control), entry.offset)
        except PoisonError:
            # Workers passed over it, too.
            continue
