"""What the pool tells whoever counts and reports."""

from __future__ import annotations

from typing import Protocol


class PoolObserver(Protocol):
    """Hears of what changes at a deployment. Must not block or raise."""

    def on_limit(self, deployment: str, calls: int) -> None:
        """So many calls may be open there now."""
        ...

    def on_breaker(self, deployment: str, *, open_: bool) -> None:
        """Its breaker opened or closed."""
        ...

    def on_key_refused(self, deployment: str, number: int, code: str) -> None:
        """Its provider refuses its ``number``-th key, from 1 (0: it needs none), which is set aside."""
        ...

    def on_keys_aside(self, deployment: str, keys: int) -> None:
        """So many of its keys are set aside now."""
        ...

    def on_fallback(self, route: str, cause: str) -> None:
        """A request goes to a fallback of its route."""
        ...

    def on_last_resort(self, route: str) -> None:
        """A request is answered by its route's template."""
        ...


class NullPoolObserver:
    """Counts nothing."""

    def on_limit(self, deployment: str, calls: int) -> None: ...

    def on_breaker(self, deployment: str, *, open_: bool) -> None: ...

    def on_key_refused(self, deployment: str, number: int, code: str) -> None: ...

    def on_keys_aside(self, deployment: str, keys: int) -> None: ...

    def on_fallback(self, route: str, cause: str) -> None: ...

    def on_last_resort(self, route: str) -> None: ...
