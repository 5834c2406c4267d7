"""What a call used and cost: the provider's count where it can be right, our own estimate where it can't."""

from __future__ import annotations

from decimal import ROUND_HALF_UP, Decimal
from typing import Any, TypeGuard

import orjson

from processors.complete.payload import Payload
from processors.complete.routes import Deployment, Price
from processors.journal import Bound
from processors.model.port import ModelReply, RawUsage
from schemas.records import Usage

_MILLION = Decimal(1_000_000)
# The scale of every amount, in the schemas and in the tables.
_QUANTUM = Decimal("0.000000000001")
# A token of a byte-level vocabulary is at least one byte, and about four in English.
_BYTES_PER_TOKEN = 4
# What chat templates add around a message, and around them all.
_TOKENS_PER_MESSAGE = 16


def cost_usd(usage: Usage, price: Price) -> Decimal:
    """The price of the tokens; those read from the provider's cache at their own price, where there is one."""
    cached_price = price.prompt if price.cached_prompt is None else price.cached_prompt
    fresh = usage.prompt_tokens - usage.cached_prompt_tokens
    amount = (
        fresh * price.prompt + usage.cached_prompt_tokens * cached_price + usage.completion_tokens * price.completion
    )
    return (amount / _MILLION).quantize(_QUANTUM, ROUND_HALF_UP)


def upper_bound(payload: Payload, deployment: Deployment, max_tokens: int) -> Bound:
    """The most that a call with this body can use: a token for every byte, and every token that it may generate.

    Assumes that no context is longer than the deployment's, and that a cached token costs no more than a fresh one.
    """
    prompt = min(
        deployment.context_tokens, _prompt_bytes(payload) + _TOKENS_PER_MESSAGE * (len(payload["messages"]) + 1)
    )
    usage = Usage(prompt_tokens=prompt, completion_tokens=max_tokens)
    return Bound(prompt_tokens=prompt, completion_tokens=max_tokens, usd=cost_usd(usage, deployment.price))


def usage_of(reply: ModelReply, payload: Payload, deployment: Deployment, *, prompt_estimate: int) -> Usage:
    """The tokens of a call. Figures that are missing or can't be right are estimated, and marked so."""
    given = _given(reply.usage or {})
    limit = deployment.context_tokens
    generated = bool(reply.text or reply.refusal or reply.tool_calls_json)
    if given is not None and 0 < given.prompt_tokens <= limit and int(generated) <= given.completion_tokens <= limit:
        return given
    output = "".join(part for part in (reply.text, reply.refusal, reply.tool_calls_json) if part)
    prompt = prompt_estimate or -(-_prompt_bytes(payload) // _BYTES_PER_TOKEN)
    return Usage(prompt_tokens=prompt, completion_tokens=-(-len(output.encode()) // _BYTES_PER_TOKEN), estimated=True)


def _given(usage: RawUsage) -> Usage | None:
    prompt, completion = usage.get("prompt_tokens"), usage.get("completion_tokens")
    if not _is_count(prompt) or not _is_count(completion):
        return None
    cached = _detail(usage, "prompt_tokens_details", "cached_tokens")
    written = _detail(usage, "prompt_tokens_details", "cache_write_tokens")
    return Usage(
        prompt_tokens=prompt,
        completion_tokens=completion,
        cached_prompt_tokens=min(cached, prompt),
        cache_write_tokens=min(written, prompt),
        reasoning_tokens=min(_detail(usage, "completion_tokens_details", "reasoning_tokens"), completion),
    )


def _detail(usage: RawUsage, group: str, name: str) -> int:
    details = usage.get(group)
    value = details.get(name) if isinstance(details, dict) else None
    return value if _is_count(value) else 0


def _is_count(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _prompt_bytes(payload: Payload) -> int:
    """Everything that a template may put before the model."""
    shown = {name: payload[name] for name in ("messages", "tools", "response_format") if name in payload}
    return len(orjson.dumps(shown))
