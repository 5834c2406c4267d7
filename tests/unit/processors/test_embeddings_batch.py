"""Texts of several askers go in one call, measured by the provider's own count of calls."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import numpy as np
import pytest

from processors.embeddings import CachedEmbedder, EmbeddingPolicy, HashingEmbedder, OpenAIEmbedder, Vector
from processors.embeddings_batch import BatchingEmbedder
from processors.spending.payer import Payer
from schemas.errors import DependencyDownError, PermanentProviderError
from tests.provider.here import Here, serving
from tests.support.polling import until


class Held(HashingEmbedder):
    """An embedder whose calls wait, and that refuses the texts ``bad``."""

    def __init__(self) -> None:
        super().__init__(dimension=8)
        self.free = asyncio.Event()
        self.calls: list[list[str]] = []

    async def embed(self, texts: Sequence[str], payers: Sequence[Payer | None] = ()) -> list[Vector]:
        self.calls.append(list(texts))
        await self.free.wait()
        if "bad" in texts:
            raise PermanentProviderError("http_400", "no")
        if "away" in texts:
            raise DependencyDownError("embeddings", "away")
        return await super().embed(texts, payers)


@pytest.fixture
async def here() -> AsyncIterator[tuple[Here, OpenAIEmbedder]]:
    async with serving(dimension=8) as started:
        embedder = OpenAIEmbedder(EmbeddingPolicy(model="e", dimension=8), base_url=started.base_url, api_key="none")
        yield started, embedder
        await embedder.close()


async def test_a_hundred_queries_at_once_are_four_calls(here: tuple[Here, OpenAIEmbedder]) -> None:
    provider, embedder = here
    sizes: list[tuple[int, int]] = []
    batching = BatchingEmbedder(embedder, observe=lambda texts, askers: sizes.append((texts, askers)))
    vectors = await asyncio.gather(*(batching.embed([f"query {n}"]) for n in range(100)))
    alone = await embedder.embed([f"query {n}" for n in range(100)])
    assert all(np.array_equal(vector, one) for (vector,), one in zip(vectors, alone, strict=True))
    assert sizes == [(32, 32), (32, 32), (32, 32), (4, 4)]
    # Four of ours, and four of those that were embedded alone, for the comparison.
    assert provider.bill["by_kind"] == {"embeddings": 8} and provider.bill["texts"] == 200


async def test_what_comes_while_a_call_is_under_way_goes_in_the_next_one() -> None:
    held = Held()
    batching = BatchingEmbedder(held, wait_s=0.02)
    first = asyncio.create_task(batching.embed(["a"]))
    await until(lambda: held.calls == [["a"]], "a text that comes alone is sent at once")
    later = [asyncio.create_task(batching.embed([text])) for text in ("b", "c", "b")]
    await until(lambda: len(held.calls) == 2, "the others are sent after the wait, though the first call is not over")
    assert held.calls[1] == ["b", "c"]
    held.free.set()
    assert len(await first) == 1
    vectors = await asyncio.gather(*later)
    assert np.array_equal(vectors[0][0], vectors[2][0])


async def test_a_long_document_fills_batches_beside_others() -> None:
    held = Held()
    held.free.set()
    batching = BatchingEmbedder(held, most=4)
    long, short = await asyncio.gather(batching.embed([f"p{n}" for n in range(6)]), batching.embed(["q"]))
    assert [len(call) for call in held.calls] == [4, 3] and (len(long), len(short)) == (6, 1)


async def test_a_text_that_is_refused_is_its_own_askers_trouble() -> None:
    held = Held()
    held.free.set()
    batching = BatchingEmbedder(held)
    good, bad, other = await asyncio.gather(
        batching.embed(["a", "b"]), batching.embed(["bad", "c"]), batching.embed(["d"]), return_exceptions=True
    )
    assert isinstance(good, list) and isinstance(other, list)
    assert isinstance(bad, PermanentProviderError)
    assert held.calls == [["a", "b", "bad", "c", "d"], ["a", "b"], ["bad", "c"], ["d"]]


async def test_an_endpoint_that_is_away_is_away_for_all() -> None:
    held = Held()
    held.free.set()
    batching = BatchingEmbedder(held)
    results = await asyncio.gather(batching.embed(["away"]), batching.embed(["a"]), return_exceptions=True)
    assert [type(result) for result in results] == [DependencyDownError] * 2 and len(held.calls) == 1


async def test_who_gives_up_takes_along_what_was_not_sent() -> None:
    held = Held()
    batching = BatchingEmbedder(held, wait_s=0.05)
    first = asyncio.create_task(batching.embed(["a"]))
    await until(lambda: len(held.calls) == 1, "the first call is under way")
    given_up, stays = asyncio.create_task(batching.embed(["b"])), asyncio.create_task(batching.embed(["c"]))
    await asyncio.sleep(0)
    given_up.cancel()
    held.free.set()
    assert len(await stays) == 1 and len(await first) == 1
    assert held.calls == [["a"], ["c"]]
    with pytest.raises(asyncio.CancelledError):
        await given_up


async def test_closing_ends_what_is_under_way() -> None:
    held = Held()
    batching = BatchingEmbedder(held)
    waiting = asyncio.create_task(batching.embed(["a"]))
    await until(lambda: len(held.calls) == 1, "the call is under way")
    await batching.close()
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_a_cache_before_it_asks_only_for_what_it_lacks() -> None:
    held = Held()
    held.free.set()
    cached = CachedEmbedder(BatchingEmbedder(held))
    await cached.embed(["a", "b"])
    await cached.embed(["b", "c"])
    assert held.calls == [["a", "b"], ["c"]] and await cached.embed([]) == []
