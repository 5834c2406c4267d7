"""The embedding model itself, and its server's API in front of it."""

from __future__ import annotations

import asyncio
import base64
import threading
import time
from collections.abc import AsyncIterator, Sequence

import numpy as np
import pytest
import pytest_asyncio
from aiohttp.test_utils import TestClient, TestServer

from infra.embedded.embedding_model import DIMENSION, MAX_TOKENS, MODEL_NAME, Embedded, EmbeddingModel, pool
from infra.embedded.embedding_server import EXECUTOR, application
from tests.support.polling import until


@pytest.fixture(scope="module")
def model() -> EmbeddingModel:
    return EmbeddingModel()


@pytest_asyncio.fixture
async def client(model: EmbeddingModel) -> AsyncIterator[TestClient]:
    async with TestClient(TestServer(application(model))) as started:
        yield started


def test_related_texts_are_nearer_than_unrelated_ones_and_vectors_have_length_1(model: EmbeddingModel) -> None:
    query, related, unrelated = model.embed(
        ["How do I sort a list in Python?", "list.sort() orders the items of a list.", "The soup needs more salt."]
    ).vectors
    assert query @ related > query @ unrelated + 0.3
    for vector in (query, related, unrelated):
        assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)


def test_a_text_has_the_same_vector_alone_and_among_longer_ones(model: EmbeddingModel) -> None:
    texts = [f"number {index} " + "and so on " * index for index in range(40)]
    together = model.embed(texts).vectors
    for index in (0, 17, 39):
        alone = model.embed([texts[index]]).vectors[0]
        # int8 activations are scaled by the whole batch, so not the same bits.
        assert together[index] @ alone > 0.97


def test_tokens_are_counted_without_padding_and_texts_are_cut(model: EmbeddingModel) -> None:
    assert model.embed(["hello"]).tokens == 3
    assert model.embed(["hello", "hello hello hello"]).tokens == 3 + 5
    assert model.embed(["hello " * 1000]).tokens == MAX_TOKENS


def test_padding_has_no_weight_in_the_mean() -> None:
    hidden = np.array([[[3.0, 4.0], [100.0, -7.0]]], dtype=np.float32)
    assert pool(hidden, np.array([[1, 0]]))[0].tolist() == pytest.approx([0.6, 0.8])


async def test_a_list_and_a_single_text_are_answered_in_order_with_usage(client: TestClient) -> None:
    reply = await client.post("/v1/embeddings", json={"model": MODEL_NAME, "input": ["hello", "a longer text"]})
    body = await reply.json()
    assert [entry["index"] for entry in body["data"]] == [0, 1]
    assert all(len(entry["embedding"]) == DIMENSION for entry in body["data"])
    assert body["usage"] == {"prompt_tokens": 8, "total_tokens": 8}
    single = await (await client.post("/v1/embeddings", json={"model": MODEL_NAME, "input": "hello"})).json()
    assert np.dot(single["data"][0]["embedding"], body["data"][0]["embedding"]) > 0.97


async def test_base64_holds_the_same_numbers_as_float(client: TestClient) -> None:
    as_float = await (await client.post("/v1/embeddings", json={"input": "hello"})).json()
    as_text = await (await client.post("/v1/embeddings", json={"input": "hello", "encoding_format": "base64"})).json()
    decoded = np.frombuffer(base64.b64decode(as_text["data"][0]["embedding"]), dtype="<f4")
    assert decoded.tolist() == pytest.approx(as_float["data"][0]["embedding"])


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "input"),
        ({"input": []}, "input"),
        ({"input": ["fine", ""]}, "input"),
        ({"input": [1, 2]}, "input"),
        ({"input": "x", "model": "another"}, "model"),
        ({"input": "x", "dimensions": 12}, "dimensions"),
        ({"input": "x", "encoding_format": "hex"}, "encoding_format"),
        ([], None),
    ],
)
async def test_a_bad_request_is_answered_400_and_names_the_field(
    client: TestClient, body: object, param: str | None
) -> None:
    reply = await client.post("/v1/embeddings", json=body)
    assert reply.status == 400
    assert (await reply.json())["error"]["param"] == param


async def test_the_server_answers_its_health_while_it_embeds() -> None:
    entered, leave = threading.Event(), threading.Event()

    class Slow(EmbeddingModel):
        def __init__(self) -> None:
            self.began = time.monotonic()

        def embed(self, texts):  # type: ignore[no-untyped-def]
            entered.set()
            leave.wait(10)
            raise RuntimeError("not looked at")

    async with TestClient(TestServer(application(Slow()))) as client:
        asked = asyncio.create_task(client.post("/v1/embeddings", json={"input": "x"}))
        await asyncio.to_thread(entered.wait, 10)
        assert (await client.get("/health")).status == 200
        models = await (await client.get("/v1/models")).json()
        assert models["data"][0]["id"] == MODEL_NAME
        assert not asked.done()
        leave.set()
        assert (await asked).status == 500


class Held(EmbeddingModel):
    """A model that embeds nothing before it is let go, and tells what it embedded."""

    def __init__(self) -> None:
        self.free, self.asked = threading.Event(), list[str]()

    def embed(self, texts: Sequence[str]) -> Embedded:
        self.asked += texts
        self.free.wait(60)
        return Embedded(np.zeros((len(texts), DIMENSION), dtype=np.float32), len(texts))


async def test_texts_of_a_caller_that_has_gone_are_not_embedded() -> None:
    model = Held()
    app = application(model)
    # As the server's own ``main``, a test server cancels the handler of a caller that has gone.
    server = TestServer(app)
    async with TestClient(server) as client:

        async def ask(text: str) -> int:
            async with client.post("/v1/embeddings", json={"input": text}) as response:
                return response.status

        def connections() -> int:
            assert server.handler is not None
            return len(server.handler.connections)

        try:
            first = asyncio.create_task(ask("first"))
            await until(lambda: model.asked == ["first"], "the first is embedded")
            gone = asyncio.create_task(ask("gone"))
            await until(lambda: app[EXECUTOR]._work_queue.qsize() == 1, "the second waits")
            gone.cancel()
            await until(lambda: connections() == 1, "the second has gone")
        finally:
            model.free.set()
        assert await first == 200
        assert await ask("last") == 200
    assert model.asked == ["first", "last"]
