"""Prompts that events name go with an export, and into another cluster where nothing else has their names."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from processors.prompts import FakePrompts, StoredPrompt, check_loadable, digest_of
from schemas.errors import ConfigurationError
from schemas.record import Record
from schemas.records import Admitted, Answer, Control, Meta, PromptRef, Request
from streams.exporting.prompts import named_by, read_prompts, write_prompts
from tests.support.enrichments import enrichment
from tests.support.replaying import completion

META = Meta(event_id="e", request_id="r", tenant="acme", lane="live")
ENRICHED = enrichment("r")
ASKED = replace(ENRICHED.request, prompt=PromptRef(name="support", version="7"))


def stored(name: str, version: int, text: str) -> StoredPrompt:
    return StoredPrompt(name=name, version=version, digest=digest_of(text), text=text)


@pytest.mark.parametrize(
    ("record", "named"),
    [
        (ENRICHED, {("answer", 1): ""}),
        (
            replace(ENRICHED, grounding=replace(ENRICHED.grounding, prompt_version="rag@3", prompt_digest="ab")),
            {("rag", 3): "ab"},
        ),
        (completion(1, "live"), {("answer", 1): ""}),
        (Admitted(meta=META, request=ASKED, admission=ENRICHED.admission), {("support", 7): ""}),
        (ASKED, {("support", 7): ""}),
        (replace(ASKED, prompt=PromptRef(name="support")), {}),
        (Answer(meta=META, status="answered", prompt_version="support@2", prompt_digest="cd"), {("support", 2): "cd"}),
        (Answer(meta=META, status="failed"), {}),
        (Control(meta=META, kind="prompt", name="support", version="4", digest="ef"), {("support", 4): "ef"}),
        (Control(meta=META, kind="prompt", name="support", version="support@4"), {("support", 4): ""}),
        (Control(meta=META, kind="prompt", name="support", removed=True), {}),
        (Control(meta=META, kind="pause", name="complete", version="4"), {}),
        (Request(meta=META, prompt=PromptRef(name="x", version="not a number")), {}),
    ],
)
def test_an_event_names_its_prompts(record: Record, named: dict[tuple[str, int], str]) -> None:
    assert dict(named_by(record)) == named


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    prompts = [stored("a", 1, "One\n\u2028{{ passages | numbered }}"), stored("b", 12, "Two")]
    assert read_prompts(write_prompts(tmp_path, prompts)) == prompts


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"template": "Another"}, "not what its digest says"),
        ({"name": ""}, "not what its digest says"),
        ({"version": 0}, "not what its digest says"),
        ({"version": "x"}, "no exported prompt"),
        ({"template": "{% if %}", "digest": digest_of("{% if %}")}, "line 1"),
    ],
)
def test_a_line_that_is_no_prompt_is_named(change: dict[str, object], said: str, tmp_path: Path) -> None:
    file = write_prompts(tmp_path, [stored("a", 1, "One")])
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}) + "\n")
    with pytest.raises(ConfigurationError, match=said) as refused:
        read_prompts(file)
    assert f"{file}, line 1" in str(refused.value)


async def test_versions_are_stored_where_they_are_not_there_and_nothing_is_overwritten() -> None:
    store = FakePrompts()
    await store.push("support", "One")
    new = [stored("support", 1, "One"), stored("support", 7, "Seven"), stored("other", 2, "Two")]
    assert await store.load(new) == 2
    assert await store.load(new) == 0
    assert (await store.get("support", 7)) == stored("support", 7, "Seven")
    assert await store.push("support", "Later") == 8
    with pytest.raises(ConfigurationError) as refused:
        await store.load([stored("other", 2, "Changed"), stored("support", 9, "Seven"), stored("fresh", 1, "F")])
    assert "other@2 has another text here" in str(refused.value)
    assert "support@9 is support@7 here" in str(refused.value)
    assert await store.get("fresh", 1) is None, "all or none"
    assert (await store.get("other", 2)) == stored("other", 2, "Two")


def test_what_the_package_ships_is_there_already() -> None:
    shipped = next(iter(FakePrompts().prompts.values()))
    assert check_loadable([shipped], {(shipped.name, 1): shipped.digest}) == []
