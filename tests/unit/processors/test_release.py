"""The release: what deltas become, however they come, and what becomes of streams that stand still or are too many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from processors.release.calls import FakeCalls
from processors.release.policy import ReleasePolicy
from processors.release.stage import Release, Step, key_of
from schemas.codec import Codec
from schemas.errors import DependencyDownError, PoisonError
from schemas.records import Chunk, Delta, Text
from tests.support.deltas import PROSE, aborted, arriving, cleaned, closing, delta, joined, kinds, lives, stream_of

TEXT = PROSE * 3
CODEC = Codec.offline()


class Scene:
    def __init__(self, **policy: Any) -> None:
        self.calls = FakeCalls()
        self.release = Release(policy=ReleasePolicy(**policy), calls=self.calls)
        self.chunks: list[Chunk] = []
        self.now = 0.0

    async def take(self, *deltas: Delta, partition: int = 0) -> list[Step]:
        steps = []
        for one in deltas:
            step = await self.release.take(arriving(one, partition=partition), at=self.now)
            self.chunks += step.chunks
            steps.append(step)
        return steps

    async def stalled(self, *, behind: bool = False) -> Sequence[Step]:
        def is_behind(_partition: int, _appended_at: datetime) -> bool:
            return behind

        steps = await self.release.stalled(self.now, is_behind)
        for step in steps:
            self.chunks += step.chunks
        return steps

    def of(self, request_id: str) -> list[Chunk]:
        return [chunk for chunk in self.chunks if chunk.meta.request_id == request_id]


async def test_chunks_are_the_cleaned_text_and_come_before_its_end() -> None:
    scene = Scene()
    await scene.take(*lives("r1", TEXT))
    before = joined(scene.chunks).text
    assert len(before) > len(TEXT) // 2 and cleaned(TEXT).startswith(before)
    [step] = await scene.take(closing("r1", TEXT))
    stream = joined(scene.chunks)
    assert step.over and stream.ended and stream.failure is None
    assert (stream.text, stream.finish_reason) == (cleaned(TEXT), "stop")
    assert kinds(scene.chunks) == ["text", "end"]
    assert {(chunk.user, chunk.session) for chunk in scene.chunks} == {("u1", "s1")}
    assert (scene.release.open_streams, scene.release.held_characters, scene.release.held_deltas) == (0, 0, 0)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=40), st.data())
async def test_bytes_are_the_same_whatever_the_deltas_were(sizes: list[int], data: st.DataObject) -> None:
    """Cut otherwise, with losses, twice or in part again: the chunks' ids and bytes stay."""
    usual = Scene()
    await usual.take(*stream_of("r1", TEXT))
    deltas, start = [], 0
    for number, size in enumerate(sizes):
        deltas.append(delta("r1", number, start, TEXT[start : start + size]))
        start += size
    lost = data.draw(st.sets(st.integers(1, 40)))
    again = data.draw(st.integers(0, len(deltas)))
    kept = [one for number, one in enumerate(deltas) if number not in lost]
    other = Scene()
    await other.take(*kept, *kept[:again], closing("r1", TEXT))
    assert list(map(CODEC.encode, other.chunks)) == list(map(CODEC.encode, usual.chunks))


async def test_a_restart_in_the_middle_says_all_again_in_the_same_bytes() -> None:
    scene, again = Scene(), Scene()
    await scene.take(*stream_of("r1", TEXT))
    await again.take(*lives("r1", TEXT)[:20])
    assert list(map(CODEC.encode, again.chunks)) == list(map(CODEC.encode, scene.chunks[: len(again.chunks)]))


async def test_streams_side_by_side_do_not_mix() -> None:
    scene = Scene()
    texts = {f"r{n}": f"The request number {n} said so. " * 6 + PROSE for n in range(5)}
    queues = [stream_of(name, text, every=5 + len(name)) for name, text in texts.items()]
    for round_ in range(max(map(len, queues))):
        for queue in queues:
            await scene.take(*queue[round_ : round_ + 1])
    for name, text in texts.items():
        assert joined(scene.of(name)).text == cleaned(text)


