"""Why a call failed, by cause: what was never sent, what was refused, and what may have been paid.

The SDK's transport reports a connection that broke *after* sending as ``ConnectTimeout``, so neither its class nor
the SDK's says whether a call was sent. aiohttp's own exception, at the bottom of the chain, does.
"""

from __future__ import annotations

import email.utils
import math
import time
from collections.abc import Mapping

import aiohttp
import openai

from processors.complete.routes import Deployment
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
_CONTEXT_CODES = frozenset({"context_length_exceeded", "exceed_context_size_error", "context_window_exceeded"})
_QUOTA_CODES = frozenset({"insufficient_quota", "billing_hard_limit_reached"})
# A provider that asks for more than this is taken at this: a wrong clock or header must not park a request for days.
_LONGEST_RETRY_AFTER_S = 3600.0


def from_sdk(error: openai.OpenAIError, deployment: Deployment) -> ProviderError:
    """The error of ours for one of the SDK's. Holds nothing of the provider's text."""
    if isinstance(error, openai.APIStatusError):
        return _from_status(error, deployment)
    if isinstance(error, openai.APIConnectionError):
        return from_connection(error, deployment)
    return OutcomeUnknownError("client_error", f"deployment {deployment.name}: the call failed in the client")


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


def _from_status(error: openai.APIStatusError, deployment: Deployment) -> ProviderError:
    status, codes = error.status_code, _codes(error)
    told = f"deployment {deployment.name} replied with status {status}"
    if codes & _CONTEXT_CODES:
        return PermanentProviderError(
            "context_too_long", f"{told}: the prompt is longer than the model's context", http_status=status
        )
    if codes & _QUOTA_CODES:
        return PermanentProviderError("quota_exhausted", f"{told}: the account's quota is used up", http_status=status)
    if status in _TRANSIENT_STATUS or status >= 500:
        return TransientProviderError(
            f"http_{status}", told, http_status=status, retry_after_s=retry_after_s(error.response.headers)
        )
    return PermanentProviderError(f"http_{status}", told, http_status=status)


def _codes(error: openai.APIStatusError) -> frozenset[str]:
    """The provider's own codes, compared with those we know and never passed on."""
    body = error.body if isinstance(error.body, dict) else {}
    inner = body.get("error") if isinstance(body.get("error"), dict) else body
    values = (inner.get("code"), inner.get("type"), error.code, error.type) if isinstance(inner, dict) else ()
    return frozenset(value for value in values if isinstance(value, str))


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """How long the provider asks to wait: ``retry-after-ms``, or ``Retry-After`` in seconds or as a date (RFC 9110)."""
    milliseconds, after = _number(headers.get("retry-after-ms")), headers.get("retry-after")
    seconds = milliseconds / 1000 if milliseconds is not None else _number(after)
    if seconds is None and after:
        seconds = _until(after, headers.get("date"))
    return None if seconds is None else min(max(0.0, seconds), _LONGEST_RETRY_AFTER_S)


def _until(after: str, date: str | None) -> float | None:
    """From the reply's own date to ``after``: the provider's clock against itself, where it says what time it is."""
    try:
        end = email.utils.parsedate_to_datetime(after).timestamp()
        start = email.utils.parsedate_to_datetime(date).timestamp() if date else time.time()
    except (ValueError, TypeError, OverflowError):
        return None
    return end - start


def _number(value: str | None) -> float | None:
    try:
        number = float(value) if value else None
    except ValueError:
        return None
    return number if number is not None and math.isfinite(number) else None


def _chain(error: BaseException) -> list[BaseException]:
    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in chain:
        chain.append(cause)
        cause = cause.__cause__ or cause.__context__
    return chain
