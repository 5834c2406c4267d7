"""What an error says about the deployment, about its key, and about where else the request may go."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from processors.complete.routes import Cause
from schemas.errors import OutcomeUnknownError, ProviderError, TransientProviderError

# ``answered``, ``failed`` (the deployment's fault), ``throttled``, ``denied`` (its key's fault), ``neutral`` (the
# request's fault, or nobody's).
Finding = Literal["answered", "failed", "throttled", "denied", "neutral"]

# Nothing was sent: these say nothing of the provider.
_OURS = frozenset({"lease_lost", "no_time_left"})
_DENIED = frozenset({"http_401", "http_403", "quota_exhausted"})
# The provider's side is at fault, though a repeat there would not help.
_MISSING = frozenset({"http_404", "model_not_found", "http_402"})
# What was asked for can't be said in the words of its API: nothing was sent, and nothing is wrong with it.
_UNABLE = frozenset({"unsupported_parameter"})
_BY_CODE: dict[str, Cause] = {
    "http_429": "rate_limit",
    "quota_exhausted": "rate_limit",
    "context_too_long": "context_too_long",
    "content_refused": "content_refused",
    "malformed_response": "malformed_output",
    "response_too_large": "malformed_output",
    "invalid_output": "malformed_output",
}


@dataclass(frozen=True, slots=True)
class Ended:
    """How a call ended: with its latency to the first output, the tokens used, and the pause that it was asked for."""

    finding: Finding
    latency_s: float | None = None
    tokens: int | None = None
    pause_s: float | None = None
    code: str = ""


# It says nothing of the deployment.
NEUTRAL = Ended("neutral")
# No call was made.
UNUSED = Ended("neutral", tokens=0)


def ended_with(error: ProviderError) -> Ended:
    """How a call ended that failed with ``error``."""
    pause_s = error.retry_after_s if isinstance(error, TransientProviderError) else None
    if error.code in _OURS:
        return NEUTRAL
    if error.code in _DENIED:
        return Ended("denied", code=error.code)
    if error.code == "http_429":
        return Ended("throttled", pause_s=pause_s, code=error.code)
    broken = isinstance(error, TransientProviderError | OutcomeUnknownError) or error.code in _MISSING
    return Ended("failed" if broken else "neutral", pause_s=pause_s, code=error.code)


def cause_of(error: ProviderError) -> Cause | None:
    """For which fallbacks the error is a reason; ``None`` where another deployment would do no better."""
    if error.code in _BY_CODE:
        return _BY_CODE[error.code]
    broken = isinstance(error, TransientProviderError | OutcomeUnknownError)
    return "outage" if broken or error.code in _DENIED | _MISSING else None


def fails_here(error: ProviderError) -> bool:
    """Whether the error is lasting at this deployment or key alone: another one of the same route may answer."""
    return error.code in _DENIED | _MISSING | _UNABLE


def denied(error: ProviderError) -> bool:
    """Whether the key is at fault."""
    return error.code in _DENIED
