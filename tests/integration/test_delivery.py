"""Safe commits on the real broker: what is not acknowledged is delivered again, whatever came after it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
from aiokafka.errors import KafkaTimeoutError, RequestTimedOutError
from confluent_kafka import ConsumerGroupTopicPartitions
from faust.transport.drivers.aiokafka import Transport

from streams.app import StageApp, create_app
from streams.producer import Outgoing, Producer
from streams.settings import Settings
from streams.topics import admin_client, apply, compare, topic_name
from tests.support.settings import settings_for
from tests.support.stack import TestStack

DEADLINE_S = 150.0


@pytest.fixture
def settings(stack: TestStack) -> Settings:
    return settings_for(stack)


@pytest.fixture
def topic(settings: Settings, lane: str) -> str:
    apply(settings, lane, compare(settings, lane, ["requests"]))
    return topic_name("", lane, "requests")


@asynccontextmanager
async def running(
    settings: Settings, topic: str, take: Callable[[Any], Awaitable[None]], *, slot: str = "0"
) -> AsyncIterator[StageApp]:
    app = create_app(settings, group=f"{topic}.group", topics=[topic], slot=slot, concurrency=8, take=take)
    await app.start()
    try:
        yield app
    finally:
        await app.stop()


async def publish(settings: Settings, topic: str, numbers: int | range) -> None:
    wanted = [str(number).encode() for number in (range(numbers) if isinstance(numbers, int) else numbers)]
    producer = Producer(settings.kafka)
    await producer.start()
    await producer.send([Outgoing(topic, one, one, []) for one in wanted])
    await producer.stop()


async def ignore(_: Any) -> None:
    """Leave the event in process."""


async def eventually(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not holds():
            await asyncio.sleep(0.02)


def committed(settings: Settings, topic: str) -> dict[int, int]:
    """Offsets that the group committed, by partition, as the broker has them."""
    group = f"{topic}.group"
    admin = admin_client(settings)
    future = admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group)])[group]
    return {tp.partition: tp.offset for tp in future.result(60).topic_partitions if tp.offset >= 0}


async def test_an_unacked_head_is_not_committed_over_and_comes_again(settings: Settings, topic: str) -> None:
    await publish(settings, topic, 200)
    held: dict[int, Any] = {}
    seen: list[bytes] = []

    async def hold_first(event: Any) -> None:
        message = event.message
        seen.append(message.value)
        if message.partition not in held:
            held[message.partition] = event
            return
        event.ack()

    async with running(settings, topic, hold_first) as app:
        await eventually(lambda: len(seen) == 200)
        await app.consumer.force_commit()
    # The head of every partition is in flight, so no partition may be committed past its start.
    assert set(committed(settings, topic).values()) <= {0}
    again: list[bytes] = []

    async def ack(event: Any) -> None:
        again.append(event.message.value)
        event.ack()

    async with running(settings, topic, ack):
        await eventually(lambda: len(set(again)) == 200)
    assert sum(committed(settings, topic).values()) == 200


@pytest.mark.parametrize("acked", [False, True])
async def test_going_back_reads_again_what_was_not_committed(settings: Settings, topic: str, acked: bool) -> None:
    """A second rebalance that comes while events of the first are in process goes back in this way."""
    await publish(settings, topic, 60)
    seen: list[bytes] = []
    held: dict[int, Any] = {}

    async def hold(event: Any) -> None:
        seen.append(event.message.value)
        # With ``acked`` something is committed of each partition: its first event.
        if acked and event.message.partition not in held:
            held[event.message.partition] = event
            event.ack()

    async with running(settings, topic, hold) as app:
        await eventually(lambda: len(seen) == 60)
        await app.consumer.force_commit()
        await app.consumer.perform_seek()
        await eventually(lambda: len(seen) >= 120 - len(held))
        firsts = {event.message.value for event in held.values()}
    assert sorted(seen) == sorted([*(one for one in seen[:60]), *(one for one in seen[:60] if one not in firsts)])


async def test_a_rebalance_before_the_last_one_is_through_forgets_nothing_that_was_delivered(
    settings: Settings, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first one's going back ends when the second has begun, and the second one's takes long."""
    done: set[bytes] = set()
    revoked, asked = asyncio.Event(), list[Any]()

    async def take(event: Any) -> None:
        # As a stage does: what is no longer its own is left to whoever has it now.
        if app.consumer.owns(event.message):
            await asyncio.sleep(0.3)
            done.add(event.message.value)
            event.ack()

    async def late(committed: Callable[[Any], Awaitable[Any]], tp: Any) -> Any:
        asked.append(tp)
        turn = len(asked)
        found = await committed(tp)
        if turn == settings.partitions:
            await revoked.wait()
        elif turn > settings.partitions:
            await asyncio.sleep(0.2)
        return found

    await publish(settings, topic, 40)
    async with running(settings, topic, take) as app:
        await eventually(lambda: len(done) == 40)
        await app.consumer.force_commit()
        client = app.consumer._thread._consumer
        monkeypatch.setattr(client, "committed", partial(late, client.committed))
        client._coordinator.request_rejoin()
        await publish(settings, topic, range(40, 160))
        await eventually(lambda: len(asked) >= settings.partitions)
        app.on_partitions_revoked.connect(lambda *_told, **_more: revoked.set(), weak=False)
        client._coordinator.request_rejoin()
        await eventually(lambda: len(done) == 160)
        await eventually(lambda: sum(committed(settings, topic).values()) == 160)


