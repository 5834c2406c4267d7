"""The keys of a deployment: calls are spread over them, and one that its provider refuses is set aside."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from processors.complete.routes import Deployment

# A key that was set aside is tried again by one call after so long: it may have been paid or granted rights meanwhile.
ASIDE_S = 300.0


@dataclass(slots=True, eq=False)
class Key:
    """One key. ``number`` counts from 1, as in the settings; ``deployment`` is what is called with it."""

    number: int
    deployment: Deployment = field(repr=False)
    in_flight: int = 0
    used_at: float = float("-inf")
    aside_until: float | None = None
    paused_until: float = float("-inf")

    def wait_s(self, now: float) -> float:
        """How long until it may be used; 0: now."""
        until = max(self.paused_until, self.aside_until if self.aside_until is not None else now)
        return max(0.0, until - now)


class KeyRing:
    """All keys of a deployment; one nameless key where it needs none. Nothing here blocks."""

    def __init__(self, deployment: Deployment) -> None:
        keys = deployment.api_keys or ((deployment.api_key,) if deployment.api_key else ())
        self.keys = [Key(n, replace(deployment, api_key=key)) for n, key in enumerate(keys, 1)] or [Key(0, deployment)]

    @property
    def aside(self) -> int:
        """How many are set aside."""
        return sum(key.aside_until is not None for key in self.keys)

    def wait_s(self, now: float) -> float:
        """How long until one of them may be used; 0: now."""
        return min(key.wait_s(now) for key in self.keys)

    def denied(self, now: float) -> bool:
        """Whether every one of them is set aside."""
        return all(key.aside_until is not None and now < key.aside_until for key in self.keys)

    def take(self, now: float) -> Key:
        """The one with the fewest open calls that may be used; of several, the one that was not used for longest."""
        free = [key for key in self.keys if key.wait_s(now) <= 0]
        key = min(free, key=lambda one: (one.in_flight, one.used_at))
        key.in_flight += 1
        key.used_at = now
        if key.aside_until is not None:
            # One call tries it; the others leave it alone until that one has ended.
            key.aside_until = now + ASIDE_S
        return key

    def pause(self, key: Key, until: float) -> None:
        """Its provider asks to leave it alone until then: limits are counted by key."""
        key.paused_until = max(key.paused_until, until)

    def set_aside(self, key: Key, now: float) -> bool:
        """Its provider refuses it; whether that is news."""
        news, key.aside_until = key.aside_until is None, now + ASIDE_S
        return news

    def accepted(self, key: Key) -> bool:
        """Its provider took it; whether it had been set aside."""
        news, key.aside_until = key.aside_until is not None, None
        return news
