"""Replies that are judged: paid and wrong, asked again, given up; and what the journal then says of them."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from processors.complete.call import Caller
from processors.complete.cancellation import Cancellation
from processors.complete.judging import Accept, AskAgain, Judgement, Refuse, judged_wrong
from processors.complete.live import Pace
from processors.complete.payload import build_payload
from processors.complete.places import Places
from processors.complete.pricing import upper_bound
from processors.complete.reconcile import FakeReconciler
from processors.complete.retry import Backoff
from processors.complete.task import Task
from processors.complete.unresolved import Settler
from processors.complete.unwritten import Unwritten
from processors.event import Incoming
from processors.failpoints import Unarmed
from processors.journal import AttemptRow, CallFailure, Done, Ended, Granted, LeaseKeeper, Offer, Settled
from processors.journal.protocol import INVALID_OUTPUT
from processors.model.port import ModelReply
from processors.routing import Ask, Pool, Seat
from schemas.errors import TransientProviderError
from schemas.records import Enrichment, Hedge
from tests.support.completing import KEY, Bench, event
from tests.support.enrichments import ACCEPTED
from tests.support.targets import target

WRONG = CallFailure(kind="failed", code=INVALID_OUTPUT, error_class="permanent", message="the reply is wrong")


def _reply(text: str, prompt: int = 100, completion: int = 10) -> ModelReply:
    usage = {"prompt_tokens": prompt, "completion_tokens": completion}
    return ModelReply(text=text, finish_reason="stop", model="m1", usage=usage, duration_ms=1.0)


class Scene:
    """A caller on the shipped fakes, whose judge takes ``good``."""

    def __init__(
        self, *replies: ModelReply | Exception, repeats: int = 2, ends_in_s: float = 60.0, **route: Any
    ) -> None:
        self.bench = Bench(**route)
        left = list(replies)
        self.bench.model.script = lambda _: left.pop(0)
        self.repeats, self.ends_in_s = repeats, ends_in_s
        self.incoming: Incoming[Enrichment] = event()
        self.payload = build_payload(self.incoming.record, self.bench.route.deployment)
        self.asked = {
            **self.payload,
            "messages": [*self.payload["messages"], {"role": "user", "content": "again" * 99}],
        }

    def judge(self, reply: ModelReply, attempts: Sequence[AttemptRow]) -> Judgement:
        if reply.text == "good":
            return Accept(reply=reply)
        if judged_wrong(attempts) < self.repeats:
            return AskAgain(payload=self.asked, otherwise=WRONG)
        return Refuse(failure=WRONG)

    def offer(self) -> Offer:
        bound = upper_bound(self.payload, self.bench.route.deployment, 512, at=ACCEPTED)
        return Offer(key=KEY, input_hash="h", input=self.incoming.raw, target=target(bound), max_attempts=3)

    async def claim(self, owner: str = "w1") -> Done | Ended | Granted:
        claim = await self.bench.journal.claim(self.offer(), owner=owner)
        assert isinstance(claim, Done | Ended | Granted)
        return claim

    async def run(self, owner: str = "w1") -> Done | Ended:
        granted = await self.claim(owner)
        assert isinstance(granted, Granted)
        bench, unwritten = self.bench, Unwritten(self.bench.journal)
        pool = Pool(bench.route.deployments)
        caller = Caller(
            bench.journal,
            bench.model,
            keeper=LeaseKeeper(bench.journal, owner=owner, then=unwritten.book_all),
            unwritten=unwritten,
            clock=bench.clock,
            observer=bench.heard,
            failpoints=Unarmed(),
            backoff=Backoff(first_s=0.001, longest_s=0.002),
            random_=random.Random(1),
            sink=None,
            pace=Pace(),
            places=Places(pool, bench.clock),
            settler=Settler(FakeReconciler(), bench.journal, unwritten, bench.clock),
        )
        seat = await pool.take(Ask(group=bench.route.own))
        assert isinstance(seat, Seat)
        task = Task(
            route=bench.route,
            payload=self.payload,
            stored=self.incoming,
            streamed=False,
            cancellation=Cancellation(bench.control, "acme", "r1"),
            ends=time.monotonic() + self.ends_in_s,
            encode=_encode,
            judge=self.judge,
            seat=seat,
        )
        await caller.run(granted, task, since=time.monotonic())
        outcome = await bench.journal.outcome_of(KEY)
        assert outcome is not None
        return outcome

    @property
    def sent(self) -> list[Any]:
        return [call.payload for call in self.bench.model.calls]


def _encode(
    reply: ModelReply, attempts: tuple[AttemptRow, ...], settled: Settled, *, hedge: Hedge | None = None
) -> bytes:
    return f"{reply.text} after {len(attempts)}, {settled.state}".encode()


async def test_a_wrong_reply_is_paid_and_booked_as_failed_and_asked_again_with_another_payload() -> None:
    scene = Scene(_reply("bad", 100, 10), _reply("good", 200, 20))
    done = await scene.run()

    assert isinstance(done, Done)
    assert done.result == b"good after 2, done"
    first, second = done.attempts
    assert (first.state, first.error_code, first.error_class) == ("failed", "invalid_output", "permanent")
    assert first.usage is not None
    assert (first.usage.prompt_tokens, first.usage.completion_tokens, first.estimated) == (100, 10, False)
    assert first.cost_usd == Decimal("0.00045")
    assert (second.state, second.cost_usd) == ("done", Decimal("0.0009"))
    assert scene.sent == [scene.payload, scene.asked]
    # The longer payload can cost more: a crash would book the repeat at its own bound.
    assert second.target.bound.usd > first.target.bound.usd


async def test_tokens_that_a_provider_does_not_tell_are_estimated_from_what_each_attempt_sent() -> None:
    scene = Scene(replace(_reply("bad"), usage=None), replace(_reply("good"), usage=None))
    record = scene.incoming.record
    record = replace(record, grounding=replace(record.grounding, prompt_tokens_estimate=7))
    scene.incoming = replace(scene.incoming, record=record)
    done = await scene.run()
    first, second = (row.usage for row in done.attempts)
    assert first is not None and second is not None
    assert first.prompt_tokens == 7 and second.prompt_tokens > 100


async def test_the_last_wrong_reply_ends_the_call_and_every_attempt_is_paid() -> None:
    scene = Scene(_reply("bad"), _reply("bad"), _reply("bad"), repeats=2)
    ended = await scene.run()

    assert isinstance(ended, Ended)
    assert ended.failure == WRONG
    assert [row.cost_usd for row in ended.attempts] == [Decimal("0.00045")] * 3


async def test_wrong_replies_do_not_use_up_the_attempts_of_a_route() -> None:
    scene = Scene(
        _reply("bad"),
        TransientProviderError("overloaded", "busy", http_status=503),
        _reply("bad"),
        _reply("good"),
        max_attempts=2,
    )
    done = await scene.run()

    assert isinstance(done, Done)
    assert [row.error_code for row in done.attempts] == ["invalid_output", "overloaded", "invalid_output", None]
    # What failed at the provider is sent again as it was.
    assert scene.sent == [scene.payload, scene.asked, scene.asked, scene.asked]


async def test_there_is_no_repeat_without_time_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(_reply("bad"))
    judge = scene.judge

    def at_the_end(reply: ModelReply, attempts: Sequence[AttemptRow]) -> Judgement:
        monkeypatch.setattr("processors.complete.timing.SHORTEST_CALL_S", 1000.0)
        return judge(reply, attempts)

    scene.judge = at_the_end  # type: ignore[method-assign]
    ended = await scene.run()

    assert isinstance(ended, Ended)
    assert ended.failure == WRONG
    assert len(scene.sent) == 1


async def test_a_request_whose_ttl_is_over_is_not_asked_again() -> None:
    scene = Scene(_reply("bad"))
    scene.incoming = event(expires_at=ACCEPTED + timedelta(seconds=30))
    judge = scene.judge

    def late(reply: ModelReply, attempts: Sequence[AttemptRow]) -> Judgement:
        scene.bench.clock.advance(31.0)
        return judge(reply, attempts)

    scene.judge = late  # type: ignore[method-assign]
    ended = await scene.run()

    assert isinstance(ended, Ended)
    assert ended.failure.code == "expired"
    assert ended.attempts[0].error_code == "invalid_output"


async def test_a_worker_lost_in_a_repeat_leaves_the_first_payload_and_the_count_of_repeats_to_the_next() -> None:
    scene = Scene(_reply("bad"), _reply("bad"), repeats=1)
    scene.bench.model.hold = asyncio.Event()
    scene.bench.model.hold.set()
    judge = scene.judge

    def then_hang(reply: ModelReply, attempts: Sequence[AttemptRow]) -> Judgement:
        assert scene.bench.model.hold is not None
        scene.bench.model.hold.clear()
        return judge(reply, attempts)

    scene.judge = then_hang  # type: ignore[method-assign]
    lost = asyncio.create_task(scene.run("w1"))
    while len(scene.sent) < 2:
        await asyncio.sleep(0)
    lost.cancel()
    with pytest.raises(asyncio.CancelledError):
        await lost
    scene.bench.clock.advance(60.0)
    scene.bench.model.hold.set()
    scene.judge = judge  # type: ignore[method-assign]
    ended = await scene.run("w2")

    assert scene.sent == [scene.payload, scene.asked, scene.payload]
    assert isinstance(ended, Ended)
    assert ended.failure == WRONG
    wrong, unknown, refused = ended.attempts
    assert [row.error_code for row in ended.attempts] == ["invalid_output", "worker_lost", "invalid_output"]
    assert unknown.cost_usd == unknown.target.bound.usd > wrong.target.bound.usd
    assert refused.target.bound == wrong.target.bound
