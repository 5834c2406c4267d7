"""Routes against a provider that fails by script, over HTTP: its own call log says where calls went."""

from __future__ import annotations

import json
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from pydantic import SecretStr

from processors.complete.routes import Deployment, Group, Route
from processors.event import Recorded
from processors.model import OpenAIClient
from schemas.errors import NotYetError
from schemas.records import Completion
from tests.provider.process import ProviderProcess
from tests.support.completing import PRICE, Bench, event


class Routed(Bench):
    """A complete stage whose deployments are models of one provider."""

    def __init__(self, provider: ProviderProcess) -> None:
        super().__init__()
        self.provider = provider
        self.model = OpenAIClient()  # type: ignore[assignment]
        self._seen = len(provider.calls())

    def deployment(self, model: str, **changes: Any) -> Deployment:
        values = {"base_url": self.provider.base_url, "price": PRICE, "api_key": SecretStr("k"), **changes}
        return Deployment(name=model, model=model, **values)

    def route_to(self, *own: Deployment, **changes: Any) -> Route:
        return replace(self.route, deployment=own[0], others=own[1:], patience_s=0.2, **changes)

    def script(self, **script: Any) -> None:
        body = json.dumps(script).encode()
        posted = urllib.request.Request(f"{self.provider.url}/script", body, {"Content-Type": "application/json"})
        urllib.request.urlopen(posted, timeout=60).close()

    def went(self, *names: str) -> list[tuple[str, ...]]:
        """What the log has of every call since the bench was made."""
        begun = [line for line in self.provider.calls()[self._seen :] if line["event"] == "begin"]
        return [tuple(str(line[name]) for name in names) for line in begun]


@pytest.fixture
async def bench(provider: ProviderProcess) -> AsyncIterator[Routed]:
    routed = Routed(provider)
    yield routed
    routed.script()
    await routed.model.close()


def told(outputs: Any) -> Completion:
    recorded = outputs[-1]
    assert isinstance(recorded, Recorded) and isinstance(recorded.record, Completion), recorded
    return recorded.record


async def test_requests_go_on_at_the_fallback_while_a_model_is_down_and_it_is_left_alone(bench: Routed) -> None:
    bench.script(by_model={"down": ["503"]})
    route = bench.route_to(bench.deployment("down"), fallbacks={"outage": (group(bench.deployment("up")),)})
    stage = bench.worker(route=route)
    for number in range(12):
        assert told(await stage(event(f"down-{number}"))).deployment == "up"
    calls = Counter(bench.went("model"))
    assert calls[("up",)] == 12 and 5 <= calls[("down",)] <= 8, "until its breaker opened"


async def test_a_key_that_is_refused_is_used_once_and_no_request_fails_for_it(bench: Routed) -> None:
    bench.script(by_key={"bad": ["401"]})
    keys = tuple(SecretStr(key) for key in ("bad", "one", "two"))
    stage = bench.worker(route=bench.route_to(bench.deployment("m", api_key=keys[0], api_keys=keys)))
    for number in range(9):
        assert told(await stage(event(f"keys-{number}"))).finish_reason == "stop"
    assert Counter(bench.went("fault")) == {("401",): 1, ("ok",): 9}


@pytest.mark.parametrize("fault", ["429:300", "429_date:300", "429_reset:300"])
async def test_a_wish_to_be_left_alone_is_kept_to_whatever_form_it_has(bench: Routed, fault: str) -> None:
    bench.script(by_model={"busy": [fault]})
    stage = bench.worker(route=bench.route_to(bench.deployment("busy")))
    request = f"busy-{fault.partition(':')[0]}"
    with pytest.raises(NotYetError) as caught:
        await stage(event(request, expires_at=None))
    assert 250 <= caught.value.wait_s <= 350
    with pytest.raises(NotYetError):
        await stage(event(f"{request}-2", expires_at=None))
    assert len(bench.went("model")) == 1, "nothing else is sent meanwhile"


async def test_long_prompts_and_withheld_answers_go_where_they_can_be_answered(bench: Routed) -> None:
    bench.script(by_model={"short": ["context"], "strict": ["filtered"]})
    fallbacks = {
        "context_too_long": (group(bench.deployment("strict")),),
        "content_refused": (group(bench.deployment("free")),),
    }
    stage = bench.worker(route=bench.route_to(bench.deployment("short"), fallbacks=fallbacks))
    answer = told(await stage(event("refused")))
    assert [one.deployment for one in answer.attempts] == ["short", "strict", "free"]
    assert [one.error_code for one in answer.attempts] == ["context_too_long", "content_refused", None]
    assert answer.attempts[1].cost_usd, "a withheld answer is paid"


def group(*deployments: Deployment) -> Group:
    return Group(deployments=deployments)
