"""The index stage, with the shipped fakes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import pytest

from processors.embeddings import HashingEmbedder
from processors.event import Incoming
from processors.index import Index, IndexOutcome, IndexPolicy
from processors.passages import DocumentKey, FakePassages, NewPassage
from schemas.errors import DependencyDownError, PoisonError
from schemas.records import Document, Meta, Text

START = datetime(2026, 1, 1, tzinfo=UTC)
KEY = DocumentKey(tenant="acme", namespace="default", document_id="guide")
PARAGRAPHS = [f"Paragraph {n} tells of subject {n}. " + "It goes on for a while. " * 12 for n in range(6)]
BODY = "\n\n".join(PARAGRAPHS)
POLICY = IndexPolicy(chunk_chars=400, overlap_chars=40)


class Bench:
    """A stage with its fakes."""

    def __init__(self, policy: IndexPolicy = POLICY, store: FakePassages | None = None, model: str = "m") -> None:
        self.store, self.embedder = store or FakePassages(), HashingEmbedder(model=model)
        self.outcomes: list[IndexOutcome] = []
        self.index = Index(self.store, self.embedder, policy=policy, observe=self.outcomes.append)

    async def feed(
        self,
        body: str | None,
        offset: int = 0,
        *,
        title: str = "",
        metadata: Mapping[str, str] | None = None,
        deleted: bool = False,
        media_type: str = "text/plain",
        document_id: str = "guide",
    ) -> IndexOutcome:
        document = Document(
            meta=Meta(event_id=f"e{offset}", request_id="", tenant="acme", lane="live"),
            document_id=document_id,
            title=title,
            body=None if body is None else Text(inline=body),
            metadata=metadata or {},
            deleted=deleted,
            media_type=media_type,
        )
        incoming = Incoming(
            record=document,
            meta=document.meta,
            raw=b"",
            appended_at=START + timedelta(seconds=offset),
            position=(0, offset),
        )
        assert await self.index(incoming) == []
        return self.outcomes[-1]

    @property
    def passages(self) -> tuple[NewPassage, ...]:
        return self.store.passages[KEY]


async def test_passages_are_exact_stretches_of_the_document_and_cover_it() -> None:
    bench = Bench()
    body = BODY + "\n\nUmlauts ä ö ü, 日本語 and 😀 count as characters. " * 20
    await bench.feed(body)
    assert len(bench.passages) > 6
    covered = set()
    for ordinal, passage in enumerate(bench.passages):
        assert passage.ordinal == ordinal
        assert body[passage.start_char : passage.end_char] == passage.text
        assert len(passage.text) <= POLICY.chunk_chars
        assert passage.digest == hashlib.sha256(passage.text.encode()).hexdigest()
        covered |= set(range(passage.start_char, passage.end_char))
    assert all(body[at].isspace() for at in set(range(len(body))) - covered)


async def test_a_document_pays_for_its_passages_whose_vectors_are_kept_with_it() -> None:
    bench = Bench()
    await bench.feed(BODY, 7)
    assert len(bench.embedder.payers) == len(bench.embedder.embedded) > 1
    for payer in bench.embedder.payers:
        assert payer is not None and not payer.keeps
        assert (payer.stage, payer.meta.event_id, payer.meta.tenant) == ("index", "e7", "acme")
        assert payer.attempt(0).accepted_at is None, "it is no request's cost"


async def test_an_unchanged_document_is_not_embedded_again() -> None:
    bench = Bench()
    assert (await bench.feed(BODY, 0)).outcome == "indexed"
    bench.embedder.embedded.clear()
    assert await bench.feed(BODY, 1) == IndexOutcome(outcome="unchanged")
    assert not bench.embedder.embedded


async def test_of_a_changed_document_only_the_changed_passages_are_embedded() -> None:
    bench = Bench(IndexPolicy(chunk_chars=400, overlap_chars=0))
    await bench.feed(BODY, 0)
    bench.embedder.embedded.clear()
    changed = "\n\n".join([*PARAGRAPHS[:-1], "The last one is new."])
    second = await bench.feed(changed, 1)
    assert len(bench.embedder.embedded) == second.embedded == 1
    assert second.reused == second.passages - 1 >= 4
    assert "".join(p.text for p in bench.passages).endswith("The last one is new.")


async def test_new_metadata_is_stored_without_embedding_anything() -> None:
    bench = Bench()
    await bench.feed(BODY, 0, metadata={"product": "a"})
    outcome = await bench.feed(BODY, 1, metadata={"product": "b"})
    assert (outcome.outcome, outcome.embedded) == ("indexed", 0)
    assert bench.store.documents[KEY].metadata == {"product": "b"}


async def test_the_title_is_embedded_with_each_passage() -> None:
    bench = Bench()
    await bench.feed("Short.", title="Lambda expressions")
    assert bench.embedder.embedded == ["Lambda expressions\nShort."]
    assert bench.passages[0].text == "Short."


@pytest.mark.parametrize("deleted", [True, False])
async def test_a_removal_deletes_and_an_older_version_does_not_come_back(deleted: bool) -> None:
    bench = Bench()
    await bench.feed(BODY, 0)
    outcome = await bench.feed(BODY if deleted else None, 1, deleted=deleted)
    assert outcome.outcome == "deleted"
    assert bench.passages == ()
    assert (await bench.feed(BODY, 0)).outcome == "stale"
    assert bench.passages == ()
    assert (await bench.feed(BODY, 2)).outcome == "indexed"


async def test_an_older_version_delivered_again_changes_nothing() -> None:
    bench = Bench()
    await bench.feed("new", 5)
    bench.embedder.embedded.clear()
    assert (await bench.feed("old", 4)).outcome == "stale"
    assert [p.text for p in bench.passages] == ["new"]
    assert not bench.embedder.embedded


async def test_a_version_between_two_equal_ones_does_not_win() -> None:
    bench = Bench()
    await bench.feed("a", 1)
    await bench.feed("a", 5)
    await bench.feed("b", 3)
    assert [p.text for p in bench.passages] == ["a"]


async def test_a_redelivered_document_gives_the_same_passage_ids() -> None:
    one, two = Bench(), Bench()
    await one.feed(BODY)
    await two.feed(BODY)
    assert [p.passage_id for p in one.passages] == [p.passage_id for p in two.passages]
    assert len({p.passage_id for p in one.passages}) == len(one.passages)


async def test_another_chunk_size_or_model_indexes_anew_under_another_version() -> None:
    first = Bench()
    await first.feed(BODY)
    resized = Bench(IndexPolicy(chunk_chars=300, overlap_chars=40), first.store)
    assert (await resized.feed(BODY)).outcome == "indexed"
    remodelled = Bench(POLICY, first.store, model="other")
    outcome = await remodelled.feed(BODY)
    assert outcome.embedded == outcome.passages
    assert len({first.index.index_version, resized.index.index_version, remodelled.index.index_version}) == 3


async def test_what_was_embedded_before_a_failure_is_not_embedded_again() -> None:
    bench = Bench(IndexPolicy(chunk_chars=400, overlap_chars=0, keep_every=2))
    bench.store.failure = DependencyDownError("postgres", "away")
    with pytest.raises(DependencyDownError):
        await bench.feed(BODY)
    bench.embedder.embedded.clear()
    outcome = await bench.feed(BODY)
    assert (outcome.outcome, outcome.embedded) == ("indexed", 0)
    assert not bench.embedder.embedded


async def test_a_failure_half_way_leaves_the_old_passages() -> None:
    bench = Bench()
    await bench.feed("old", 0)
    bench.embedder.failure = DependencyDownError("embeddings", "away")
    with pytest.raises(DependencyDownError):
        await bench.feed("new", 1)
    assert [p.text for p in bench.passages] == ["old"]


@pytest.mark.parametrize("body", ["", " \n\t "])
async def test_an_empty_document_has_no_passages(body: str) -> None:
    bench = Bench()
    await bench.feed("something", 0)
    assert (await bench.feed(body, 1)).outcome == "empty"
    assert bench.passages == ()


@pytest.mark.parametrize(
    ("body", "title", "document_id", "named"),
    [
        ("a\x00b", "", "guide", "body"),
        ("a", "t\x00", "guide", "title"),
        ("a" * 101, "", "guide", "101"),
        ("a", "", "", "document_id"),
    ],
)
async def test_what_cannot_be_stored_is_poison_and_names_the_field(
    body: str, title: str, document_id: str, named: str
) -> None:
    bench = Bench(IndexPolicy(chunk_chars=50, overlap_chars=0, max_chars=100))
    with pytest.raises(PoisonError, match=named):
        await bench.feed(body, title=title, document_id=document_id)


async def test_a_claim_check_is_poison_until_it_is_handled() -> None:
    bench = Bench()
    meta = Meta(event_id="e", request_id="", tenant="acme", lane="live")
    document = Document(meta=meta, document_id="guide", body=Text(ref="sha256:00"))
    with pytest.raises(PoisonError, match=r"body\.ref"):
        await bench.index(Incoming(record=document, meta=meta, raw=b"", appended_at=START))


@pytest.mark.parametrize("body", ["word " * 200_000, "a" * 300_000, "line\n" * 200_000])
async def test_a_megabyte_without_seams_is_cut_in_bounded_time(body: str) -> None:
    bench = Bench(IndexPolicy())
    outcome = await bench.feed(body)
    assert outcome.passages >= len(body) / 1000
    assert all(body[p.start_char : p.end_char] == p.text for p in bench.passages)


async def test_markdown_is_cut_at_its_headings() -> None:
    bench = Bench(IndexPolicy(chunk_chars=40, overlap_chars=0))
    await bench.feed("# One\n\nText of one.\n\n# Two\n\nText of two, a little longer.", media_type="text/markdown")
    assert [p.text.splitlines()[0] for p in bench.passages] == ["# One", "# Two"]


def test_an_overlap_as_long_as_a_chunk_is_refused() -> None:
    with pytest.raises(ValueError, match="overlap_chars"):
        IndexPolicy(chunk_chars=100, overlap_chars=100)
