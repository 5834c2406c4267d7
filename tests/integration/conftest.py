"""Fixtures that several of the integration tests share. A test file that needs another kind has its own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from processors.model import ModelClients
from processors.postgres import Database
from tests.provider.here import Here, serving
from tests.provider.process import ProviderProcess
from tests.support.stack import TestStack


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProviderProcess]:
    """The provider as a process of its own, for all tests of a file."""
    started = ProviderProcess(tmp_path_factory.mktemp("provider") / "calls.jsonl")
    yield started
    started.stop()


@pytest.fixture
async def here() -> AsyncIterator[Here]:
    """The provider on the test's own event loop."""
    async with serving() as started:
        yield started


@pytest.fixture
async def client() -> AsyncIterator[ModelClients]:
    """A client that speaks every provider's dialect."""
    opened = ModelClients(max_body_bytes=1_000_000)
    yield opened
    await opened.close()


@pytest.fixture
async def database(stack: TestStack) -> AsyncIterator[Database]:
    """The stack's Postgres."""
    opened = await Database.open(stack.postgres_dsn)
    yield opened
    await opened.close()
