"""A streamed question through every stage with the fake provider, in each of its forms, from ``ask`` back to it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.faults.pipeline import Pipeline, Scene, scene
from tests.faults.traffic import Publisher
from tests.provider.process import ProviderProcess
from tests.support.commands import Ran, run_headrace
from tests.support.polling import eventually
from tests.support.stack import TestStack

pytestmark = pytest.mark.stack

STAGES = ("admit", "enrich", "complete", "release", "filter", "account")


@pytest.fixture
def provider(tmp_path: Path) -> Iterator[ProviderProcess]:
    started = ProviderProcess(tmp_path / "provider.jsonl")
    yield started
    started.stop()


def native(provider: ProviderProcess) -> dict[str, Any]:
    """Routes to the same provider in the forms that it has besides the usual one."""
    common: dict[str, Any] = {"api_key_env": "NATIVE_TEST_KEY", "total_timeout_s": 20.0}
    common |= {"price": {"prompt": "0.15", "completion": "0.60"}}
    return {
        "deployments": {
            "claude": {**common, "base_url": provider.url, "provider": "anthropic", "model": "claude"},
            "azure": {**common, "base_url": provider.url, "provider": "azure", "model": "azure"},
        },
        "routes": {name: {"deployment": name, "minimum_score": -1} for name in ("claude", "azure")},
    }


def test_a_question_streams_through_every_stage_and_its_answer_agrees(
    stack: TestStack, lane: str, tmp_path: Path, provider: ProviderProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert stack.embeddings_url
    monkeypatch.setenv("NATIVE_TEST_KEY", "k")
    with (
        scene(stack, tmp_path, lane, shared=provider, partitions=1, **native(provider)) as where,
        Pipeline(where, (STAGES,)) as pipeline,
    ):
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

        # So do answers of Anthropic's own API and of Azure's form, by a line of settings.
        for name in ("claude", "azure"):
            *chunks, answer = ask("[[words:60]] On and on.", "--route", name).objects
            assert "".join(chunk["text"] or "" for chunk in chunks) == answer["text"]
            assert answer["model"] == name
            assert not answer["usage"]["estimated"] and float(answer["cost_usd"]) > 0

        printed = run_headrace("stream", ran.objects[0]["request_id"], "--lane", lane, environment=where.env)
        assert printed.out.strip() == "".join(c["text"] or "" for c in ran.objects[:-1]).strip()
        _is_booked_under_all_that_it_was_asked_for(where, tmp_path)
        _fits_together(where)
        assert set(pipeline.stop().values()) == {0}


def _fits_together(where: Scene) -> None:
    """What real workers wrote has causes, ids and bytes as they have to be, and the filter makes it again."""
    options = ("--lane", where.lane, "--since", "1h", "--grace-s", "0", "--streams", "--json")
    ran = run_headrace("audit", "verify", *options, environment=where.env)
    *findings, summary = ran.objects
    assert findings == [], ran.err
    assert summary["answers"] == summary["requests"] == summary["filtered_again"] == 5
    assert summary["kinds"]["deltas"] > 4 and summary["kinds"]["chunks"] > 4


def _is_booked_under_all_that_it_was_asked_for(where: Scene, folder: Path) -> None:
    """From a producer's line to the sums of the ledger, by each of the names that it can be broken down by."""
    named = {"team": "search", "user": "kim", "session": "s-17", "feature": "chat"}
    file = folder / "requests.jsonl"
    file.write_text(json.dumps({"query": "How does the lamp work?", "prompt": where.prompt, **named}) + "\n")
    common = ("--lane", where.lane, "--tenant", where.tenant)
    sent = run_headrace("submit", str(file), "--wait", "--json", *common, environment=where.env)
    assert sent.code == 0, sent.err
    wanted = {**named, "tenant": where.tenant, "model": "fake", "day": f"{datetime.now(UTC):%Y-%m-%d}"}

    def groups(by: str) -> dict[str, dict[str, Any]]:
        ran = run_headrace("costs", "--by", by, "--lane", where.lane, "--json", environment=where.env)
        return {group[by]: group for group in ran.objects[0]["groups"]}

    eventually(lambda: "kim" in groups("user"), "the ledger has it")
    for by, name in wanted.items():
        assert float(groups(by)[name]["total_usd"]) > 0, by
        assert (groups(by)[name]["attempts"] == 1) == (by in named), by
