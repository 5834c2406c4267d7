"""An answer that the runner ends a streamed request with says that text of it went out as chunks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from processors.event import Incoming, Output
from schemas.errors import PoisonError
from schemas.records import Admission, Answer, Completion, Grounding, Text
from streams.stages import STAGES
from tests.support.running import CODEC, Bench, Message, message, request

TEXT = "The lamp blinks green."


def completed(**fields: Any) -> Message:
    given = {"text": Text(inline=TEXT), "finish_reason": "stop", "streamed": True, **fields}
    record = Completion(
        meta=request().meta,
        request=request(),
        admission=Admission(),
        grounding=Grounding(question=Text(inline="What?")),
        **given,
    )
    return message(value=CODEC.encode(record), topic="live.completions")


async def ended(event: Message, *, cancel: bool) -> Answer:
    """What becomes of a completion that is cancelled before the filter has it, or that the filter can't take."""

    async def broken(_incoming: Incoming[Any]) -> Sequence[Output]:
        raise PoisonError("told to")

    bench = Bench(broken, stage=STAGES["filter"])
    if cancel:
        bench.control.cancel("acme", "r1")
    await bench.take(event)
    (answer,) = bench.answers()
    assert answer.failure is not None and (answer.failure.code == "cancelled") is cancel
    return answer


@pytest.mark.parametrize("cancel", [True, False], ids=["cancelled", "dead-lettered"])
async def test_an_end_behind_the_model_says_that_the_text_was_public(cancel: bool) -> None:
    answer = await ended(completed(), cancel=cancel)
    [verdict] = answer.verdicts
    assert (verdict.guard, verdict.stage, verdict.outcome, verdict.category) == (
        "stream",
        "filter",
        "changed",
        "public",
    )
    assert verdict.detail is not None and f"{len(TEXT)} characters" in verdict.detail


@pytest.mark.parametrize("cancel", [True, False], ids=["cancelled", "dead-lettered"])
async def test_a_text_that_no_chunk_carried_is_not_called_public(cancel: bool) -> None:
    for none in ({"streamed": False}, {"text": None}, {"text": Text(inline="<|im_end|>")}):
        assert (await ended(completed(**none), cancel=cancel)).verdicts == ()
