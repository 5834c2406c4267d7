"""A question of several megabytes through every stage, on the real broker: from ``submit`` to ``audit``."""

from __future__ import annotations

import json
from pathlib import Path

import psycopg
import pytest

from processors.claimcheck import ref_of, refs_of
from schemas.records import Answer
from streams.claims import DATAREF, BlockingClaims
from streams.reading import TopicReader
from tests.faults.pipeline import Pipeline, scene
from tests.faults.traffic import Publisher
from tests.support.commands import run_headrace
from tests.support.stack import TestStack

pytestmark = pytest.mark.stack

STAGES = ("admit", "enrich", "complete", "filter")
# Three megabytes of words.
QUESTION = "Sum this up. " + "the quick brown fox jumps over the lazy dog " * 70_000
LIMITS = {"message_chars": 4_000_000, "total_chars": 4_000_000}
CONTEXT = {"fake": {"context_tokens": 100_000_000, "total_timeout_s": 40.0, "first_token_timeout_s": 30.0}}


def test_a_question_of_three_megabytes_goes_through_every_stage_and_is_shown_whole(
    stack: TestStack, lane: str, tmp_path: Path
) -> None:
    assert stack.embeddings_url
    ref = ref_of(QUESTION.encode())
    with (
        scene(stack, tmp_path, lane, partitions=1, deployments=CONTEXT, bodies=LIMITS) as where,
        Pipeline(where, (STAGES,)) as pipeline,
    ):
        Publisher(where).push_prompt()
        asked = {"request_id": f"{lane}-large", "query": QUESTION, "prompt": where.prompt, "ttl_ms": 240_000}
        file = tmp_path / "asked.jsonl"
        file.write_text(json.dumps({**asked, "tenant": where.tenant, "retrieval": {"enabled": False}}) + "\n")

        ran = run_headrace("submit", str(file), "--wait", "--lane", lane, environment=where.env)
        assert ran.code == 0, ran.err
        [answer] = ran.objects
        assert answer["status"] == "answered" and answer["text"]
        assert where.provider.paid()[f"{lane}-large"] == 1

        with psycopg.connect(where.dsn) as connection:
            [stored] = connection.execute("SELECT digest FROM bodies WHERE tenant = %s", (where.tenant,)).fetchall()
        assert stored[0].hex() == ref.removeprefix("sha256:")

        # On the topic it is a reference; who reads it with the commands, or as they do, has the text.
        with TopicReader(where.settings) as reader:
            [entry] = reader.read(reader.ends(reader.places([f"{lane}.answers"])))
        assert entry.value is not None and entry.size < 100_000
        assert dict(entry.headers)[DATAREF] == ref.encode()
        carried = where.codec.decode(entry.value, Answer)
        assert set(refs_of(carried)) == {ref}
        whole = BlockingClaims(where.settings, where.codec).whole(carried, entry.value)
        assert whole.question is not None and whole.question.inline == QUESTION

        for command in (
            ("tail", "answers", "--from", "earliest", "--no-follow", "--lane", lane, "--json"),
            ("audit", f"{lane}-large", "--lane", lane, "--tenant", where.tenant, "--json"),
        ):
            shown = run_headrace(*command, environment=where.env)
            assert shown.code == 0, shown.err
            assert QUESTION in shown.out
        assert set(pipeline.stop().values()) == {0}
