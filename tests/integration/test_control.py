"""The control topic is read from its first record before a worker is ready, and followed."""

from __future__ import annotations

import asyncio

from schemas.codec import Codec
from schemas.files import event_schemas
from schemas.records import Control
from schemas.registry import Registry
from streams.control import ControlFollower
from streams.producer import Outgoing, Producer
from streams.publish import Publisher, producer_meta
from streams.topics import apply, compare
from tests.support.settings import settings_for
from tests.support.stack import TestStack


def prompt(lane: str, version: str, *, removed: bool = False) -> Control:
    meta = producer_meta(tenant="", lane=lane, request_id="", cause=version)
    return Control(meta=meta, kind="prompt", name="support", version=version, removed=removed)


async def test_what_is_live_is_known_after_start_and_followed(stack: TestStack, lane: str) -> None:
    settings = settings_for(stack)
    apply(settings, lane, compare(settings, lane, ["control"]))
    await Registry(stack.registry_url).register(event_schemas())
    codec = await Codec.connect(stack.registry_url)
    publisher = Publisher(settings, codec, lane=lane)
    for version in ("1", "2"):
        publisher.send(prompt(lane, version))
    assert publisher.flush() == []
    # Bytes that are no record are passed over: they must not keep a worker from starting.
    producer = Producer(settings.kafka)
    await producer.start()
    await producer.send([Outgoing(f"{lane}.control", b"x", b"no avro", [])])
    await producer.stop()

    follower = ControlFollower(settings.kafka, f"{lane}.control", codec)
    await follower.start()
    assert (follower.current_prompt("support"), follower.offset) == ("2", 2)
    following = asyncio.ensure_future(follower.run())
    publisher.send(prompt(lane, "3"))
    publisher.flush()
    async with asyncio.timeout(120):
        while follower.current_prompt("support") != "3":
            await asyncio.sleep(0.02)
    publisher.send(prompt(lane, "3", removed=True))
    publisher.flush()
    async with asyncio.timeout(120):
        while follower.current_prompt("support") is not None:
            await asyncio.sleep(0.02)
    assert follower.offset == 4
    following.cancel()
    await follower.stop()
