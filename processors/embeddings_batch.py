"""Texts of several askers embedded in one call."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from processors.embeddings import Embedder, Vector
from schemas.errors import ProviderError

if TYPE_CHECKING:
    from processors.spending.payer import Payer

# Told of every call: how many texts it embedded, and for how many askers.
OnBatch = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, eq=False)
class _Asked:
    """One text of one asker, and where its vector goes."""

    text: str
    asker: int
    vector: asyncio.Future[Vector]
    payer: Payer | None


@dataclass(slots=True)
class _Waiting:
    """What waits for the next call."""

    asked: list[_Asked] = field(default_factory=list)
    timer: asyncio.Handle | None = None


class BatchingEmbedder:
    """An ``Embedder`` that gathers the texts of a short while into one call of another one.

    A call is sent when ``most`` texts have come together, or ``wait_s`` after the first of them; while none is under
    way it is sent at once, with what was asked for in the same turn of the loop, so that a single text never waits.
    Equal texts of a batch are embedded once. Where the endpoint refuses a batch or fails on it, each asker's texts are
    tried apart, so that nobody pays for another's text. An asker who gives up takes what was not sent yet along.

    ``booked``: the other embedder books who asked for what, and is given an equal text once for each payer; that it is
    embedded once is its own affair then.
    """

    def __init__(
        self,
        embedder: Embedder,
        *,
        most: int = 32,
        wait_s: float = 0.01,
        observe: OnBatch | None = None,
        booked: bool = False,
    ) -> None:
        self._embedder, self._most, self._wait_s, self._booked = embedder, most, wait_s, booked
        self._observe = observe or _nobody
        self._waiting = _Waiting()
        self._running: set[asyncio.Task[None]] = set()
        self._askers = 0

    @property
    def model(self) -> str:
        return self._embedder.model

    @property
    def dimension(self) -> int:
        return self._embedder.dimension

    async def embed(self, texts: Sequence[str], payers: Sequence[Payer | None] = ()) -> list[Vector]:
        if not texts:
            return []
        self._askers += 1
        loop = asyncio.get_running_loop()
        paying = payers or [None] * len(texts)
        asked = [
            _Asked(text, self._askers, loop.create_future(), payer) for text, payer in zip(texts, paying, strict=True)
        ]
        self._add(asked)
        try:
            return list(await asyncio.gather(*(one.vector for one in asked)))
        finally:
            # Where one text failed nobody waits for the others: they are not sent, and their errors were heard.
            for one in asked:
                if not one.vector.cancel() and not one.vector.cancelled():
                    one.vector.exception()

    async def close(self) -> None:
        """End what is under way."""
        if self._waiting.timer is not None:
            self._waiting.timer.cancel()
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    def _add(self, asked: Sequence[_Asked]) -> None:
        for one in asked:
            self._waiting.asked.append(one)
            if len(self._waiting.asked) >= self._most:
                self._send()
        if self._waiting.asked and self._waiting.timer is None:
            loop = asyncio.get_running_loop()
            idle = not self._running
            self._waiting.timer = loop.call_soon(self._send) if idle else loop.call_later(self._wait_s, self._send)

    def _send(self) -> None:
        waiting, self._waiting = self._waiting, _Waiting()
        if waiting.timer is not None:
            waiting.timer.cancel()
        asked = _wanted(waiting.asked)
        if asked:
            task = asyncio.create_task(self._embed(asked))
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    async def _embed(self, asked: Sequence[_Asked]) -> None:
        """One call, and one for each asker where it fails for several."""
        askers = {one.asker for one in asked}
        # The first who asked for a text pays for it.
        pairs: dict[tuple[str, str | None], Payer | None] = {}
        for one in asked:
            pairs.setdefault((one.text, self._payer_of(one)), one.payer)
        texts, payers = [text for text, _ in pairs], list(pairs.values())
        self._observe(len(set(texts)), len(askers))
        try:
            found = await self._embedder.embed(texts, payers)
            vectors = dict(zip(texts, found, strict=True))
        except ProviderError as error:
            if len(askers) == 1:
                _fail(asked, error)
                return
            for asker in sorted(askers):
                own = _wanted(one for one in asked if one.asker == asker)
                if own:
                    await self._embed(own)
        except asyncio.CancelledError:
            for one in asked:
                one.vector.cancel()
            raise
        except Exception as error:
            _fail(asked, error)
        else:
            for one in _wanted(asked):
                one.vector.set_result(vectors[one.text])

    def _payer_of(self, one: _Asked) -> str | None:
        """Whom an equal text is given apart for."""
        return one.payer.spender if self._booked and one.payer is not None else None


def _wanted(asked: Iterable[_Asked]) -> list[_Asked]:
    return [one for one in asked if not one.vector.done()]


def _fail(asked: Sequence[_Asked], error: Exception) -> None:
    for one in _wanted(asked):
        one.vector.set_exception(error)


def _nobody(texts: int, askers: int) -> None:
    """Nobody wants to know."""
