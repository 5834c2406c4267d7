"""Cancelling a request while the stage has it: waits and an open call end at once, bookings never do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from processors.control import ControlView, cancelled_error
from schemas.errors import RefusedError


class Cancellation:
    """Whether an operator or the request's owner cancelled one request."""

    def __init__(self, control: ControlView, tenant: str, request_id: str) -> None:
        self._control, self._tenant, self._request_id = control, tenant, request_id

    @property
    def requested(self) -> bool:
        """Whether the request was cancelled. Answers from memory."""
        return self._control.cancelled(self._tenant, self._request_id)

    @asynccontextmanager
    async def scope(self) -> AsyncIterator[None]:
        """What waits inside is cut off when the request is cancelled; raises ``RefusedError`` then."""
        if self.requested:
            raise cancelled_error()
        scope, inside = asyncio.timeout(None), True

        def end(watch: asyncio.Task[None]) -> None:
            if inside and not watch.cancelled() and watch.exception() is None:
                scope.reschedule(asyncio.get_running_loop().time())

        watch = asyncio.create_task(self._control.until_cancelled(self._tenant, self._request_id), name="cancellation")
        watch.add_done_callback(end)
        try:
            async with scope:
                try:
                    yield
                finally:
                    inside = False
        except TimeoutError:
            if not scope.expired():
                raise
            raise cancelled_error() from None
        finally:
            watch.cancel()

    async def sleep(self, seconds: float) -> None:
        """Sleep, until the request is cancelled at most; the whole time where it was before."""
        if self.requested:
            await asyncio.sleep(seconds)
            return
        with suppress(RefusedError):
            async with self.scope():
                await asyncio.sleep(seconds)
