"""Live deltas on the worker's producer, and what settings and metrics know of streams."""

from __future__ import annotations

from typing import Any

import pytest

from processors.clock import FakeClock
from schemas.codec import Codec
from schemas.errors import DependencyDownError, OversizedError
from schemas.records import Delta, Meta, Text
from streams.deltas import ProducerDeltas
from streams.deployed import routes
from streams.metrics import Metrics
from streams.observing import CallMetrics
from streams.producer import FakeProducer
from streams.settings import Settings

CODEC = Codec.offline()
META = Meta(event_id="e1", request_id="r1", tenant="acme", lane="live", causation_id="c1", stage="complete")


def sink(producer: FakeProducer) -> ProducerDeltas:
    return ProducerDeltas(producer, CODEC, FakeClock(), prefix="p-", lane="live")


def settings(**route: Any) -> Settings:
    return Settings(
        stack="external",
        kafka={"bootstrap": "k:1"},
        registry={"url": "http://r"},
        postgres={"dsn": "postgresql://p"},
        embeddings={"base_url": "http://e/v1", "model": "e"},
        deployments={"d": {"base_url": "http://m/v1", "model": "m"}},
        routes={"default": {"deployment": "d", **route}},
    )


async def test_a_delta_goes_to_its_topic_under_its_requests_key() -> None:
    producer = FakeProducer()
    delta = Delta(meta=META, sequence=3, text=Text(inline="so it goes"))
    await sink(producer).send(delta)
    [sent] = producer.sent
    assert (sent.topic, sent.key) == ("p-live.deltas", b"r1")
    assert CODEC.decode(sent.value or b"", Delta) == delta
    assert dict(sent.headers)["ce_id"] == b"e1" and dict(sent.headers)["ce_type"] == b"headrace.Delta"


async def test_what_the_broker_does_not_take_is_told() -> None:
    producer = FakeProducer()
    producer.failures = [DependencyDownError("kafka", "test")]
    with pytest.raises(DependencyDownError):
        await sink(producer).send(Delta(meta=META))
    with pytest.raises(OversizedError):
        await sink(producer).send(Delta(meta=META, text=Text(inline="x" * 1_000_000)))
    assert producer.sent == []


def test_routes_stream_and_restart_unless_told_otherwise() -> None:
    by_default, told = routes(settings())["default"], routes(settings(stream=False, on_break="failed"))["default"]
    assert (by_default.stream, by_default.on_break) == (True, "restart")
    assert (told.stream, told.on_break) == (False, "failed")


def test_deltas_are_cut_after_50_ms_or_256_characters_unless_told_otherwise() -> None:
    cut = settings().deltas
    assert (cut.interval_ms, cut.characters) == (50, 256)


def test_first_tokens_gaps_and_deltas_are_counted() -> None:
    metrics = Metrics()
    observer = CallMetrics(metrics)
    observer.on_first_token("d", 0.2)
    observer.on_gap("d", 0.01)
    observer.on_delta("lost")
    value = metrics.registry.get_sample_value
    assert value("headrace_time_to_first_token_seconds_sum", {"deployment": "d"}) == 0.2
    assert value("headrace_token_gap_seconds_bucket", {"deployment": "d", "le": "0.01"}) == 1
    assert value("headrace_live_deltas_total", {"outcome": "lost"}) == 1
