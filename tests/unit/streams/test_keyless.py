"""A public endpoint without a key is refused at start; whoever needs none, or says so, is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from schemas.errors import ConfigurationError
from streams.deployed import check_keys, routes
from streams.doctor.checkup import ProblemError
from streams.doctor.models import look_deployment
from streams.keyless import lacks_key
from streams.route_settings import DeploymentSettings
from streams.settings import load_settings
from tests.unit.streams.test_several_settings import BASE, load

EXAMPLE = Path(__file__).parents[3] / "infra" / "headrace.example.toml"
PUBLIC = BASE.replace("http://b/v1", "https://api.openai.com/v1")


def deployment(base_url: str, **values: object) -> DeploymentSettings:
    return DeploymentSettings.model_validate({"base_url": base_url, "model": "m", **values})


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:8000/v1",
        "http://[::1]:8000/v1",
        "http://localhost:8000/v1",
        "http://models:8000/v1",
        "http://10.1.2.3/v1",
        "http://172.20.0.4/v1",
        "http://192.168.1.7/v1",
        "http://100.64.1.1/v1",
        "http://[fd00::1]/v1",
        "http://vllm.default.svc.cluster.local/v1",
        "http://vllm.default.svc/v1",
        "http://host.docker.internal:11434/v1",
        "http://box.lan/v1",
    ],
)
def test_what_only_those_inside_can_call_needs_no_key(url: str) -> None:
    assert not lacks_key(deployment(url))


@pytest.mark.parametrize(
    "url",
    [
        "https://api.openai.com/v1",
        "https://api.anthropic.com",
        "https://my-resource.openai.azure.com",
        "https://API.OpenAI.com./v1",
        "https://8.8.8.8/v1",
        "https://[2606:4700::1]/v1",
        "https://localhost.example.com/v1",
        "https://evil-internal.com/v1",
    ],
)
def test_a_public_endpoint_needs_one_or_a_word_that_it_takes_none(url: str) -> None:
    assert lacks_key(deployment(url))
    assert not lacks_key(deployment(url, api_key_env="K"))
    assert not lacks_key(deployment(url, api_keys_env=("K", "L")))
    assert not lacks_key(deployment(url, api_keys_env=()))


@pytest.mark.parametrize("start", [check_keys, routes])
def test_a_worker_refuses_to_start_with_file_and_line(tmp_path: Path, start: object) -> None:
    assert callable(start)
    with pytest.raises(ConfigurationError) as caught:
        start(load(tmp_path, PUBLIC))
    assert "headrace.toml:16: deployments.big.base_url is public" in str(caught.value), str(caught.value)
    assert "api_key_env" in str(caught.value)
    start(load(tmp_path, PUBLIC.replace('model = "big"', 'model = "big"\napi_keys_env = []')))


def test_a_key_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BIG_KEY", "k")
    settings = load(tmp_path, PUBLIC.replace('model = "big"', 'model = "big"\napi_key_env = "BIG_KEY"'))
    check_keys(settings)


async def test_the_doctor_says_so_before_it_asks() -> None:
    with pytest.raises(ProblemError, match="no key is named"):
        await look_deployment(deployment("https://api.openai.com/v1"))


def test_the_example_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODEL_API_KEY", "k")
    monkeypatch.chdir(tmp_path)
    check_keys(load_settings(EXAMPLE))
