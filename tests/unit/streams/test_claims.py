"""Events over their topic's limit in the runner: parted when they are published, whole when a stage reads them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from processors.bodies import FakeBodies
from processors.claimcheck import ref_of, whole
from processors.event import Incoming, Output, Recorded
from processors.text import inline
from schemas.errors import OversizedError, RefusedError
from schemas.records import Admission, Admitted, Answer, Text
from streams.claims import Claims
from streams.headers import header
from streams.outputs import LARGEST_BYTES
from streams.stages import STAGES
from tests.support.running import CODEC, Bench, Message, admit, message, request

LARGE = "line of a long text\n" * 100_000


def bench(process: Any, *, bodies: FakeBodies, most_bytes: int = 32_000_000, **options: Any) -> Bench:
    return Bench(process, claims=Claims(bodies, CODEC, most_bytes=most_bytes), **options)


async def add_text(incoming: Incoming[Any]) -> Sequence[Output]:
    """What a stage does whose output is too large."""
    asked = replace(incoming.record, query=Text(inline=LARGE))
    return [Admitted(meta=incoming.child("admit", "1"), request=asked, admission=Admission())]


async def test_an_output_over_the_limit_goes_by_reference_once_its_text_is_stored() -> None:
    bodies = FakeBodies()
    first = bench(add_text, bodies=bodies)
    await first.take(message())
    (sent,) = first.sent("admitted")
    ref = ref_of(LARGE.encode())
    assert len(sent.value or b"") < LARGEST_BYTES
    assert header(sent.headers, "ce_dataref") == ref.encode()
    assert bodies.kept == {("acme", ref): LARGE.encode()}
    # A redelivery says the same.
    again = bench(add_text, bodies=bodies)
    await again.take(message())
    assert again.sent("admitted")[0].value == sent.value

    seen: list[Incoming[Any]] = []

    async def read(incoming: Incoming[Any]) -> Sequence[Output]:
        seen.append(incoming)
        return []

    next_stage = bench(read, bodies=bodies, stage=STAGES["enrich"])
    await next_stage.take(Message(value=sent.value, topic="live.admitted"))
    (incoming,) = seen
    assert inline(incoming.record.request.query) == LARGE
    # What the stage keeps needs no reference.
    assert CODEC.decode(incoming.raw, Admitted) == incoming.record


async def test_a_recorded_output_over_the_limit_goes_by_reference_too() -> None:
    async def recorded(incoming: Incoming[Any]) -> Sequence[Output]:
        [record] = await add_text(incoming)
        return [Recorded(record, CODEC.encode(record))]  # type: ignore[arg-type]

    bodies = FakeBodies()
    made = bench(recorded, bodies=bodies)
    await made.take(message())
    assert len(made.sent("admitted")[0].value or b"") < LARGEST_BYTES and len(bodies.kept) == 1


async def test_while_postgres_is_away_nothing_is_published_that_refers_to_what_is_not_stored() -> None:
    bodies = FakeBodies()
    bodies.down = True
    made = bench(add_text, bodies=bodies)

    def back(_: object) -> bool:
        assert not made.sent("admitted")
        bodies.down = False
        return True

    made.gate.report = back  # type: ignore[method-assign]
    event = await made.take(message())
    assert event.acks == 1 and len(made.sent("admitted")) == 1


async def test_a_reference_to_what_is_not_stored_reaches_the_stage_as_such() -> None:
    seen: list[Any] = []

    async def read(incoming: Incoming[Any]) -> Sequence[Output]:
        seen.append(incoming.record.query)
        return await admit(incoming)

    asked = replace(request(), query=Text(ref="sha256:" + "0" * 64))
    await bench(read, bodies=FakeBodies()).take(message(value=CODEC.encode(asked)))
    assert seen == [asked.query]
    with pytest.raises(RefusedError, match="no such text is stored"):
        inline(seen[0], "query")


async def test_a_text_that_was_altered_where_it_is_stored_does_not_come_back() -> None:
    ref = ref_of(b"as it was stored")
    once = replace(request(), query=Text(ref=ref))
    assert whole(once, {ref: b"something else"}).query == Text(ref=ref)
    assert whole(once, {ref: b"as it was stored"}).query == Text(inline="as it was stored")


async def test_a_record_that_would_be_too_large_with_its_texts_keeps_its_references() -> None:
    bodies, ref = FakeBodies(), ref_of(LARGE.encode())
    claims = Claims(bodies, CODEC, most_bytes=len(LARGE) + 1_000)
    await claims.store("acme", {ref: LARGE.encode()})
    once = replace(request(), query=Text(ref=ref))
    assert inline((await claims.whole(once, CODEC.encode(once), "acme")).query or Text()) == LARGE
    many = replace(once, tools_json=Text(ref=ref))
    assert await claims.whole(many, CODEC.encode(many), "acme") is many


@pytest.mark.parametrize(("most_bytes", "named"), [(0, "shorten it$"), (1_500_000, "raise bodies.max_bytes")])
async def test_what_is_over_the_bound_is_refused_and_the_error_says_what_to_set(most_bytes: int, named: str) -> None:
    record = replace(request(), query=Text(inline=LARGE))
    with pytest.raises(OversizedError, match=named):
        Claims(FakeBodies(), CODEC, most_bytes=most_bytes).parted(record, CODEC.encode(record), LARGEST_BYTES)
    made = bench(add_text, bodies=FakeBodies(), most_bytes=most_bytes)
    await made.take(message())
    answers: list[Answer] = made.answers()
    assert [answer.status for answer in answers] == ["failed"]
