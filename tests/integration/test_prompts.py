"""The prompt store on real Postgres, and the fake beside it."""

from __future__ import annotations

import asyncio

import pytest

from processors.postgres import Database
from processors.prompts import SHIPPED, FakePrompts, PgPrompts, PromptStore, digest_of, parse_reference
from schemas.errors import ConfigurationError

pytestmark = pytest.mark.stack


@pytest.fixture(params=["postgres", "fake"])
async def store(request: pytest.FixtureRequest, database: Database) -> PromptStore:
    return PgPrompts(database) if request.param == "postgres" else FakePrompts()


async def test_every_new_text_is_a_version_and_the_same_text_keeps_its_own(store: PromptStore, lane: str) -> None:
    assert [await store.push(lane, text) for text in ("a", "b", "a", "c", "b")] == [1, 2, 1, 3, 2]
    second = await store.get(lane, 2)
    assert second is not None
    assert (second.text, second.digest, second.reference) == ("b", digest_of("b"), f"{lane}@2")
    latest = await store.show(lane)
    assert latest is not None and latest.version == 3
    assert [p.version for p in await store.list() if p.name == lane] == [1, 2, 3]


async def test_what_is_not_there_is_none(store: PromptStore, lane: str) -> None:
    assert await store.get(lane, 1) is None
    assert await store.show(lane) is None
    assert await store.get("answer", 999_999_999) is None


async def test_the_shipped_prompt_is_there_without_a_push(store: PromptStore) -> None:
    shipped = await store.get("answer", 1)
    assert shipped is not None and shipped.text == SHIPPED["answer"]
    assert "answer@1" in [prompt.reference for prompt in await store.list()]


async def test_a_push_to_a_shipped_name_never_takes_its_first_version(store: PromptStore, lane: str) -> None:
    version = await store.push("answer", f"other text {lane}")
    assert version >= 2
    first = await store.get("answer", 1)
    assert first is not None and first.text == SHIPPED["answer"]
    assert await store.push("answer", SHIPPED["answer"]) == 1


async def test_pushes_at_once_get_versions_of_their_own(database: Database, lane: str) -> None:
    store = PgPrompts(database)
    versions = await asyncio.gather(*(store.push(lane, f"text {n % 6}") for n in range(24)))
    assert sorted(set(versions)) == [1, 2, 3, 4, 5, 6]
    for number, version in enumerate(versions):
        stored = await store.get(lane, version)
        assert stored is not None and stored.text == f"text {number % 6}"


def test_the_shipped_prompt_does_not_change() -> None:
    # Events name it answer@1: a better one ships under another name.
    assert digest_of(SHIPPED["answer"]) == "d9d0b665361acb4ab190807a15683421fed90e5fa90257e334d1c41f77ba8c4a"


@pytest.mark.parametrize("reference", ["", "@1", "a@", "a@x", "a@1@2", "a@²"])
def test_a_wrong_reference_is_refused(reference: str) -> None:
    with pytest.raises(ConfigurationError):
        parse_reference(reference)


def test_a_reference_may_leave_the_version_open() -> None:
    assert (parse_reference("a"), parse_reference("a@12")) == (("a", None), ("a", 12))
