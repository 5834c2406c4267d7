"""What the filter says of streams: chunks of a buffered text, and whether public text is the answer's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from processors.clock import FakeClock
from processors.event import Incoming
from processors.filter.policy import FilterPolicy
from processors.filter.processor import Filter
from schemas.codec import Codec
from schemas.records import (
    Admission,
    Answer,
    Attempt,
    Chunk,
    Completion,
    Grounding,
    Meta,
    Request,
    ResponseFormat,
    Text,
    Verdict,
)
from tests.support.deltas import PROSE, cleaned, joined

CODEC = Codec.offline()
META = Meta(event_id="c", request_id="r1", tenant="acme", lane="live", accepted_at=FakeClock().now())


def completion(text: str | None, *, streamed: bool, **fields: Any) -> Completion:
    asked = fields.pop("asked", {})
    return Completion(
        meta=META,
        request=Request(meta=META, query=Text(inline="?"), user="u1", session="s1", stream=True, **asked),
        admission=Admission(),
        grounding=Grounding(question=Text(inline="?")),
        text=None if text is None else Text(inline=text),
        attempts=(Attempt(attempt_id="a", ordinal=2, state="done"),),
        streamed=streamed,
        **{"finish_reason": "stop", **fields},
    )


async def outputs(record: Completion, **policy: Any) -> tuple[list[Chunk], Answer]:
    incoming = Incoming(record=record, meta=META, raw=b"", appended_at=FakeClock().now())
    *chunks, answer = await Filter(policy=FilterPolicy(**policy), clock=FakeClock())(incoming)
    assert isinstance(answer, Answer)
    return [chunk for chunk in chunks if isinstance(chunk, Chunk)], answer


def stream_verdicts(answer: Answer) -> Sequence[Verdict]:
    return [verdict for verdict in answer.verdicts if verdict.guard == "stream"]


async def test_a_buffered_text_is_one_chunk_and_an_end_beside_its_answer() -> None:
    record = completion(PROSE, streamed=False)
    chunks, answer = await outputs(record)
    assert [chunk.kind for chunk in chunks] == ["text", "end"]
    assert answer.text is not None and joined(chunks).text == answer.text.inline == cleaned(PROSE)
    assert joined(chunks).ended and {(c.attempt, c.user, c.session) for c in chunks} == {(2, "u1", "s1")}
    again, _ = await outputs(record)
    assert [CODEC.encode(chunk) for chunk in again] == [CODEC.encode(chunk) for chunk in chunks]


async def test_a_buffered_json_text_is_shown_as_the_answer_has_it() -> None:
    wanted = ResponseFormat(type="json_object")
    record = completion('{"mail": "kim@example.com"}', streamed=False, asked={"response_format": wanted})
    chunks, _ = await outputs(record)
    assert joined(chunks).text == '{"mail": "[EMAIL]"}'


async def test_tool_calls_end_a_stream_without_a_text_and_a_refused_answer_ends_it_as_failed() -> None:
    chunks, _ = await outputs(completion(None, streamed=False, tool_calls_json=Text(inline="[]")))
    assert [chunk.kind for chunk in chunks] == ["end"] and joined(chunks).ended
    chunks, answer = await outputs(completion(PROSE, streamed=False, finish_reason="length"))
    assert [chunk.kind for chunk in chunks] == ["failed"] and answer.status == "failed"
    assert chunks[0].failure is not None and chunks[0].failure.code == "output_truncated"


async def test_a_request_without_a_stream_and_one_that_was_streamed_get_no_chunk_here() -> None:
    plain = completion(PROSE, streamed=False)
    chunks, _ = await outputs(replace(plain, request=replace(plain.request, stream=False)))
    assert chunks == []
    chunks, _ = await outputs(completion(PROSE, streamed=True))
    assert chunks == []


async def test_the_answer_to_a_streamed_request_says_that_the_joined_chunks_are_its_text() -> None:
    _, answer = await outputs(completion(PROSE * 3, streamed=True))
    assert [verdict.outcome for verdict in stream_verdicts(answer)] == ["pass"]


async def test_an_answer_that_differs_from_what_was_public_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("processors.filter.processor.public_text", lambda *_: "something else")
    _, answer = await outputs(completion(PROSE, streamed=True))
    assert [(v.outcome, v.category) for v in stream_verdicts(answer)] == [("changed", "differs")]


async def test_a_refused_answer_says_how_much_of_it_had_been_public() -> None:
    _, answer = await outputs(completion(PROSE, streamed=True, finish_reason="length"))
    [verdict] = stream_verdicts(answer)
    assert answer.status == "failed" and (verdict.outcome, verdict.category) == ("changed", "public")
    assert verdict.detail is not None and f"{len(PROSE)} characters" in verdict.detail


async def test_a_text_that_the_provider_held_back_may_have_begun_to_stream() -> None:
    _, answer = await outputs(completion(PROSE, streamed=True, finish_reason="content_filter"))
    assert answer.status == "blocked" and [v.category for v in stream_verdicts(answer)] == ["public"]
