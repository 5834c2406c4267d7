"""Event ids that were seen lately, to tell a redelivered event: redeliveries lie close to each other in a topic."""

from __future__ import annotations

from collections import OrderedDict

REMEMBERED = 100_000


class Remembered:
    """The latest ids, so many and no more."""

    def __init__(self, most: int = REMEMBERED) -> None:
        # A plain dict looks at every place of those that were removed before it finds the first that is there.
        self._ids: OrderedDict[str, None] = OrderedDict()
        self._most = most

    def add(self, event_id: str) -> bool:
        """Remember an id. False where it is remembered already."""
        if event_id in self._ids:
            return False
        self._ids[event_id] = None
        if len(self._ids) > self._most:
            self._ids.popitem(last=False)
        return True
