"""OpenAI's Batch API through its SDK, over HTTP."""

from __future__ import annotations

from dataclasses import replace

import orjson
import pytest

from processors.batchapi.lines import lines_of, read_reply
from processors.batchapi.openai import OpenAIBatches
from processors.complete.routes import Deployment
from schemas.errors import PermanentProviderError, TransientProviderError
from tests.provider.here import serving
from tests.support.ports import nobodys_port

REQUEST = {"model": "m", "messages": [{"role": "user", "content": "why?"}]}


def deployment(base_url: str) -> Deployment:
    return Deployment(name="d1", base_url=base_url, model="m")


async def test_a_batch_is_made_found_looked_at_and_read() -> None:
    client = OpenAIBatches()
    async with serving() as provider:
        where = deployment(provider.base_url)
        line = {"custom_id": "c1", "method": "POST", "url": "/v1/chat/completions", "body": REQUEST}
        file = await client.upload(where, "requests.jsonl", orjson.dumps(line) + b"\n")
        assert await client.find(where, "ours") is None
        made = await client.create(where, file, "ours")
        assert await client.find(where, "ours") == made
        assert not made.over
        await client.look(where, made.provider_batch)
        seen = await client.look(where, made.provider_batch)
        assert (seen.status, seen.over, seen.input_file) == ("completed", True, file)
        assert seen.output_file is not None
        (reply,) = [read_reply(one) async for one in lines_of(client.download(where, seen.output_file))]
        assert reply.status == 200
        await client.discard(where, file)
        with pytest.raises(PermanentProviderError):
            _ = [piece async for piece in client.download(where, file)]
    await client.close()


async def test_what_a_provider_does_not_know_is_an_error_without_its_words() -> None:
    client = OpenAIBatches()
    async with serving() as provider:
        with pytest.raises(PermanentProviderError) as caught:
            await client.look(deployment(provider.base_url), "batch_99")
    assert caught.value.http_status == 404
    assert "CANARY" not in str(caught.value)
    assert caught.value.__cause__ is None
    await client.close()


async def test_an_exchange_that_was_never_sent_may_be_made_again() -> None:
    client = OpenAIBatches()
    with nobodys_port() as port, pytest.raises(TransientProviderError) as caught:
        nobody = replace(deployment(f"http://127.0.0.1:{port}/v1"), connect_timeout_s=2.0)
        await client.create(nobody, "file-1", "ours")
    assert caught.value.code == "connect_error"
    await client.close()
