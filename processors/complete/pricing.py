"""What a call used and cost: the provider's count where it can be right, our own estimate where it can't."""

from __future__ import annotations

from datetime import datetime

import orjson

from processors.complete.payload import Payload
from processors.complete.routes import Deployment
from processors.journal import Bound
from processors.model.port import ModelReply
from processors.prices.tokens import counted
from schemas.records import Usage

# A token of a byte-level vocabulary is at least one byte, and about four in English.
_BYTES_PER_TOKEN = 4
# What chat templates add around a message, and around them all.
_TOKENS_PER_MESSAGE = 16


def upper_bound(payload: Payload, deployment: Deployment, max_tokens: int, *, at: datetime) -> Bound:
    """The most that a call with this body can use: a token for every byte, and every token that it may generate.

    Assumes that no context is longer than the deployment's. The price is that of the book, at its dearest.
    """
    prompt, mixed = deployment.context_tokens, mixes(payload)
    if not mixed:
        # A picture's address says nothing of its tokens.
        prompt = min(prompt, _prompt_bytes(payload) + _TOKENS_PER_MESSAGE * (len(payload["messages"]) + 1))
    usd = deployment.price.most(prompt, max_tokens, at, mixed=mixed)
    return Bound(prompt_tokens=prompt, completion_tokens=max_tokens, usd=usd)


def mixes(payload: Payload) -> bool:
    """Whether something else than text is sent."""
    return not all(isinstance(message.get("content"), str | None) for message in payload["messages"])


def usage_of(reply: ModelReply, payload: Payload, deployment: Deployment, *, prompt_estimate: int) -> Usage:
    """The tokens of a call. Figures that are missing or can't be right are estimated, and marked so."""
    given = counted(reply.usage or {}, deployment.counting)
    limit = deployment.context_tokens
    generated = bool(reply.text or reply.refusal or reply.tool_calls_json)
    if given is not None and 0 < given.prompt_tokens <= limit and int(generated) <= given.completion_tokens <= limit:
        return given
    output = "".join(part for part in (reply.text, reply.refusal, reply.tool_calls_json) if part)
    prompt = prompt_estimate or -(-_prompt_bytes(payload) // _BYTES_PER_TOKEN)
    return Usage(prompt_tokens=prompt, completion_tokens=-(-len(output.encode()) // _BYTES_PER_TOKEN), estimated=True)


def _prompt_bytes(payload: Payload) -> int:
    """Everything that a template may put before the model."""
    shown = {name: payload[name] for name in ("messages", "tools", "response_format") if name in payload}
    return len(orjson.dumps(shown))
