"""How long a stream may stand still, and how much of all streams is held."""

from __future__ import annotations

from dataclasses import dataclass

from processors.filter.policy import FilterPolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleasePolicy:
    """Settings of the release, read once.

    ``stall_s``: a stream that gets no delta for so long is ended. Longer than a call and the pause before the next
    attempt take, else calls that go on lose their streams.

    ``most_streams``, ``most_characters`` (held back, of all streams together) and ``most_deltas`` (not acknowledged
    yet, of all streams together) bound the memory: beyond one of them the stream that began first is ended.

    ``phone_regions``: the filter's own.
    """

    stall_s: float = 180.0
    most_streams: int = 10_000
    most_characters: int = 50_000_000
    most_deltas: int = 250_000
    phone_regions: tuple[str, ...] = FilterPolicy().phone_regions
