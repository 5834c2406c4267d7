"""A replay of enrich searches the index that was recorded, and says clearly where that is gone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from processors.clock import FakeClock
from processors.control import FakeControl
from processors.embeddings import HashingEmbedder
from processors.enrich.stage import Enrich
from processors.event import Incoming
from processors.index import Index
from processors.passages import FakePassages, History
from processors.prompts import FakePrompts
from schemas.errors import ConfigurationError
from schemas.records import Admitted, Document, Enrichment, Meta, Text
from streams.replay.changes import IndexChoice, changes_for, check_sets
from streams.replay.past_index import PastIndex, Recorded, check_kept
from tests.support.enrichments import enrichment

START = datetime(2026, 1, 1, tzinfo=UTC)
RECORDED = IndexChoice(recorded=True)
OR_TODAY = IndexChoice(recorded=True, or_today=True)
OLD, NEW = "Lamps are lit at dusk.", "Lamps are lit at noon."


class Scene:
    """A document that was changed after a request was enriched from it."""

    def __init__(self) -> None:
        self.clock, self.embedder = FakeClock(START), HashingEmbedder()
        self.store, self.recorded = FakePassages(self.clock), Recorded()
        self.index = Index(self.store, self.embedder)
        self.offset = 0

    async def document(self, text: str | None) -> None:
        self.offset += 1
        meta = Meta(event_id=f"d{self.offset}", request_id="", tenant="acme", lane="live")
        body = None if text is None else Text(inline=text)
        document = Document(meta=meta, document_id="d", namespace="default", body=body, deleted=text is None)
        position = (0, self.offset)
        await self.index(Incoming(record=document, meta=meta, raw=b"", appended_at=self.clock.now(), position=position))
        self.clock.advance(60)

    def stage(self) -> Enrich:
        return Enrich(
            self.store, self.embedder, prompts=FakePrompts(), control=FakeControl(), clock=self.clock,
            index_version=self.index.index_version,
        )  # fmt: skip

    async def live(self, request_id: str = "r1") -> Enrichment:
        [record] = await self.stage()(admitted(request_id))
        assert isinstance(record, Enrichment)
        self.recorded.put(record, self.clock.now())
        self.clock.advance(60)
        return record

    async def replayed(self, choice: IndexChoice, request_id: str = "r1") -> Enrichment:
        past = PastIndex(choice, self.store, await self.store.history(), self.recorded)
        stage = Enrich(
            past, self.embedder, prompts=FakePrompts(), control=FakeControl(), clock=self.clock,
            index_version=self.index.index_version,
        )  # fmt: skip
        [record] = await past.of_then(stage)(admitted(request_id))
        assert isinstance(record, Enrichment)
        return record


def admitted(request_id: str) -> Incoming[Admitted]:
    one = enrichment(request_id, "When are lamps lit?")
    record = Admitted(meta=one.meta, request=one.request, admission=replace(one.admission, expires_at=None))
    return Incoming(record=record, meta=one.meta, raw=b"", appended_at=START)


def found(record: Enrichment) -> Sequence[str | None]:
    return [one.text.inline for one in record.grounding.passages]


async def test_a_request_gets_the_passages_that_it_had_whatever_became_of_the_document() -> None:
    scene = Scene()
    await scene.document(OLD)
    first = await scene.live()
    await scene.document(NEW)
    again, today = await scene.replayed(RECORDED), await scene.replayed(IndexChoice())
    assert (found(again), found(today)) == ([OLD], [NEW])
    assert again.grounding.passages == first.grounding.passages
    assert again.grounding.index_version == first.grounding.index_version
    assert again.grounding.index_as_of == START + timedelta(seconds=60)
    assert (today.grounding.index_as_of, first.grounding.index_as_of) == (None, None)
    await scene.document(None)
    assert found(await scene.replayed(RECORDED)) == [OLD]
    assert found(await scene.replayed(IndexChoice())) == []
    # As of a time, whenever the request was.
    assert found(await scene.replayed(IndexChoice(at=START + timedelta(seconds=150)))) == [NEW]


async def test_what_was_added_later_is_not_found_by_a_request_that_found_nothing() -> None:
    scene = Scene()
    empty = await scene.live()
    await scene.document(NEW)
    again = await scene.replayed(RECORDED)
    assert found(again) == []
    assert (again.grounding.index_version, again.grounding.index_as_of) == (empty.grounding.index_version, START)


async def test_an_index_that_is_gone_is_named_with_what_is_left_and_what_to_do() -> None:
    scene = Scene()
    await scene.document(OLD)
    first = await scene.live()
    await scene.document(NEW)
    scene.store.forget(scene.clock.now())
    with pytest.raises(ConfigurationError) as raised:
        await scene.replayed(RECORDED)
    said = str(raised.value)
    for part in (
        f"the index version {first.grounding.index_version} of the request r1, as of 2026-01-01T00:01:00Z, is gone",
        "kept since 2026-01-01T00:02:00Z",
        f"there are passages of {scene.index.index_version}",
        "--set index=recorded-or-today",
    ):
        assert part in said
    instead = await scene.replayed(OR_TODAY)
    assert (found(instead), instead.grounding.index_as_of) == ([NEW], None)


async def test_a_version_that_was_never_here_or_that_nobody_can_embed_for_is_an_error() -> None:
    scene = Scene()
    await scene.document(OLD)
    record = await scene.live()
    for request_id, version, model, says in (
        ("r2", "other/v9", record.grounding.embedding_model, "other/v9 of the request r2"),
        ("r3", record.grounding.index_version, "another", "set it to another"),
    ):
        grounding = replace(record.grounding, index_version=version, embedding_model=model)
        scene.recorded.put(
            replace(record, meta=replace(record.meta, request_id=request_id), grounding=grounding), scene.clock.now()
        )
        with pytest.raises(ConfigurationError, match=says):
            await scene.replayed(RECORDED, request_id)
        assert found(await scene.replayed(OR_TODAY, request_id)) == [OLD]
    with pytest.raises(ConfigurationError, match="no enrichment of it is recorded"):
        await scene.replayed(RECORDED, "nobody")
    with pytest.raises(ConfigurationError, match="kept since 2026-01-01T00:00:00Z"):
        check_kept(IndexChoice(at=START - timedelta(seconds=1)), await scene.store.history())


def test_the_time_from_which_the_index_is_kept_is_accepted_as_it_is_said() -> None:
    history = History(START + timedelta(microseconds=300_400), frozenset())
    with pytest.raises(ConfigurationError) as refused:
        check_kept(IndexChoice(at=START), history)
    advised = str(refused.value).partition("kept since ")[2].split()[0]
    assert advised == "2026-01-01T00:00:00.301Z"
    check_kept(changes_for("enrich", {"index": advised}).index, history)


@pytest.mark.parametrize(
    ("value", "choice"),
    [
        ("today", IndexChoice()),
        ("recorded", RECORDED),
        ("recorded-or-today", OR_TODAY),
        ("2026-05-01T10:00", IndexChoice(at=datetime(2026, 5, 1, 10, tzinfo=UTC))),
        ("2026-05-01T10:00+02:00", IndexChoice(at=datetime(2026, 5, 1, 8, tzinfo=UTC))),
    ],
)
def test_an_index_is_chosen_by_name_or_by_time(value: str, choice: IndexChoice) -> None:
    check_sets(("enrich", "complete"), {"index": value})
    assert changes_for("enrich", {"index": value}).index == choice
    assert not changes_for("complete", {"index": value}, first=False).index.past


def test_an_index_that_nobody_searches_or_knows_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="none of the stages complete, filter searches an index"):
        check_sets(("complete", "filter"), {"index": "recorded"})
    with pytest.raises(ConfigurationError, match="write today, recorded, recorded-or-today, or a time"):
        check_sets(("enrich",), {"index": "v1"})
