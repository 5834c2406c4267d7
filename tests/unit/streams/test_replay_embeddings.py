"""What a replay pays for embeddings: within its limit, never what was bought before, and told as events of the run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from processors.clock import FakeClock
from processors.control import FakeControl
from processors.embeddings import EmbeddingPolicy, HashingEmbedder, OpenAIEmbedder
from processors.embeddings_batch import BatchingEmbedder
from processors.enrich.stage import Enrich
from processors.evaluate.material import material
from processors.evaluate.policy import EvaluatePolicy
from processors.evaluate.scoring import embedded, score
from processors.event import Incoming
from processors.passages import FakePassages
from processors.prices import Price
from processors.prompts import FakePrompts
from processors.spending.metered import Metered, Terms, most_tokens
from processors.spending.payer import Payer
from processors.spending.port import MemorySpends
from schemas.codec import Codec
from schemas.errors import DependencyDownError, TransientProviderError
from schemas.records import Admitted, Answer, Cost, Meta, Passage, Text
from streams.replay.calls import Limits
from streams.replay.embeddings import bounds_of
from streams.replay.limits import LimitReachedError, Pace, Purse
from streams.replay.sending import FakeSender
from streams.replay.spending import HeldSpends, TellingSender
from tests.provider.here import Here, serving
from tests.support.enrichments import enrichment
from tests.support.settings import NOWHERE, bare_settings

CODEC, NOW = Codec.offline(), datetime(2026, 1, 1, tzinfo=UTC)
# A dollar for a token.
TERMS = Terms(tariff=Price(prompt=Decimal(1_000_000), name="embeddings.price"))
LANE = "replay-r1"
PAID = bare_settings(embeddings={"base_url": NOWHERE, "model": "e1", "price": 1_000_000})


def payer(number: int, lane: str = LANE, run: str = "r1") -> Payer:
    meta = Meta(event_id=f"e{number}", request_id=f"r{number}", tenant="acme", lane=lane, run=run, accepted_at=NOW)
    return Payer(meta=meta, stage="enrich", version="1", team="search", feature="docs")


class Scene:
    """A provider, the book of embeddings, and a run with a limit."""

    def __init__(self, here: Here) -> None:
        self.here, self.clock = here, FakeClock(NOW)
        self.book = MemorySpends(self.clock)
        self.endpoint = OpenAIEmbedder(
            EmbeddingPolicy(model="e1", dimension=384), base_url=here.base_url, api_key="none"
        )

    def embedder(
        self, purse: Purse, *, earlier: Sequence[tuple[str, str]] = (), may_fail: bool = True
    ) -> BatchingEmbedder:
        held = HeldSpends(self.book, purse, stage="enrich", earlier=earlier, may_fail=may_fail)
        return BatchingEmbedder(Metered(self.endpoint, held, TERMS, codec=CODEC, clock=self.clock), booked=True)

    def live(self) -> Metered:
        return Metered(self.endpoint, self.book, TERMS, codec=CODEC, clock=self.clock)

    def telling(self, sender: FakeSender, known: frozenset[str] = frozenset()) -> TellingSender:
        return TellingSender(sender, self.book, CODEC, lane=LANE, prefix="", now=self.clock.now, known=known)

    @property
    def texts(self) -> int:
        return self.here.provider.log.bill.texts


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    async with serving() as here:
        opened = Scene(here)
        yield opened
        await opened.endpoint.close()


def costs(sender: FakeSender) -> list[Cost]:
    return [CODEC.decode(one.value or b"", Cost) for one in sender.sent]


async def test_an_embedding_is_held_at_its_bound_and_settled_to_what_it_was(scene: Scene) -> None:
    purse = Purse(Decimal(1000), Decimal(0))
    bound = Decimal(most_tokens(["a question of words"]))
    assert await purse.open("e1", bound)
    purse.keep_for_embeddings("e1", bound)
    await scene.embedder(purse).embed(["a question of words"], [payer(1)])
    spent = purse.bought("e1")
    assert 0 < spent < bound
    assert spent == await scene.book.spent(LANE)
    purse.settle("e1", spent)
    assert purse.spent == spent


async def test_what_the_limit_leaves_no_room_for_is_not_sent(scene: Scene) -> None:
    purse = Purse(Decimal(10), Decimal(0))
    with pytest.raises(LimitReachedError):
        await scene.embedder(purse).embed(["a question of words"], [payer(1)])
    assert (scene.texts, scene.book.rows) == (0, {})
    # Where a reply is scored that is paid already, the scores are bought all the same, and nothing else after them.
    await scene.embedder(purse, may_fail=False).embed(["a question of words"], [payer(2)])
    assert scene.texts == 1
    assert not await purse.open("e3", Decimal(10))


async def test_another_attempt_after_one_that_may_be_paid_needs_room_of_its_own(scene: Scene) -> None:
    text = "[[fault:garbage]] words"
    bound = Decimal(most_tokens([text]))
    purse = Purse(bound + 1, Decimal(0))
    assert await purse.open("e1", bound)
    purse.keep_for_embeddings("e1", bound)
    embedder = scene.embedder(purse)
    with pytest.raises(TransientProviderError):
        await embedder.embed([text], [payer(1)])
    assert (scene.texts, await scene.book.spent(LANE)) == (1, bound)
    with pytest.raises(LimitReachedError):
        await embedder.embed([text], [payer(1)])
    assert scene.texts == 1


async def test_an_attempt_that_cost_nothing_leaves_its_room_to_the_next(scene: Scene) -> None:
    text = "[[fault:500,ok]] words"
    bound = Decimal(most_tokens([text]))
    purse = Purse(bound, Decimal(0))
    assert await purse.open("e1", bound)
    purse.keep_for_embeddings("e1", bound)
    embedder = scene.embedder(purse)
    with pytest.raises(TransientProviderError):
        await embedder.embed([text], [payer(1)])
    assert not await asyncio.wait_for(_opens(purse), 20), "nobody else has it meanwhile"
    await embedder.embed([text], [payer(1)])
    assert 0 < purse.bought("e1") < bound


async def _opens(purse: Purse) -> bool:
    waiting = asyncio.ensure_future(purse.open("e2", Decimal(1)))
    await asyncio.sleep(0)
    waiting.cancel()
    return waiting.done()


async def test_what_live_or_an_earlier_run_bought_for_the_event_is_taken_from_there(scene: Scene) -> None:
    [bought] = await scene.live().embed(["a question"], [payer(1, "live", "")])
    purse = Purse(Decimal(1), Decimal(0))
    embedder = scene.embedder(purse, earlier=[("live", ""), ("replay-r0", "r0")])
    [found] = await embedder.embed(["a question"], [payer(1)])
    assert (found == bought).all()
    assert (scene.texts, purse.spent, await scene.book.spent(LANE)) == (1, 0, 0)
    with pytest.raises(LimitReachedError):
        # Another text of the same event was not bought.
        await embedder.embed(["another question"], [payer(1)])


async def test_a_resumed_run_finds_what_it_bought_itself(scene: Scene) -> None:
    await scene.embedder(Purse(None, Decimal(0))).embed(["a question"], [payer(1)])
    spent = await scene.book.spent(LANE)
    purse = Purse(spent, spent)
    purse_before = purse.spent
    await scene.embedder(Purse(None, spent)).embed(["a question"], [payer(1)])
    assert (scene.texts, await scene.book.spent(LANE), purse_before) == (1, spent, spent)


async def test_costs_are_told_in_the_run_s_lane_once_with_the_request_s_labels(scene: Scene) -> None:
    await scene.embedder(Purse(None, Decimal(0))).embed(["a question"], [payer(1)])
    sender = FakeSender()
    ends = await scene.telling(sender).settle()
    [cost] = costs(sender)
    assert (cost.meta.lane, cost.meta.run, cost.purpose, cost.team, cost.feature) == (
        LANE, "r1", "embedding", "search", "docs",
    )  # fmt: skip
    assert [one.topic for one in sender.sent] == [f"{LANE}.costs"]
    assert ends == {f"{LANE}.costs": {0: 1}}
    assert cost.amount_usd == await scene.book.spent(LANE)
    await scene.telling(sender).settle()
    assert len(sender.sent) == 1


async def test_a_cost_that_was_published_before_a_kill_is_not_published_again(scene: Scene) -> None:
    await scene.embedder(Purse(None, Decimal(0))).embed(["a question"], [payer(1)])
    sender = FakeSender()
    sender.down = True
    with pytest.raises(DependencyDownError):
        await scene.telling(sender).settle()
    written, again = costs(sender), FakeSender()
    await scene.telling(again, frozenset(one.meta.event_id for one in written)).settle()
    assert (len(written), again.sent) == (1, [])


async def test_an_attempt_that_a_killed_process_left_open_is_told_at_its_bound(scene: Scene) -> None:
    opening = asyncio.ensure_future(scene.embedder(Purse(None, Decimal(0))).embed(["a question"], [payer(1)]))
    while not scene.book.rows:
        await asyncio.sleep(0)
    opening.cancel()
    sender = FakeSender()
    await scene.telling(sender).settle()
    assert sender.sent == [], "somebody may still have it in hand"
    await scene.telling(sender).settle_all()
    [cost] = costs(sender)
    assert (cost.state, cost.upper_bound, cost.amount_usd) == ("unknown", True, Decimal(most_tokens(["a question"])))
    assert await scene.book.spent(LANE) == cost.amount_usd


async def test_no_event_is_begun_whose_embeddings_do_not_fit() -> None:
    bounds = bounds_of("enrich", PAID, FakeClock(NOW))
    assert bounds is not None
    one = admitted("a question of words")
    most = bounds.of(one).most_usd
    limits = Limits(Pace(None), Purse(most + most / 2, Decimal(0)), None, None, None, bounds)
    assert await limits.begin(one)
    second = replace(one, meta=replace(one.meta, event_id="other"))
    waiting = asyncio.ensure_future(limits.begin(second))
    await asyncio.sleep(0)
    assert not waiting.done(), "the first may come to its bound"
    limits.done(one, most)
    assert not await waiting


def admitted(text: str) -> Incoming[Admitted]:
    one = enrichment("r1", text)
    record = Admitted(meta=one.meta, request=one.request, admission=replace(one.admission, expires_at=None))
    return Incoming(record=record, meta=one.meta, raw=b"", appended_at=NOW)


async def test_the_bound_of_a_question_is_that_of_what_the_stage_embeds() -> None:
    bounds = bounds_of("enrich", PAID, FakeClock(NOW))
    assert bounds is not None
    one, embedder = admitted("Wie lang ist der Fluß? " * 200), HashingEmbedder()
    stage = Enrich(FakePassages(), embedder, prompts=FakePrompts(), control=FakeControl(), clock=FakeClock(NOW))
    await stage(one)
    found = bounds.of(one)
    assert (found.texts, found.most_usd) == (1, Decimal(most_tokens(embedder.embedded)))
    assert 0 < found.likely_usd < found.most_usd
    off = replace(one.record.request, retrieval=replace(one.record.request.retrieval, enabled=False))
    assert bounds.of(replace(one, record=replace(one.record, request=off))).texts == 0


def answer(**fields: Any) -> Answer:
    passage = Passage(
        passage_id="p1", document_id="d1", namespace="n", number=1, digest="ab", score=0.9,
        text=Text(inline="Lamps are lit at dusk. They go out at dawn."),
    )  # fmt: skip
    values: dict[str, Any] = {"status": "answered", "text": Text(inline="At dusk. Not before."), "passages": (passage,)}
    meta = Meta(event_id="a1", request_id="r1", tenant="acme", lane="live")
    return Answer(meta=meta, question=Text(inline="When are lamps lit?"), route="default", **{**values, **fields})


async def test_the_bound_of_an_answer_is_that_of_what_its_scores_embed() -> None:
    settings = PAID.model_copy(update={"evaluate": PAID.evaluate.model_copy(update={"rate": 1.0})})
    bounds = bounds_of("evaluate", settings, FakeClock(NOW))
    assert bounds is not None
    one, embedder = answer(), HashingEmbedder()
    await score(material(one), embedder, EvaluatePolicy(), payer(1))
    assert embedder.embedded == embedded(material(one), EvaluatePolicy())
    incoming = Incoming(record=one, meta=one.meta, raw=b"", appended_at=NOW)
    found = bounds.of(incoming)
    # Of equal ones one is sent.
    sent = set(embedder.embedded)
    assert (found.texts, found.most_usd) == (len(sent), Decimal(most_tokens(sent)))
    assert bounds.of(replace(incoming, record=answer(status="blocked"))).texts == 0


def test_the_bound_of_a_reply_s_scores_holds_whatever_is_evaluated_later() -> None:
    model = {"base_url": NOWHERE, "model": "m"}
    priced = bare_settings(
        embeddings={"base_url": NOWHERE, "model": "e1", "price": 1_000_000},
        deployments={"small": model, "big": {**model, "model": "m2"}},
        routes={"default": {"deployment": "small", "cascade": {"to": ["big"], "groundedness": 0.5}}},
    )
    record = enrichment("r1")
    asked = replace(record, grounding=replace(record.grounding, passages=answer().passages))
    incoming = Incoming(record=asked, meta=asked.meta, raw=b"", appended_at=NOW)
    found = []
    for on in (True, False):
        evaluate = priced.evaluate.model_copy(update={"groundedness": on, "relevance": on})
        bounds = bounds_of("complete", priced.model_copy(update={"evaluate": evaluate}), FakeClock(NOW))
        assert bounds is not None
        found.append(bounds.of(incoming))
    assert found[0].most_usd > 0 and found[0] == found[1]


def test_what_costs_nothing_is_counted_and_never_bounds_a_run() -> None:
    free = bare_settings()
    assert bounds_of("enrich", free, FakeClock(NOW)) is None
    counted = bounds_of("enrich", free, FakeClock(NOW), free=True)
    assert counted is not None
    found = counted.of(admitted("words"))
    assert (found.texts, found.most_usd) == (1, 0)


def test_what_makes_no_calls_needs_no_key_of_a_provider() -> None:
    model = {"base_url": "https://api.example.com/v1", "model": "m1", "api_key_env": "HEADRACE_TEST_NO_SUCH_KEY"}
    settings = bare_settings(embeddings={"base_url": NOWHERE, "model": "e1", "price": 1}, deployments={"local": model})
    for stage in ("enrich", "evaluate"):
        assert bounds_of(stage, settings, FakeClock(NOW)) is not None
