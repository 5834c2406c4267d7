"""Why a call failed, by cause: what was never sent, what was refused, and what may have been paid.

Only aiohttp's own exception says whether a call was sent. Where an SDK wraps it, as for embeddings, it is at the bottom
of the chain: the SDK's transport reports a connection that broke *after* sending as ``ConnectTimeout``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import aiohttp

from processors.complete.routes import Deployment
from processors.model.wait import retry_after_s
from schemas.errors import OutcomeUnknownError, PermanentProviderError, ProviderError, TransientProviderError

# aiohttp raises these before the first byte of a request leaves.
_NOT_SENT = (
    aiohttp.ClientConnectorError,
    aiohttp.ClientConnectorDNSError,
    aiohttp.ClientProxyConnectionError,
    aiohttp.ClientHttpProxyError,
    aiohttp.ConnectionTimeoutError,
    aiohttp.InvalidURL,
)
_TRANSIENT_STATUS = frozenset({408, 409, 425, 429})
# What providers call it, as a code or type of theirs, and what we do.
_CODES = {
    "context_length_exceeded": "context_too_long",
    "exceed_context_size_error": "context_too_long",
    "context_window_exceeded": "context_too_long",
    "insufficient_quota": "quota_exhausted",
    "billing_hard_limit_reached": "quota_exhausted",
    "billing_error": "quota_exhausted",
    "content_filter": "content_refused",
    "content_policy_violation": "content_refused",
    "moderation_blocked": "content_refused",
    "model_not_found": "model_not_found",
    "deploymentnotfound": "model_not_found",
}
# Some tell it in words alone.
_PHRASES = {
    "maximum context length": "context_too_long",
    "prompt is too long": "context_too_long",
    "exceed context limit": "context_too_long",
    "exceeds the context": "context_too_long",
    "credit balance is too low": "quota_exhausted",
}
_TOLD = {
    "context_too_long": "the prompt is longer than the model's context",
    "quota_exhausted": "the account's quota is used up",
    "content_refused": "the provider's own filter refused the content",
    "model_not_found": "there is no such model, or the key has no access to it; correct the deployment's model",
}


def from_connection(error: BaseException, deployment: Deployment) -> ProviderError:
    """Never sent, or sent and broken off. In doubt it was sent: then it is booked, and money is right."""
    if never_sent(error):
        return TransientProviderError("connect_error", f"deployment {deployment.name} could not be connected to")
    return OutcomeUnknownError("connection_lost", f"deployment {deployment.name}: the connection broke after sending")


def never_sent(error: BaseException) -> bool:
    """Whether no byte of the request had left when the connection failed."""
    return any(isinstance(cause, _NOT_SENT) for cause in _chain(error))


def from_reported(status: int | None, deployment: Deployment) -> ProviderError:
    """An error that came inside a stream that had begun with 200."""
    message = f"deployment {deployment.name} broke its reply off with an error"
    if status is not None and 400 <= status < 500 and status not in _TRANSIENT_STATUS:
        return PermanentProviderError("stream_error", message, http_status=200)
    return TransientProviderError("stream_error", message, http_status=200)


def from_status(status: int, body: Any, headers: Mapping[str, str], deployment: Deployment) -> ProviderError:
    """A reply by status, with its body as far as it is JSON."""
    told = f"deployment {deployment.name} replied with status {status}"
    code = _code(body) if status < 500 else None
    if code is not None:
        return PermanentProviderError(code, f"{told}: {_TOLD[code]}", http_status=status)
    if status in _TRANSIENT_STATUS or status >= 500:
        return TransientProviderError(f"http_{status}", told, http_status=status, retry_after_s=retry_after_s(headers))
    return PermanentProviderError(f"http_{status}", told, http_status=status)


def _code(body: Any) -> str | None:
    """Our code for the provider's own, which are compared with those we know and never passed on."""
    told = body.get("error", body) if isinstance(body, dict) else None
    if not isinstance(told, dict):
        return None
    inner = told.get("innererror")
    named = [told.get("code"), told.get("type"), inner.get("code") if isinstance(inner, dict) else None]
    for name in _texts(named):
        if name in _CODES:
            return _CODES[name]
    message = " ".join(_texts([told.get("message")]))
    return next((code for phrase, code in _PHRASES.items() if phrase in message), None)


def _texts(values: Iterable[Any]) -> list[str]:
    return [value.lower() for value in values if isinstance(value, str)]


def _chain(error: BaseException) -> list[BaseException]:
    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in chain:
        chain.append(cause)
        cause = cause.__cause__ or cause.__context__
    return chain
