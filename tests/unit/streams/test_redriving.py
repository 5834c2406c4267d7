"""Which re-drive a message is believed to belong to: the one that an operator began for these bytes, here."""

from __future__ import annotations

from dataclasses import replace

import pytest

from processors.redrive import Redrive
from schemas.records import Admitted
from streams.redriving import REDRIVE, value_digest
from tests.support.running import CODEC, LANE, NOW, Bench, admit, message

RUN = "redrive-0123456789abcdef-1"
BYTES = message().value
BEGUN = Redrive(
    run=RUN,
    lane=LANE,
    topic="live.requests",
    value_digest=value_digest(BYTES),
    source_partition=0,
    source_offset=7,
    first_failed_at=None,
    created_at=NOW,
)


async def run_of(*begun: Redrive) -> str:
    """The run under which the stage has the message that names one."""
    bench = Bench(admit)
    bench.redrives.known = {redrive.run: redrive for redrive in begun}
    await bench.take(message(headers=[(REDRIVE, RUN.encode())]))
    (sent,) = bench.sent("admitted")
    return CODEC.decode(sent.value or b"", Admitted).meta.run


async def test_a_message_that_an_operator_sent_again_has_the_run_of_its_re_drive() -> None:
    assert await run_of(BEGUN) == RUN


@pytest.mark.parametrize(
    "other",
    [{"lane": "test"}, {"topic": "live.admitted"}, {"value_digest": value_digest(b"no avro")}],
    ids=["lane", "topic", "bytes"],
)
async def test_a_run_that_was_begun_for_another_event_is_not_believed(other: dict[str, str]) -> None:
    assert await run_of(replace(BEGUN, **other)) == ""


async def test_a_run_that_nobody_began_is_not_believed() -> None:
    assert await run_of() == ""
