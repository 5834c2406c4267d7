"""The processors of a replay: those of a worker, under the run's settings and as of the events' moments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from processors.event import Incoming, Output, Processor
from streams.replay.changes import Changes
from streams.replay.control import at_moment
from streams.settings import Settings


def replay_settings(settings: Settings, changes: Changes) -> Settings:
    """The settings that a run's stages work under: its own policies, and nothing that is for live traffic alone."""
    update: dict[str, Any] = {}
    if "allow_truncated" in changes.policy:
        update["filter"] = settings.filter.model_copy(update={"allow_truncated": changes.policy["allow_truncated"]})
    if "rate" in changes.policy:
        own = {"rate": changes.policy["rate"], "tenants": {}, "routes": {}}
        update["evaluate"] = settings.evaluate.model_copy(update=own)
    return settings.model_copy(update=update)


def as_of(processor: Processor) -> Processor:
    """The processor, which sees ``control`` as it was when its event was decided."""

    async def process(incoming: Incoming[Any]) -> Sequence[Output]:
        with at_moment(incoming.control_offset):
            return await processor(incoming)

    return process
