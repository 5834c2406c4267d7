"""What a run paid is in the ledger however it ended, each attempt once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from decimal import Decimal
from typing import Any, cast

import pytest

from processors.account.ledger import FakeLedger
from processors.account.unbooked import FakeBooks
from processors.clock import FakeClock
from processors.complete.records import costs_of
from processors.journal import CallKey, Granted, MemoryJournal, Offer, Settled
from processors.journal.late import FakeLateOutcomes, LateOutcome
from processors.journal.protocol import settle_late
from processors.spending.port import MemorySpends, Opening
from schemas.codec import Codec
from schemas.errors import ConfigurationError, DependencyDownError, FencedError, PoisonError
from schemas.records import Cost, Enrichment, Meta, Usage
from streams.producer import Outgoing
from streams.replay import booking as bookings
from streams.replay import desk as desks
from streams.replay.booking import Booking, FakeCostTopic
from streams.replay.conduct import Conductor
from streams.replay.desk import Desk
from streams.replay.run import Place, Progress, Run
from streams.replay.runs import FakeRuns
from streams.replay.work import Ended
from tests.support.enrichments import ACCEPTED, enrichment, incoming
from tests.support.settings import bare_settings
from tests.support.targets import target
from tests.unit.streams.test_replay_step import run_of

CODEC, RUN = Codec.offline(), run_of(stages=("complete", "account"))
TARGET = target("0.9")
DONE = Settled(state="done", cost_usd=Decimal("0.25"), usage=Usage(prompt_tokens=9, completion_tokens=3))
PAID, AT_BOUND = ("done", Decimal("0.25")), ("unknown", Decimal("0.9"))


class Scene:
    """A run's calls, embeddings, cost topic, and the ledger."""

    def __init__(self) -> None:
        self.clock, self.topic, self.ledger = FakeClock(ACCEPTED), FakeCostTopic(), FakeLedger()
        self.journal, self.spends = MemoryJournal(self.clock), MemorySpends(self.clock)
        self.late = FakeLateOutcomes()

    async def settle(self, *, over: bool = False, booked_to: int = 0, run: Run = RUN) -> None:
        books = FakeBooks(self.journal, self.ledger)
        ports = (self.topic, self.ledger, books, self.journal, self.late, self.spends)
        noted = Place(step=1, topic="replay-r1.costs", partition=0, first=0, end=booked_to, next=booked_to)
        booking = Booking(*ports, codec=CODEC, clock=self.clock, prefix="")
        await booking.settle(run, Progress((noted,)), since=ACCEPTED, over=over)

    async def call(self, request_id: str, *, done: bool) -> Granted:
        record = enrichment(request_id, lane="replay-r1")
        record = replace(record, meta=replace(record.meta, run="r1"))
        key = CallKey(tenant="acme", lane="replay-r1", run="r1", request_id=request_id)
        offer = Offer(key=key, target=TARGET, input=CODEC.encode(record), input_hash="h", max_attempts=3)
        granted = await self.journal.claim(offer, owner="leader")
        assert isinstance(granted, Granted)
        if done:
            await self.journal.finish(granted.lease, granted.attempt.attempt_id, DONE, b"result")
        return granted

    async def published(self, *calls: Granted) -> None:
        """As the run's own step tells what they cost."""
        for one in calls:
            event, key = incoming(CODEC.decode(one.input, Enrichment), CODEC), one.lease.key
            [cost] = costs_of(event, key, self.journal.attempts[key.call_id])
            await self.topic.send(RUN, [Outgoing("replay-r1.costs", b"k", CODEC.encode(cost), [])])

    def sent(self) -> list[Cost]:
        return [CODEC.decode(one.value or b"", Cost) for one in self.topic.sent]

    def booked(self) -> dict[str, tuple[str, Decimal]]:
        assert not any(standing.conflicts for _, standing in self.ledger.rows.values())
        return {one: (told.said.state, told.said.amount_usd) for one, (_, told) in self.ledger.rows.items()}


def id_of(granted: Granted) -> str:
    return granted.attempt.attempt_id


async def test_what_the_lane_holds_is_booked_from_where_the_last_step_was_and_again_without_harm() -> None:
    scene = Scene()
    first, second = await scene.call("a", done=True), await scene.call("b", done=True)
    await scene.published(first, second)
    for _ in range(2):
        await scene.settle()
        assert scene.booked() == {id_of(first): PAID, id_of(second): PAID}
    assert scene.ledger.batches == [2, 2]
    await scene.settle(booked_to=1)
    assert scene.ledger.batches == [2, 2, 1]
    assert [one.attempt_id for one in scene.sent()] == [id_of(first), id_of(second)]


