"""What embedding costs is booked call by call and asker by asker, measured by the provider's own bill."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from processors.clock import FakeClock
from processors.embeddings import CachedEmbedder, EmbeddingPolicy, OpenAIEmbedder
from processors.embeddings_batch import BatchingEmbedder
from processors.prices import Price
from processors.spending.metered import Metered, Terms
from processors.spending.payer import Payer
from processors.spending.port import MemorySpends
from processors.spending.split import split
from schemas.codec import Codec
from schemas.errors import DependencyDownError, PermanentProviderError, TransientProviderError
from schemas.records import Cost, Meta
from tests.provider.here import Here, serving

CODEC = Codec.offline()
NOW = datetime(2026, 1, 1, tzinfo=UTC)
PRICE = Price(prompt=Decimal("0.02"), name="embeddings.price")
DIMENSION = 8


def payer(request_id: str = "r1", **fields: Any) -> Payer:
    meta = Meta(event_id=f"e-{request_id}", request_id=request_id, tenant="acme", lane="live", accepted_at=NOW)
    return Payer(meta=meta, stage="enrich", version="1", **{"team": "search", "route": "default", **fields})


class Scene:
    """A provider, a book, and workers that share both."""

    def __init__(self, here: Here) -> None:
        self.here, self.clock = here, FakeClock(NOW)
        self.spends = MemorySpends(self.clock)
        self._endpoints: list[OpenAIEmbedder] = []

    def worker(self, *, deadline_s: float = 10.0, model: str = "e") -> BatchingEmbedder:
        policy = EmbeddingPolicy(model=model, dimension=DIMENSION, deadline_s=deadline_s)
        endpoint = OpenAIEmbedder(policy, base_url=self.here.base_url, api_key="none")
        self._endpoints.append(endpoint)
        terms = Terms(tariff=PRICE, provider="openai", deadline_s=deadline_s)
        metered = Metered(endpoint, self.spends, terms, codec=CODEC, clock=self.clock)
        return BatchingEmbedder(metered, booked=True)

    @property
    def told(self) -> list[Cost]:
        return [CODEC.decode(event, Cost) for event in self.spends.events()]

    @property
    def calls(self) -> int:
        return self.here.provider.log.bill.paid

    @property
    def tokens(self) -> int:
        return self.here.provider.log.bill.tokens["prompt"]

    async def close(self) -> None:
        for one in self._endpoints:
            await one.close()


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    async with serving(dimension=DIMENSION) as here:
        opened = Scene(here)
        yield opened
        await opened.close()


@given(st.integers(0, 10**9), st.lists(st.integers(0, 10_000), min_size=1, max_size=40))
def test_parts_are_whole_and_together_exactly_what_the_provider_counted(tokens: int, weights: list[int]) -> None:
    parts = split(tokens, weights)
    assert sum(parts) == tokens and len(parts) == len(weights) and min(parts) >= 0
    if sum(weights):
        exact = [tokens * weight / sum(weights) for weight in weights]
        assert all(abs(part - share) <= 1 for part, share in zip(parts, exact, strict=True))


async def test_those_who_share_a_call_pay_their_part_of_it_and_together_what_it_cost(scene: Scene) -> None:
    worker = scene.worker()
    texts = {f"r{n}": " ".join(["word"] * (n + 1)) for n in range(7)}
    await asyncio.gather(*(worker.embed([text], [payer(name)]) for name, text in texts.items()))
    told = scene.told
    assert scene.calls == 1 and len(told) == 7
    assert sum(cost.usage.prompt_tokens for cost in told) == scene.tokens
    assert sum(cost.amount_usd for cost in told) == PRICE.amount(
        replace(told[0].usage, prompt_tokens=scene.tokens), NOW
    )
    by_request = {cost.meta.request_id: cost for cost in told}
    assert by_request["r6"].usage.prompt_tokens > by_request["r1"].usage.prompt_tokens
    cost = by_request["r3"]
    assert (cost.purpose, cost.state, cost.deployment, cost.provider, cost.model) == (
        "embedding",
        "done",
        "embeddings",
        "openai",
        "e",
    )
    assert (cost.team, cost.route, cost.estimated, cost.price_version[:8]) == ("search", "default", False, "settings")
    assert cost.meta.event_id == cost.attempt_id == payer("r3").spender


async def test_a_redelivery_finds_what_was_bought_and_its_event_stays_the_same(scene: Scene) -> None:
    [first] = await scene.worker().embed(["a question"], [payer()])
    before = scene.spends.events()
    scene.clock.advance(3600)
    [again] = await scene.worker().embed(["a question"], [replace(payer(), version="1")])
    assert (again == first).all() and scene.calls == 1
    assert scene.spends.events() == before


async def test_who_shared_a_text_that_another_paid_for_buys_neither_it_nor_the_rest_again(scene: Scene) -> None:
    worker = scene.worker()
    first, [_, shared, own] = await asyncio.gather(
        worker.embed(["shared", "one"], [payer("r1")] * 2),
        worker.embed(["the", "shared", "two"], [payer("r2")] * 3),
    )
    assert scene.calls == 1 and scene.tokens == 4
    before = scene.spends.events()
    again = await scene.worker().embed(["two", "shared"], [payer("r2")] * 2)
    assert (again[0] == own).all() and (again[1] == shared).all() and (shared == first[0]).all()
    assert scene.calls == 1 and scene.spends.events() == before


async def test_who_wanted_nothing_else_spends_nothing_then_nor_when_it_comes_back(scene: Scene) -> None:
    worker = scene.worker()
    await asyncio.gather(*(worker.embed(["shared"], [payer(name)]) for name in ("r1", "r2", "r3")))
    for name in ("r2", "r3", "r2"):
        await scene.worker().embed(["shared"], [payer(name)])
    assert scene.calls == 1 and [cost.meta.request_id for cost in scene.told] == ["r1"]
    assert len(scene.spends.rows) == 3


async def test_of_texts_that_are_asked_for_again_beside_new_ones_only_the_new_are_bought(scene: Scene) -> None:
    await scene.worker().embed(["old"], [payer()])
    await scene.worker().embed(["old", "new"], [payer()] * 2)
    await scene.worker().embed(["new", "old"], [payer()] * 2)
    assert scene.calls == 2 and scene.tokens == 2
    assert [cost.usage.prompt_tokens for cost in scene.told] == [1, 1]


async def test_another_model_s_vectors_are_not_taken(scene: Scene) -> None:
    await scene.worker().embed(["text"], [payer()])
    await scene.worker(model="f").embed(["text"], [payer()])
    assert scene.calls == 2


async def test_another_text_of_the_same_event_is_a_further_attempt(scene: Scene) -> None:
    worker = scene.worker()
    for text in ("one", "two"):
        await worker.embed([text], [payer(keeps=False)])
    assert [(cost.ordinal, cost.meta.event_id == payer().attempt(cost.ordinal).event_id) for cost in scene.told] == [
        (0, True),
        (1, True),
    ]


@pytest.mark.parametrize(
    ("fault", "error", "state", "paid"),
    [
        ("400", PermanentProviderError, "failed", False),
        ("500", TransientProviderError, "failed", False),
        ("garbage", TransientProviderError, "failed", True),
        ("disconnect", TransientProviderError, "unknown", True),
        ("hang", TransientProviderError, "unknown", True),
        ("504", DependencyDownError, "unknown", True),
    ],
)
async def test_a_failed_attempt_is_booked_at_nothing_or_at_the_most_it_can_have_cost(
    scene: Scene, fault: str, error: type[Exception], state: str, paid: bool
) -> None:
    text = f"[[fault:{fault}]] hello"
    with pytest.raises(error):
        await scene.worker(deadline_s=1.0 if fault == "hang" else 10.0).embed([text], [payer()])
    [cost] = scene.told
    assert (cost.state, cost.upper_bound, cost.usage.prompt_tokens > 0, cost.amount_usd > 0) == (
        state,
        paid,
        paid,
        paid,
    )
    assert cost.error_code and cost.usage.prompt_tokens in (0, len(text) + 16)


@pytest.mark.parametrize("fault", ["429", "503"])
async def test_an_endpoint_that_is_busy_is_waited_for_and_books_nothing(scene: Scene, fault: str) -> None:
    worker = scene.worker()
    for _ in range(3):
        with pytest.raises(DependencyDownError):
            await worker.embed([f"[[fault:{fault}]] hello"], [payer()])
    assert not scene.told and not scene.spends.rows


async def test_what_one_asker_fails_for_is_booked_to_each_and_tried_apart(scene: Scene) -> None:
    worker = scene.worker()
    results = await asyncio.gather(
        worker.embed(["[[fault:400]] bad"], [payer("bad")]),
        worker.embed(["good"], [payer("good")]),
        return_exceptions=True,
    )
    assert isinstance(results[0], PermanentProviderError) and not isinstance(results[1], BaseException)
    states = {(cost.meta.request_id, cost.ordinal): cost.state for cost in scene.told}
    assert states == {("bad", 0): "failed", ("bad", 1): "failed", ("good", 0): "failed", ("good", 1): "done"}
    assert sum(cost.usage.prompt_tokens for cost in scene.told) == scene.tokens


async def test_a_worker_that_ends_in_the_call_leaves_its_upper_bound_to_be_told(scene: Scene) -> None:
    class Ends:
        model, dimension = "e", DIMENSION

        async def ask(self, texts: Sequence[str]) -> Any:
            raise asyncio.CancelledError

    ending = Metered(Ends(), scene.spends, Terms(tariff=PRICE), codec=CODEC, clock=scene.clock)
    with pytest.raises(asyncio.CancelledError):
        await ending.embed(["hello"], [payer()])
    assert not await scene.spends.take("live", limit=10, hold_s=30), "it may still be under way"
    scene.clock.advance(600)
    [untold] = await scene.spends.take("live", limit=10, hold_s=30)
    cost = CODEC.decode(untold.event, Cost)
    assert (cost.state, cost.upper_bound, cost.error_code) == ("unknown", True, "worker_lost")
    await scene.worker().embed(["hello"], [payer()])
    assert [one.state for one in scene.told] == ["unknown", "done"] and scene.calls == 1


async def test_nothing_is_sent_while_the_book_is_away(scene: Scene) -> None:
    scene.spends.down = True
    with pytest.raises(DependencyDownError):
        await scene.worker().embed(["hello"], [payer()])
    assert scene.calls == 0


async def test_a_text_that_two_ask_for_at_once_is_the_first_ones_to_pay_and_a_known_one_nobodys(scene: Scene) -> None:
    worker = CachedEmbedder(scene.worker())
    await asyncio.gather(worker.embed(["same"], [payer("r1")]), worker.embed(["same"], [payer("r2")]))
    await worker.embed(["same"], [payer("r3")])
    assert [cost.meta.request_id for cost in scene.told] == ["r1"] and scene.calls == 1
