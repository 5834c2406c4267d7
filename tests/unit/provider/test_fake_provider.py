"""The fake provider does what its script says, and counts what it would charge."""

from __future__ import annotations

from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import aiohttp
import orjson
import pytest

from tests.provider.here import Here, serving


@pytest.fixture
async def here() -> AsyncIterator[Here]:
    async with serving(dimension=8) as started:
        yield started


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as opened:
        yield opened


async def ask(
    session: aiohttp.ClientSession, here: Here, text: str = "one two three", **headers: str
) -> tuple[int, Any]:
    body = {"model": "fake", "messages": [{"role": "user", "content": text}]}
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    async with session.post(f"{here.base_url}/chat/completions", json=body, headers=sent) as response:
        return response.status, await response.json()


async def script(session: aiohttp.ClientSession, here: Here, **posted: Any) -> None:
    async with session.post(f"{here.url}/script", json=posted) as response:
        assert response.status == 200


async def test_what_is_asked_and_said_is_on_the_bill_and_nothing_that_was_refused(
    here: Here, session: aiohttp.ClientSession
) -> None:
    status, reply = await ask(session, here)
    said = reply["usage"]["completion_tokens"]
    assert (status, reply["usage"]["prompt_tokens"]) == (200, 3)
    assert said == len(reply["choices"][0]["message"]["content"].split())
    assert (await ask(session, here, "no [[fault:500]]"))[0] == 500
    assert here.bill["tokens"] == {"prompt": 3, "completion": said}
    assert (here.bill["paid"], here.bill["by_kind"], here.bill["open"]) == (1, {"chat": 2}, 0)
    assert Decimal(str(here.bill["usd"])) == Decimal("0.000009") + said * Decimal("0.000015")


async def test_a_fault_is_chosen_by_script_then_header_then_marker(here: Here, session: aiohttp.ClientSession) -> None:
    await script(
        session,
        here,
        by_request={"r1": ["502"]},
        by_key={"bad": ["401"]},
        by_model={"fake": ["503", "ok"]},
    )
    marked = "[[fault:404]]"
    assert (await ask(session, here, marked, X_Request_Id="r1", Authorization="Bearer bad"))[0] == 502
    assert (await ask(session, here, marked, X_Request_Id="r1", Authorization="Bearer bad"))[0] == 401
    assert [(await ask(session, here, marked))[0] for _ in range(3)] == [503, 200, 200]
    await script(session, here, queue=["500"])
    assert [(await ask(session, here, marked, X_Fault="429,408", X_Request_Id="r2"))[0] for _ in range(3)] == [
        500,
        408,
        408,
    ]
    assert (await ask(session, here, marked))[0] == 404


async def test_a_limit_is_told_by_seconds_by_date_and_by_rate_limit_headers(
    here: Here, session: aiohttp.ClientSession
) -> None:
    body = {"model": "fake", "messages": []}
    shown = {}
    for fault in ("429", "429:7", "429_date:60", "429_reset:3"):
        headers = {"X-Fault": fault}
        async with session.post(f"{here.base_url}/chat/completions", json=body, headers=headers) as response:
            assert response.status == 429
            shown[fault] = response.headers
    assert "Retry-After" not in shown["429"] and shown["429:7"]["Retry-After"] == "7"
    assert shown["429_date:60"]["Retry-After"].endswith("GMT")
    assert shown["429_reset:3"]["x-ratelimit-reset-requests"] == "3s" and "Retry-After" not in shown["429_reset:3"]


async def test_texts_to_embed_are_counted_call_by_call(here: Here, session: aiohttp.ClientSession) -> None:
    async with session.post(f"{here.base_url}/embeddings", json={"model": "e", "input": ["a b", "c"]}) as response:
        vectors = [row["embedding"] for row in (await response.json())["data"]]
    assert [len(vector) for vector in vectors] == [8, 8]
    assert (here.bill["texts"], here.bill["by_kind"], here.bill["tokens"]) == (
        2,
        {"embeddings": 1},
        {"prompt": 3, "completion": 0},
    )


async def test_azure_and_anthropic_are_served_under_their_paths_with_their_headers(
    here: Here, session: aiohttp.ClientSession
) -> None:
    azure = f"{here.url}/openai/deployments/gpt/chat/completions"
    body = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 5, "model": "claude"}
    async with session.post(azure, json=body, headers={"api-key": "k"}) as response:
        assert response.status == 404
    async with session.post(f"{azure}?api-version=1", json=body, headers={"api-key": "k"}) as response:
        assert (await response.json())["model"] == "gpt"
    headers = {"x-api-key": "k", "anthropic-version": "2023-06-01"}
    async with session.post(f"{here.base_url}/messages", json=body) as response:
        assert (await response.json())["error"]["type"] == "authentication_error"
    async with session.post(f"{here.base_url}/messages", json=body, headers=headers) as response:
        said = await response.json()
    assert (said["model"], said["stop_reason"], said["content"][0]["type"]) == ("claude", "end_turn", "text")


async def upload(session: aiohttp.ClientSession, here: Here, *texts: str) -> str:
    lines = [
        {"custom_id": f"c{n}", "method": "POST", "url": "/v1/chat/completions", "body": {"messages": [_user(text)]}}
        for n, text in enumerate(texts)
    ]
    form = aiohttp.FormData()
    form.add_field("purpose", "batch")
    form.add_field("file", b"\n".join(orjson.dumps(line) for line in lines), filename="b.jsonl")
    async with session.post(f"{here.base_url}/files", data=form) as response:
        return str((await response.json())["id"])


def _user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


async def test_a_batch_is_worked_on_at_half_price_and_its_results_are_fetched(
    here: Here, session: aiohttp.ClientSession
) -> None:
    file = await upload(session, here, "one two", "no [[fault:400]]")
    about = {"input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    async with session.post(f"{here.base_url}/batches", json=about) as response:
        batch = (await response.json())["id"]
    statuses = []
    for _ in range(2):
        async with session.get(f"{here.base_url}/batches/{batch}") as response:
            shown = await response.json()
            statuses.append(shown["status"])
    assert statuses == ["in_progress", "completed"]
    async with session.get(f"{here.base_url}/files/{shown['output_file_id']}/content") as response:
        done = orjson.loads(await response.read())
    async with session.get(f"{here.base_url}/files/{shown['error_file_id']}/content") as response:
        failed = orjson.loads(await response.read())
    assert (done["custom_id"], failed["custom_id"], failed["response"]["status_code"]) == ("c0", "c1", 400)
    said = done["response"]["body"]["usage"]["completion_tokens"]
    half = (2 * Decimal("0.000003") + said * Decimal("0.000015")) / 2
    assert Decimal(str(here.bill["usd"])) == half and here.bill["paid_by_kind"] == {"batch": 1}
