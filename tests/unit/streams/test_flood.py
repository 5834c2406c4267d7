"""One tenant's flood and another's few requests, through admission, the table of what waits, and a slow stage."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from processors.admit import Admit, AdmitPolicy
from processors.admit.in_flight import FakeInFlight, Room
from processors.admit.limiter import FakeCharger
from processors.admit.limiting import Limiting
from processors.admit.limits import LimitPolicy
from processors.idempotency import FakeIdempotency
from schemas.records import Admitted
from streams.deferring import PutBack
from tests.support.admission import request
from tests.support.running import CODEC, LANE, Bench, Message

FLOOD, FEW = 300, 5


class Stream:
    """Requests in, admitted requests in the order in which they come to a stage that takes one at a time."""

    def __init__(self, caps: dict[str, int]) -> None:
        self.bench = bench = Bench(self._process)
        self.in_flight = FakeInFlight(bench.clock)
        self.in_flight.waiting = self._waits
        idempotency = FakeIdempotency()
        limiting = Limiting(
            LimitPolicy(),
            FakeCharger(),
            idempotency=idempotency,
            clock=bench.clock,
            lane=LANE,
            room=Room(self.in_flight, caps, lane=LANE, monotonic=lambda: 0.0),
        )
        self._admit = Admit(
            policy=AdmitPolicy(),
            clock=bench.clock,
            idempotency=idempotency,
            finality=bench.finality,
            codec=CODEC,
            limiting=limiting,
        )
        services = replace(bench.runner._services, caps=caps, in_flight=self.in_flight)
        self.back = PutBack("admit", services)
        self._read = 0
        self.queue: list[Admitted] = []

    async def _process(self, incoming: Any) -> Any:
        return await self._admit(incoming)

    def _waits(self, _lane: str, tenant: str) -> bool:
        return any(row.event.tenant == tenant for row in self.bench.deferred.rows.values())

    async def publish(self, tenant: str, request_id: str) -> None:
        await self._take(CODEC.encode(request(meta={"tenant": tenant, "request_id": request_id})))

    async def serve(self) -> Admitted:
        """The next one is answered, and whoever waits for its place is put back."""
        served = self.queue.pop(0)
        await self.in_flight.leave(LANE, served.meta.tenant, served.meta.request_id)
        await self.back.round()
        await self._look()
        return served

    async def _take(self, value: bytes | None) -> None:
        event = await self.bench.take(Message(value))
        assert event.acks == 1
        await self._look()

    async def _look(self) -> None:
        while self._read < len(self.bench.producer.sent):
            sent = self.bench.producer.sent[self._read]
            self._read += 1
            if sent.topic == f"{LANE}.requests":
                await self._take(sent.value)
            elif sent.topic == f"{LANE}.admitted":
                self.queue.append(CODEC.decode(sent.value or b"", Admitted))


async def served_in_order(stream: Stream) -> list[tuple[str, str]]:
    for number in range(FLOOD):
        await stream.publish("big", f"big{number}")
    for number in range(FEW):
        await stream.publish("small", f"small{number}")
    order = []
    while stream.queue:
        meta = (await stream.serve()).meta
        order.append((meta.tenant, meta.request_id))
    return order


@pytest.mark.parametrize("cap", [1, 8])
async def test_a_flood_holds_nobody_else_up_and_is_served_in_its_order(cap: int) -> None:
    stream = Stream({"big": cap})
    order = await served_in_order(stream)
    last_small = max(place for place, (tenant, _) in enumerate(order) if tenant == "small")
    assert last_small < cap + FEW, "before them there is only what the cap lets in"
    assert [name for tenant, name in order if tenant == "big"] == [f"big{number}" for number in range(FLOOD)]
    assert Counter(order).most_common(1)[0][1] == 1 and len(order) == FLOOD + FEW
    assert not stream.bench.deferred.rows and not stream.in_flight.inside[LANE, "big"]


async def test_without_a_cap_they_would_wait_for_all_of_it() -> None:
    order = await served_in_order(Stream({}))
    assert [tenant for tenant, _ in order[-FEW:]] == ["small"] * FEW