async def test_an_attempt_that_broke_off_before_anything_was_public_leaves_no_trace() -> None:
    scene = Scene()
    await scene.take(delta("r1", 0, 0, "Hel"), aborted("r1"), *lives("r1", TEXT, attempt=1))
    await scene.take(closing("r1", TEXT, attempt=1))
    assert kinds(scene.chunks) == ["text", "end"]
    assert joined(scene.chunks).text == cleaned(TEXT)


async def test_an_attempt_that_broke_off_in_public_is_taken_back_and_never_joined_to_the_next() -> None:
    scene = Scene()
    other = "Quite another text, as models write them. " * 4
    await scene.take(*lives("r1", TEXT)[:20], aborted("r1"))
    await scene.take(*lives("r1", other, attempt=1), *lives("r1", TEXT)[20:], closing("r1", other, attempt=1))
    assert kinds(scene.chunks) == ["text", "restart", "text", "end"]
    restart = next(chunk for chunk in scene.chunks if chunk.kind == "restart")
    assert (restart.attempt, restart.start_char, restart.text) == (1, 0, None)
    assert joined(scene.chunks).text == cleaned(other)


async def test_a_stream_whose_call_failed_ends_as_failed_and_what_is_held_never_goes_out() -> None:
    scene = Scene()
    await scene.take(*lives("r1", TEXT)[:20])
    public = joined(scene.chunks).text
    [step] = await scene.take(aborted("r1", code="cancelled"))
    assert step.over and kinds(scene.chunks) == ["text", "failed"]
    stream = joined(scene.chunks)
    assert stream.text == public and stream.failure is not None
    assert (stream.failure.code, stream.failure.error_class) == ("cancelled", "policy")


async def test_deltas_of_a_stream_that_ended_are_skipped() -> None:
    scene = Scene()
    await scene.take(*stream_of("r1", TEXT))
    count = len(scene.chunks)
    steps = await scene.take(*stream_of("r1", TEXT), *lives("r1", "Late words of a worker that slept.", attempt=1))
    assert len(scene.chunks) == count and not any(step.part for step in steps)


async def test_a_delta_from_the_middle_of_an_unknown_stream_is_skipped_when_its_call_has_ended() -> None:
    scene = Scene()
    scene.calls.over.add("r1")
    steps = await scene.take(*lives("r1", TEXT)[5:])
    assert not any(step.part for step in steps) and scene.chunks == [] and scene.calls.asked == ["r1"]
    await scene.take(closing("r1", TEXT))
    assert joined(scene.chunks).text == cleaned(TEXT), "what closes the stream says it all again"


async def test_a_stream_whose_beginning_was_lost_is_whole_by_what_closes_it() -> None:
    scene = Scene()
    await scene.take(*lives("r1", TEXT)[5:])
    assert scene.chunks == [] and scene.release.open_streams == 1
    await scene.take(closing("r1", TEXT))
    assert joined(scene.chunks).text == cleaned(TEXT)


async def test_no_question_is_asked_for_a_stream_that_is_open_or_begins() -> None:
    scene = Scene()
    await scene.take(*stream_of("r1", TEXT), aborted("r2"), closing("r3", TEXT))
    assert scene.calls.asked == []


async def test_a_journal_that_is_away_loses_nothing() -> None:
    scene = Scene()
    scene.calls.failures.append(DependencyDownError("postgres", "test"))
    with pytest.raises(DependencyDownError):
        await scene.take(lives("r1", TEXT)[3])
    await scene.take(lives("r1", TEXT)[3], closing("r1", TEXT))
    assert joined(scene.chunks).text == cleaned(TEXT)


async def test_another_text_than_the_one_that_was_streamed_is_never_joined_to_it() -> None:
    scene = Scene()
    await scene.take(*lives("r1", TEXT), closing("r1", "X" + TEXT[1:]))
    assert kinds(scene.chunks) == ["text", "failed"]
    assert scene.chunks[-1].failure is not None and scene.chunks[-1].failure.code == "stream_differs"


async def test_a_text_that_the_provider_held_back_ends_without_what_is_held() -> None:
    scene = Scene()
    await scene.take(closing("r1", TEXT, reason="content_filter"))
    assert kinds(scene.chunks) == ["failed"]


