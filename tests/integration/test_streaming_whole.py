"""A streamed question through every stage with the fake provider, from ``ask --stream`` back to it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.pipeline import Pipeline, scene
from tests.faults.traffic import Publisher
from tests.support.commands import Ran, run_headrace
from tests.support.stack import TestStack

pytestmark = pytest.mark.stack

STAGES = ("admit", "enrich", "complete", "release", "filter")


def test_a_question_streams_through_every_stage_and_its_answer_agrees(
    stack: TestStack, lane: str, tmp_path: Path
) -> None:
    assert stack.embeddings_url
    with scene(stack, tmp_path, lane, partitions=1) as where, Pipeline(where, (STAGES,)) as pipeline:
        Publisher(where).push_prompt()

        def ask(text: str, *options: str) -> Ran:
            common = ("--stream", "--json", "--lane", lane, "--tenant", where.tenant, "--prompt", where.prompt)
            return run_headrace("ask", text, *common, *options, environment=where.env)

        ran = ask("[[words:120]] Go on and on.")
        assert ran.code == 0, ran.err
        *chunks, answer = ran.objects
        assert [chunk["kind"] for chunk in chunks[-2:]] == ["text", "end"] and len(chunks) > 10
        assert "".join(chunk["text"] for chunk in chunks[:-1]) == answer["text"]
        assert [v["outcome"] for v in answer["verdicts"] if v["guard"] == "stream"] == ["pass"]

        # An answer of one sentence has no live delta, and is streamed by what closes it.
        *chunks, answer = ask("Be short.").objects
        assert "".join(chunk["text"] or "" for chunk in chunks) == answer["text"]

        printed = run_headrace("stream", ran.objects[0]["request_id"], "--lane", lane, environment=where.env)
        assert printed.out.strip() == "".join(c["text"] or "" for c in ran.objects[:-1]).strip()
        assert set(pipeline.stop().values()) == {0}