async def test_a_paid_call_whose_event_was_never_published_is_told_and_an_open_one_waits_for_the_resume() -> None:
    scene = Scene()
    scene.clock.advance(30 * 24 * 3600)
    paid, open_ = await scene.call("a", done=True), await scene.call("b", done=False)
    await scene.settle()
    assert scene.booked() == {id_of(paid): PAID}
    [told] = scene.sent()
    assert (told.meta.event_id, told.meta.lane, told.meta.run, told.team) == (id_of(paid), "replay-r1", "r1", "search")
    assert scene.topic.sent[0].topic == "replay-r1.costs"
    assert scene.journal.attempts[open_.lease.key.call_id][0].state == "calling"
    # The run's own step tells it once more, as the same entry.
    await scene.published(paid)
    await scene.settle()
    assert scene.booked() == {id_of(paid): PAID}


async def test_what_was_open_at_a_kill_is_booked_unknown_at_its_bound_once_its_lease_is_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scene = Scene()
    granted = await scene.call("a", done=False)
    monkeypatch.setattr(bookings, "GRACE_S", 0.0)
    monkeypatch.setattr(bookings, "LOOK_S", 0.01)
    lease_s, scene.journal.lease_s = scene.journal.lease_s, 0.0
    with pytest.raises(ConfigurationError, match="still finishes 1 calls of r1"):
        await scene.settle(over=True)
    assert scene.booked() == {}
    scene.clock.advance(lease_s + 1)
    for _ in range(2):
        await scene.settle(over=True)
        assert scene.booked() == {id_of(granted): AT_BOUND}
    [told] = scene.sent()
    assert (told.upper_bound, told.error_code) == (True, "worker_lost")
    assert scene.journal.calls[granted.lease.key.call_id].state == "failed"
    # Whoever was taken for dead can't end it any more; what it cost in truth is told after all.
    with pytest.raises(FencedError):
        await scene.journal.finish(granted.lease, id_of(granted), DONE, b"late")
    row = settle_late(scene.journal.attempts[granted.lease.key.call_id][0], DONE, scene.clock.now())
    scene.late.waiting = [LateOutcome(granted.lease.key, row, granted.input)]
    await scene.settle(over=True)
    assert scene.booked() == {id_of(granted): PAID}
    assert scene.late.waiting == []


async def test_embeddings_without_an_outcome_are_told_at_their_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene()
    meta = Meta(event_id="e1", request_id="r1", tenant="acme", lane="replay-r1", run="r1", accepted_at=ACCEPTED)

    def event(ordinal: int) -> bytes:
        cost = Cost(
            meta=meta,
            attempt_id=meta.event_id,
            purpose="embedding",
            ordinal=ordinal,
            state="unknown",
            usage=Usage(prompt_tokens=9, estimated=True),
            amount_usd=Decimal("0.9"),
            upper_bound=True,
            incurred_at=ACCEPTED,
        )
        return CODEC.encode(cost)

    opening = Opening(spender="s", lane="replay-r1", tenant="acme", asked=b"", owed=b"", event=event, due_s=60)
    await scene.spends.open([opening])
    # Killed between telling and noting that it is told: it is in the lane once all the same.

    async def down(_: Any) -> None:
        raise DependencyDownError("postgres", "told to be down")

    monkeypatch.setattr(MemorySpends, "told", lambda _, untold: down(untold))
    with pytest.raises(DependencyDownError):
        await scene.settle()
    monkeypatch.undo()
    await scene.settle()
    assert scene.booked() == {"e1": AT_BOUND}
    assert len(scene.sent()) == 1
    assert all(row.told for row in scene.spends.rows.values())


async def test_an_event_that_no_ledger_takes_does_not_keep_the_others_out() -> None:
    scene = Scene()
    bad, good = await scene.call("a", done=True), await scene.call("b", done=True)
    await scene.published(bad, good)
    await scene.topic.send(RUN, [Outgoing("replay-r1.costs", b"k", b"no event", [])])
    scene.ledger.refused.add(id_of(bad))
    await scene.settle()
    assert scene.booked() == {id_of(good): PAID}
    scene.ledger.down = True
    with pytest.raises(DependencyDownError):
        await scene.settle()


@pytest.mark.parametrize("changes", [{"stages": ("filter",)}, {"stages": ("account",), "copies_books": True}])
async def test_a_run_that_pays_for_nothing_books_nothing(changes: dict[str, Any]) -> None:
    scene = Scene()
    await scene.call("a", done=True)
    await scene.settle(over=True, run=run_of(**changes))
    assert (scene.booked(), scene.sent()) == ({}, [])


class Settles:
    """Hears when a run is to be booked; ``fails`` as told."""

    def __init__(self, fails: Exception | None = None) -> None:
        self.heard: list[bool] = []
        self.fails = fails
        # What there is of the run at that moment.
        self.look: Callable[[], object] = lambda: None
        self.seen: list[object] = []

    async def __call__(self, run: Run, *, over: bool) -> None:
        self.heard.append(over)
        self.seen.append(self.look())
        if self.fails is not None:
            raise self.fails