async def test_an_empty_text_and_one_of_tokens_alone_end_without_a_text() -> None:
    scene = Scene()
    await scene.take(closing("r1", ""), closing("r2", "<|im_end|>"))
    assert kinds(scene.of("r1")) == kinds(scene.of("r2")) == ["end"]
    assert joined(scene.of("r2")).ended


async def test_a_stream_that_stands_still_ends_as_failed_and_the_rest_of_it_is_skipped() -> None:
    scene = Scene(stall_s=10)
    await scene.take(*lives("r1", TEXT)[:9])
    scene.now = 9
    await scene.take(lives("r2", TEXT)[0])
    scene.now = 10.5
    [step] = await scene.stalled()
    assert step.over and step.key == key_of(lives("r1", TEXT)[0].meta)
    assert kinds(scene.of("r1"))[-1] == "failed" and scene.release.open_streams == 1
    [late] = await scene.take(closing("r1", TEXT))
    assert not late.part and kinds(scene.of("r1")) == ["text", "failed"]


async def test_a_stream_that_stands_still_after_its_call_ended_waits_for_what_closes_it_without_being_held() -> None:
    scene = Scene(stall_s=10)
    await scene.take(*lives("r1", TEXT)[:9])
    scene.calls.over.add("r1")
    scene.now = 11
    [step] = await scene.stalled()
    assert step.over and not step.chunks and scene.release.open_streams == 0
    await scene.take(closing("r1", TEXT))
    assert joined(scene.chunks).text == cleaned(TEXT) and kinds(scene.chunks) == ["text", "end"]


async def test_no_stream_stands_still_while_its_deltas_may_still_be_unread_or_the_stage_stood() -> None:
    scene = Scene(stall_s=10)
    await scene.take(*lives("r1", TEXT)[:9])
    scene.now = 100
    assert await scene.stalled(behind=True) == []
    scene.release.touch(99)
    assert await scene.stalled() == []
    scene.now = 110
    assert len(await scene.stalled()) == 1


@pytest.mark.parametrize("limit", [{"most_streams": 3}, {"most_characters": 300}, {"most_deltas": 30}])
async def test_memory_is_bounded_by_ending_the_streams_that_began_first(limit: dict[str, int]) -> None:
    scene = Scene(**limit)
    for number in range(40):
        await scene.take(*(delta(f"r{number}", part, part * 10, "aaaaaaaaaa") for part in range(4)))
        scene.chunks += [chunk for step in scene.release.crowded() for chunk in step.chunks]
        assert scene.release.open_streams <= limit.get("most_streams", 40)
        assert scene.release.held_characters <= limit.get("most_characters", 10**6)
        assert scene.release.held_deltas <= limit.get("most_deltas", 10**6)
    assert kinds(scene.of("r0")) == ["failed"] and scene.of("r39") == []
    await scene.take(closing("r39", "a" * 40 + " end"))
    assert joined(scene.of("r39")).text == "a" * 40 + " end"


async def test_partitions_that_went_to_another_take_all_with_them() -> None:
    scene = Scene()
    await scene.take(*lives("r1", TEXT)[:9], partition=1)
    await scene.take(*stream_of("r2", TEXT), partition=1)
    await scene.take(*lives("r3", TEXT)[:9], partition=2)
    assert scene.release.drop({1}) == [key_of(lives("r1", TEXT)[0].meta)]
    assert scene.release.open_streams == 1
    # Read again from the first delta: both are rebuilt, also the one that had ended here.
    scene.chunks.clear()
    await scene.take(*stream_of("r1", TEXT), *stream_of("r2", TEXT), partition=1)
    assert joined(scene.of("r1")).text == joined(scene.of("r2")).text == cleaned(TEXT)
    assert scene.release.drop(None) != [] and scene.release.held_characters == 0 == scene.release.held_deltas


@pytest.mark.parametrize(
    "broken",
    [
        replace(delta("r1", 0, 0, "x"), attempt=-1),
        replace(delta("r1", 0, 0, "x"), start_char=-1),
        replace(closing("r1", "x"), start_char=4),
        replace(delta("r1", 0, 0, "x"), text=Text(ref="sha256:00")),
        replace(delta("", 0, 0, "x")),
    ],
)
async def test_a_delta_that_can_be_none_is_poison(broken: Delta) -> None:
    with pytest.raises(PoisonError):
        await Scene().take(broken)
