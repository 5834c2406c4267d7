"""A question of several megabytes through every stage, on the real broker: from ``submit`` to ``audit``; then again.

The second time it comes from the cache, and the books have what that avoided.
"""

from __future__ import annotations

import json
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest

from processors.claimcheck import ref_of, refs_of
from schemas.records import Answer
from streams.claims import DATAREF, BlockingClaims
from streams.reading import TopicReader
from tests.faults.pipeline import Pipeline, scene
from tests.faults.traffic import Publisher
from tests.support.commands import run_headrace
from tests.support.polling import eventually
from tests.support.stack import TestStack

pytestmark = pytest.mark.stack

DOC = Path(__file__).parents[2] / "docs" / "caching.md"
STAGES = ("admit", "enrich", "complete", "filter", "account")
CACHED = {"default": {"cache": {"exact": True}}}
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
        scene(stack, tmp_path, lane, partitions=1, deployments=CONTEXT, bodies=LIMITS, routes=CACHED) as where,
        Pipeline(where, (STAGES,)) as pipeline,
    ):
        Publisher(where).push_prompt()
        asked: dict[str, Any] = {
            "request_id": f"{lane}-large",
            "query": QUESTION,
            "prompt": where.prompt,
            "ttl_ms": 240_000,
        }
        asked |= {"tenant": where.tenant, "retrieval": {"enabled": False}}
        file = tmp_path / "asked.jsonl"
        file.write_text(json.dumps(asked) + "\n")

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

        # What the page tells consumers to do.
        [program] = re.findall(r"^```python\n(.*?)^```", DOC.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
        told: dict[str, Any] = {}
        exec(program, told)
        assert carried.question is not None
        with psycopg.connect(where.dsn) as connection:
            field = {"inline": carried.question.inline, "ref": carried.question.ref}
            assert told["text_of"](field, where.tenant, connection) == QUESTION

        for command in (
            ("tail", "answers", "--from", "earliest", "--no-follow", "--lane", lane, "--json"),
            ("audit", f"{lane}-large", "--lane", lane, "--tenant", where.tenant, "--json"),
        ):
            shown = run_headrace(*command, environment=where.env)
            assert shown.code == 0, shown.err
            assert QUESTION in shown.out

        file.write_text(json.dumps({**asked, "request_id": f"{lane}-again"}) + "\n")
        ran = run_headrace("submit", str(file), "--wait", "--lane", lane, environment=where.env)
        assert ran.code == 0, ran.err
        assert ran.objects[0]["text"] == answer["text"]
        assert sum(where.provider.paid().values()) == 1
        with TopicReader(where.settings) as reader:
            entries = reader.read(reader.ends(reader.places([f"{lane}.answers"])))
            first, again = (where.codec.decode(entry.value or b"", Answer) for entry in entries)
        assert (again.served_by, again.source_event_id) == ("cache-exact", first.meta.causation_id)
        assert again.avoided_cost_usd == first.cost_usd > 0 and not again.cost_usd
        booked: list[tuple[str, Decimal, Decimal]] = []

        def is_booked() -> bool:
            with psycopg.connect(where.dsn) as connection:
                query = (
                    "SELECT served_by, amount_usd, avoided_cost_usd FROM ledger WHERE lane = %s ORDER BY incurred_at"
                )
                booked[:] = connection.execute(query, (lane,)).fetchall()
            return len(booked) == 2

        eventually(is_booked, "both requests are in the books")
        assert booked == [("model", first.cost_usd, 0), ("cache-exact", 0, first.cost_usd)]
        assert set(pipeline.stop().values()) == {0}