class Led(Conductor):
    """Leads without a broker: its steps end as told."""

    steps: Callable[[], Awaitable[Ended]]

    async def _steps(self, run: Run, epoch: int) -> Ended:
        return await self.steps()


async def led(steps: Callable[[], Awaitable[Ended]], settles: Settles, runs: FakeRuns) -> Ended:
    await runs.create(RUN, [])
    conductor = Led(bare_settings(), cast("Any", Now()), runs, CODEC, settle=settles)
    conductor.steps = steps
    settles.look = lambda: runs.runs["r1"].lease_s > 0
    return await conductor.lead(RUN)


class Now:
    """A database that knows the time."""

    async def now(self) -> Any:
        return ACCEPTED


@pytest.mark.parametrize(
    ("outcome", "state"),
    [
        (Ended("stopped", "--max-cost is reached"), "stopped"),
        (ConfigurationError("a field is missing"), "failed"),
        (DependencyDownError("kafka", "away"), "stopped"),
        (PoisonError("no record"), "failed"),
    ],
)
async def test_a_run_is_booked_while_it_is_in_hand_however_it_ends(outcome: Any, state: str) -> None:
    async def steps() -> Ended:
        if isinstance(outcome, Exception):
            raise outcome
        return cast("Ended", outcome)

    settles, runs = Settles(), FakeRuns()
    ended = await led(steps, settles, runs)
    assert (ended.state, runs.runs["r1"].state) == (state, state)
    assert (settles.heard, settles.seen) == ([False], [True])


async def test_a_run_that_is_cancelled_is_booked_for_good_and_one_in_other_hands_is_not() -> None:
    runs, settles = FakeRuns(), Settles()

    async def cancelled() -> Ended:
        await runs.cancel("r1")
        raise FencedError("cancelled")

    assert (await led(cancelled, settles, runs)).state == "cancelled"
    assert (settles.heard, runs.runs["r1"].lease_s) == ([True], 0.0)

    others, taken = FakeRuns(), Settles()

    async def elsewhere() -> Ended:
        others.expire("r1")
        await others.take("r1", owner="another")
        raise FencedError("in other hands")

    await led(elsewhere, taken, others)
    assert taken.heard == []


async def test_what_could_not_be_booked_is_said_and_a_fault_of_our_own_is_booked_too() -> None:
    async def stopped() -> Ended:
        return Ended("stopped", "interrupted")

    runs = FakeRuns()
    ended = await led(stopped, Settles(DependencyDownError("postgres", "away")), runs)
    assert (ended.state, "not all that it paid is booked" in runs.runs["r1"].reason) == ("stopped", True)

    async def broken() -> Ended:
        raise ZeroDivisionError

    settles, runs = Settles(), FakeRuns()
    with pytest.raises(ZeroDivisionError):
        await led(broken, settles, runs)
    assert (settles.heard, runs.runs["r1"].state) == ([False], "failed")


async def test_a_run_is_booked_before_anything_of_it_is_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    runs, settles, removed = FakeRuns(), Settles(ConfigurationError("a call is open")), list[str]()
    monkeypatch.setattr(desks, "remove_topics", lambda _, lane: removed.append(lane) or removed)
    monkeypatch.setattr(desks, "LOOK_S", 0.01)
    settles.look = lambda: (list(removed), runs.runs["r1"].state)
    desk = Desk(bare_settings(), cast("Any", None), runs, CODEC, settle=settles)
    await runs.create(RUN, [])
    await runs.take("r1", owner="killed")
    runs.expire("r1")
    with pytest.raises(ConfigurationError, match="a call is open"):
        await desk.delete(RUN)
    assert (removed, list(runs.runs)) == ([], ["r1"])
    assert await runs.take("r1", owner="resumed") is None, "what is settled for good is not taken up again"
    settles.fails = None
    assert not await desk.cancel(await desk.find("r1")), "cancelled before; what was not booked then is booked"
    await desk.delete(await desk.find("r1"))
    assert settles.heard == [True, True, True]
    assert settles.seen == [([], "cancelled")] * 3
    assert (removed, runs.runs) == (["replay-r1"], {})


async def test_a_leader_that_lives_books_what_is_cancelled_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    runs, settles = FakeRuns(), Settles()
    for name in ("LOOK_S", "LEASE_S", "RENEW_S"):
        monkeypatch.setattr(desks, name, 0.01)
    desk = Desk(bare_settings(), cast("Any", None), runs, CODEC, settle=settles)
    await runs.create(RUN, [])
    await runs.take("r1", owner="leader")
    assert await desk.cancel(await desk.find("r1"))
    assert settles.heard == []
