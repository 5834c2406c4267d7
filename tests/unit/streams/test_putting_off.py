"""A request that its limits let in later is set aside before it is admitted, and goes back to where it came from."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from processors.event import Incoming, Output
from schemas.errors import NotYetError
from schemas.ids import request_event_id
from streams.deferring import PutBack
from tests.support.running import LANE, NOW, Bench, message

EXPIRES = NOW + timedelta(minutes=5)


async def put_off(_incoming: Incoming[Any]) -> Sequence[Output]:
    raise NotYetError(30, "limit/tenant.requests", expires_at=EXPIRES)


async def test_a_request_waits_outside_the_log_under_an_id_that_no_producer_made_up() -> None:
    bench = Bench(put_off)
    event = await bench.take(message(topic=f"{LANE}.requests.acme", headers=[("ce_tenant", b"acme")]))
    assert event.acks == 1 and bench.outcome("deferred") == 1 and not bench.producer.sent
    [row] = bench.deferred.rows.values()
    assert row.event.event_id == request_event_id(tenant=row.event.tenant, lane=LANE, request_id="r1")
    assert (row.event.stage, row.event.request_id, row.event.expires_at) == ("admit", "r1", EXPIRES)
    assert (row.event.reason, row.not_before) == ("limit/tenant.requests", NOW + timedelta(seconds=30))


async def test_it_goes_back_to_the_topic_it_came_from_when_its_time_has_come() -> None:
    bench = Bench(put_off)
    sent = message(topic=f"{LANE}.requests.acme", headers=[("mine", b"\x00")])
    await bench.take(sent)
    back = PutBack("admit", bench.runner._services)
    assert await back.round() == 0
    bench.deferred.now += timedelta(seconds=30)
    assert await back.round() == 1
    [outgoing] = bench.sent("requests.acme")
    assert (outgoing.key, outgoing.value, outgoing.headers) == (sent.key, sent.value, [("mine", b"\x00")])


async def test_a_request_whose_time_to_live_is_over_is_not_set_aside() -> None:
    tries = []

    async def process(incoming: Incoming[Any]) -> Sequence[Output]:
        tries.append(incoming)
        if len(tries) == 1:
            raise NotYetError(0, "limit/tenant.requests", expires_at=NOW)
        return []

    bench = Bench(process)
    event = await bench.take(message())
    assert event.acks == 1 and len(tries) == 2 and not bench.deferred.rows
