"""The doctor looks at an endpoint in what it speaks."""

from __future__ import annotations

from typing import Any

import pytest

from streams.doctor.checkup import ProblemError
from streams.doctor.models import look_call, look_deployment
from streams.route_settings import DeploymentSettings
from tests.provider.here import Here, serving


def settings(here: Here, **changes: Any) -> DeploymentSettings:
    given = {"base_url": here.url, "model": "fake", "api_key_env": "DOCTOR_TEST_KEY"}
    return DeploymentSettings(**(given | changes))


@pytest.mark.parametrize(("provider", "api"), [("azure", None), ("anthropic", None), ("x", None), ("x", "responses")])
async def test_endpoint_key_and_call_are_looked_at(
    provider: str, api: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCTOR_TEST_KEY", "k")
    async with serving() as here:
        base_url = here.base_url if provider == "x" else here.url
        one = settings(here, provider=provider, api=api, base_url=base_url)
        assert "fake at" in await look_deployment(one)
        assert await look_call(one, allowed=True) == "answered; 1 tokens in, 5 out"


async def test_a_model_that_anthropic_does_not_know_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCTOR_TEST_KEY", "k")
    async with serving() as here:
        with pytest.raises(ProblemError, match="knows no other"):
            await look_deployment(settings(here, provider="anthropic", model="other"))


@pytest.mark.parametrize(
    ("given", "spoken"),
    [
        ({"provider": "openai"}, "openai"),
        ({"provider": "vllm"}, "openai"),
        ({"provider": "azure"}, "azure"),
        ({"provider": "azure", "base_url": "https://x.openai.azure.com/openai/v1/"}, "openai"),
        ({"provider": "anthropic"}, "anthropic"),
        ({"provider": "anthropic", "base_url": "https://api.anthropic.com/v1"}, "anthropic"),
        ({"provider": "anthropic", "api": "openai"}, "openai"),
        ({"provider": "openrouter", "api": "anthropic"}, "anthropic"),
    ],
)
def test_what_is_spoken_goes_by_the_provider(given: dict[str, Any], spoken: str) -> None:
    assert DeploymentSettings(**({"base_url": "http://x", "model": "m"} | given)).spoken == spoken
