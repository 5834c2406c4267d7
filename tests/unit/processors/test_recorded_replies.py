"""Recorded exchanges of real endpoints: what they sent is read as a reply."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from processors.model.assembly import ChatAssembly
from processors.model.port import ModelReply
from processors.model.sse import DONE, EventReader

# An echo service that was recorded in a model's place.
NO_COMPLETIONS = (
    "models/cassettes/test_openai/test_invalid_response.yaml#0",
    "models/cassettes/test_openai/test_text_response.yaml#0",
)


def chats(shared_data: Path) -> list[dict[str, Any]]:
    lines = (shared_data / "openai_recorded" / "public" / "exchanges.jsonl").read_text().splitlines()
    recorded = [json.loads(line) for line in lines]
    return [
        exchange
        for exchange in recorded
        if "/chat/completions" in exchange["uri"] and exchange["status"] == 200 and exchange["id"] not in NO_COMPLETIONS
    ]


def read(exchange: dict[str, Any], piece: int) -> ModelReply:
    assembly = ChatAssembly()
    raw = exchange.get("response_raw")
    if raw is None:
        assembly.add_body(json.dumps(exchange["response_json"]).encode())
    elif not raw.lstrip().startswith("data:") and raw.lstrip().startswith("{"):
        assembly.add_body(raw.encode())
    else:
        for data in _events(raw.encode(), piece):
            if data == DONE:
                assembly.end()
                break
            assembly.add_event(data)
    return assembly.reply(duration_ms=1.0, first_token_ms=None)


def _events(body: bytes, size: int) -> Iterator[bytes]:
    reader = EventReader()
    for start in range(0, len(body), size):
        yield from reader.feed(body[start : start + size])
    yield from reader.end()


@pytest.mark.parametrize("piece", [1, 7, 65536])
def test_every_recorded_reply_is_read(shared_data: Path, piece: int) -> None:
    exchanges = chats(shared_data)
    for exchange in exchanges:
        reply = read(exchange, piece)
        assert reply.finish_reason, exchange["id"]
        assert reply.model, exchange["id"]
        assert reply.text is not None or reply.tool_calls_json or reply.refusal, exchange["id"]
        for call in json.loads(reply.tool_calls_json or "[]"):
            json.loads(call["function"]["arguments"] or "{}")
            named = [tool["function"]["name"] for tool in (exchange["request"] or {}).get("tools") or []]
            assert not named or call["function"]["name"] in named, exchange["id"]  # some endpoints give a call no id
    assert len(exchanges) > 200


async def test_a_recorded_body_is_read_as_it_says(shared_data: Path) -> None:
    for exchange in chats(shared_data):
        body = exchange.get("response_json")
        if body is None:
            continue
        reply, message = read(exchange, 1), body["choices"][0]["message"]
        if isinstance(message.get("content"), str):
            assert reply.text == message["content"]
        assert reply.usage == body.get("usage")
        assert reply.response_id == (body["id"] or None)
