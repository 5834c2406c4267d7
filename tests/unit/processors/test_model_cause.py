"""A provider's refusal is sorted by status, by its own code, and by the wait that it asks for."""

from __future__ import annotations

import email.utils
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from multidict import CIMultiDict

from processors.complete.routes import Deployment
from processors.model.cause import from_status
from processors.model.wait import retry_after_s
from schemas.errors import PermanentProviderError, TransientProviderError

HERE = Deployment(name="d1", base_url="http://x/v1", model="m")
NOW = datetime(2026, 1, 1, tzinfo=UTC)
DATE = email.utils.format_datetime(NOW, usegmt=True)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"Retry-After": "7"}, 7.0),
        ({"retry-after-ms": "250", "Retry-After": "7"}, 0.25),
        ({"Retry-After": email.utils.format_datetime(NOW + timedelta(seconds=90), usegmt=True), "Date": DATE}, 90.0),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "1e9"}, 3600.0),
        ({"Retry-After": "-3"}, 0.0),
        ({"Retry-After": "nan"}, None),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "1m2.5s"}, 62.5),
        ({"x-ratelimit-remaining-requests": "3", "x-ratelimit-reset-requests": "1m"}, None),
        (
            {
                "x-ratelimit-remaining-requests": "0",
                "x-ratelimit-reset-requests": "20ms",
                "x-ratelimit-remaining-tokens": "0",
                "x-ratelimit-reset-tokens": "6m0s",
            },
            360.0,
        ),
        ({"Retry-After": "2", "x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "6m0s"}, 2.0),
        (
            {
                "anthropic-ratelimit-input-tokens-remaining": "0",
                "anthropic-ratelimit-input-tokens-reset": "2026-01-01T00:00:30Z",
                "Date": DATE,
            },
            30.0,
        ),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "later"}, None),
    ],
)
def test_the_wait_is_read_from_the_headers(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after_s(CIMultiDict(headers)) == seconds


@pytest.mark.parametrize(
    ("status", "body", "code"),
    [
        (400, {"error": {"code": "context_length_exceeded"}}, "context_too_long"),
        (400, {"error": {"type": "exceed_context_size_error", "code": 400}}, "context_too_long"),
        (400, {"error": {"message": "This model's maximum context length is 8192 tokens."}}, "context_too_long"),
        (
            400,
            {"type": "error", "error": {"type": "invalid_request_error", "message": "prompt is too long: 2 > 1"}},
            "context_too_long",
        ),
        (429, {"error": {"code": "insufficient_quota"}}, "quota_exhausted"),
        (400, {"error": {"code": "content_filter", "innererror": {"code": "x"}}}, "content_refused"),
        (404, {"error": {"code": "model_not_found"}}, "model_not_found"),
        (404, {"error": {"code": "DeploymentNotFound"}}, "model_not_found"),
        (404, None, "http_404"),
        (400, {"message": "no"}, "http_400"),
        (400, ["no"], "http_400"),
        (401, {"error": "bad key"}, "http_401"),
    ],
)
def test_what_will_fail_again_has_a_code_of_ours(status: int, body: Any, code: str) -> None:
    error = from_status(status, body, {}, HERE)
    assert (type(error), error.code, error.http_status) == (PermanentProviderError, code, status)


@pytest.mark.parametrize("status", [408, 409, 425, 429, 500, 502, 503, 504, 529])
def test_what_may_succeed_later_is_transient(status: int) -> None:
    error = from_status(status, {"error": {"type": "overloaded_error"}}, {"retry-after": "4"}, HERE)
    assert isinstance(error, TransientProviderError) and (error.code, error.retry_after_s) == (f"http_{status}", 4.0)


def test_an_outage_is_no_refusal_whatever_its_text_says() -> None:
    error = from_status(500, {"error": {"code": "content_filter"}}, {}, HERE)
    assert isinstance(error, TransientProviderError)