async def test_a_worker_that_is_not_told_what_is_committed_ends(
    settings: Settings, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Faust gives up without a word: the partitions would be its own, and lie unread."""

    async def never(_: Any) -> None:
        await asyncio.Event().wait()

    async with running(settings, topic, ignore) as app:
        await eventually(lambda: bool(app.consumer.assignment()) and app.consumer.flow_active)
        client = app.consumer._thread._consumer
        monkeypatch.setattr(client, "committed", never)
        monkeypatch.setattr("streams.transport.SHARE_OF_TIMEOUT", 0.01)
        client._coordinator.request_rejoin()
        await eventually(lambda: isinstance(app.crash_reason, KafkaTimeoutError))


async def test_the_stock_driver_would_have_committed_over_the_head(settings: Settings, topic: str) -> None:
    """The remedy is still needed: this fails when an upgrade of Faust mends its commit."""
    await publish(settings, topic, 200)
    held: set[int] = set()
    seen: list[bytes] = []

    async def hold_first(event: Any) -> None:
        seen.append(event.message.value)
        if event.message.partition in held:
            event.ack()
        held.add(event.message.partition)

    app = create_app(settings, group=f"{topic}.group", topics=[topic], slot="0", concurrency=8, take=hold_first)
    app.__dict__["transport"] = Transport(app.conf.broker_consumer, app)
    app.__dict__.pop("consumer", None)
    await app.start()
    try:
        await eventually(lambda: len(seen) == 200)
        await app.consumer.force_commit()
    finally:
        await app.stop()
    assert sum(committed(settings, topic).values()) > 0


async def test_a_worker_that_joins_and_leaves_loses_nothing_and_redeliveries_are_counted(
    settings: Settings, topic: str
) -> None:
    done: set[bytes] = set()
    held, had = b"7", 0

    async def stays(event: Any) -> None:
        nonlocal had
        had += event.message.value == held
        if event.message.value == held and had == 1:
            return  # Not acknowledged: it has to come again, here or elsewhere.
        await finish(event)

    async def comes_and_goes(event: Any) -> None:
        if event.message.value != held:
            await finish(event)

    async def finish(event: Any) -> None:
        await asyncio.sleep(0.005)
        done.add(event.message.value)
        event.ack()

    async def feed() -> None:
        producer = Producer(settings.kafka)
        await producer.start()
        for start in range(0, 1000, 50):
            batch = [str(number).encode() for number in range(start, start + 50)]
            await producer.send([Outgoing(topic, value, value, []) for value in batch])
            await asyncio.sleep(0.02)
        await producer.stop()

    async with running(settings, topic, stays) as first:
        feeding = asyncio.ensure_future(feed())
        await eventually(lambda: len(done) > 100)
        async with running(settings, topic, comes_and_goes, slot="1") as joined:
            await eventually(lambda: bool(joined.consumer.assignment()))
            await eventually(lambda: len(done) > 500)
        await feeding
        await eventually(lambda: len(done) == 1000)
        # What was acknowledged while it changed hands comes once more.
        await eventually(lambda: sum(committed(settings, topic).values()) == 1000)
        assert had >= 2 and first.consumer.redelivered_total >= 1


async def test_an_orderly_stop_commits_what_was_done_while_a_commit_was_under_way(
    settings: Settings, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await publish(settings, topic, 40)
    held: list[Any] = []
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def hold(event: Any) -> None:
        held.append(event)

    async def slow(commit: Callable[[Any], Awaitable[None]], offsets: Any) -> None:
        begun.set()
        await go_on.wait()
        await commit(offsets)

    async with running(settings, topic, hold) as app:
        await eventually(lambda: len(held) == 40)
        client = app.consumer._thread._consumer
        monkeypatch.setattr(client, "commit", partial(slow, client.commit))
        for event in held[:20]:
            event.ack()
        await begun.wait()
        for event in held[20:]:
            event.ack()
        asyncio.get_running_loop().call_later(0.5, go_on.set)
    assert sum(committed(settings, topic).values()) == 40


async def test_a_commit_that_fails_is_made_again_and_ends_nothing(settings: Settings, topic: str) -> None:
    await publish(settings, topic, 40)
    seen: list[bytes] = []

    async def ack(event: Any) -> None:
        seen.append(event.message.value)
        event.ack()

    async with running(settings, topic, ack) as app:
        await eventually(lambda: len(seen) == 40)
        thread = app.consumer._thread
        real = thread._consumer.commit

        async def refuse(_offsets: Any) -> None:
            raise RequestTimedOutError

        thread._consumer.commit = refuse
        app.consumer._committed.clear()
        assert await app.consumer.force_commit() is False
        assert not app.consumer._committed, "what the broker did not take is not noted as committed"
        thread._consumer.commit = real
        assert await app.consumer.force_commit() is True
        assert not app.crashed
    assert sum(committed(settings, topic).values()) == 40


async def test_a_consumer_shares_the_loop_and_a_full_queue_holds_it_up_alone(settings: Settings, topic: str) -> None:
    await publish(settings, topic, 200)
    threads, seen, go_on = set(threading.enumerate()), set[bytes](), asyncio.Event()

    async def wait(event: Any) -> None:
        await go_on.wait()
        seen.add(event.message.value)
        event.ack()

    async with running(settings, topic, wait) as app:
        # Eight in process, and what is read ahead: no room for more until they are done.
        await eventually(lambda: app.consumer.watermarks.in_flight >= 16)
        assert set(threading.enumerate()) <= threads
        assert app.consumer.watermarks.in_flight < 200
        go_on.set()
        await eventually(lambda: len(seen) == 200)
    assert sum(committed(settings, topic).values()) == 200
