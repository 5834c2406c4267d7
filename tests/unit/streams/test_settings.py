"""Settings come from a file and from variables, are checked against each other, and never show a secret."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from schemas.errors import ConfigurationError
from streams.settings import load_settings

EXAMPLE = Path(__file__).parents[3] / "infra" / "headrace.example.toml"


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("HEADRACE_CONFIG", "HEADRACE_FOLDER", "HEADRACE_STACK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "headrace.toml"
    path.write_text(text)
    return path


def test_the_example_is_valid() -> None:
    settings = load_settings(EXAMPLE)
    assert settings.deployments["main"].price.prompt.as_tuple().exponent == -2
    assert settings.call_concurrency == 32


@pytest.mark.parametrize(
    ("name", "line", "said"),
    [
        ('"gpt-4o"', 'prompt = "1"', "names no model"),
        ('"/gpt-4o"', 'prompt = "1"', "names no model"),
        ('"openai/gpt-4o"', "prompt = -1", "greater than or equal to 0"),
        ('"openai/gpt-4o"', 'prompt = "NaN"', "finite"),
        ('"openai/gpt-4o"', 'promt = "1"', "promt"),
    ],
)
def test_a_price_that_makes_no_sense_is_an_error(tmp_path: Path, name: str, line: str, said: str) -> None:
    path = write(tmp_path, f"{EXAMPLE.read_text()}\n[prices.{name}]\n{line}\n")
    with pytest.raises(ConfigurationError, match=said):
        load_settings(path)


def test_a_price_keeps_its_digits_however_it_is_written(tmp_path: Path) -> None:
    path = write(tmp_path, f'{EXAMPLE.read_text()}\n[prices."openai/x"]\nprompt = 0.1\ncompletion = "0.10"\n')
    price = load_settings(path).prices["openai/x"]
    assert (str(price.prompt), str(price.completion)) == ("0.1", "0.10")


def test_a_variable_wins_over_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_KAFKA__BOOTSTRAP", "elsewhere:9092")
    settings = load_settings(EXAMPLE)
    assert settings.kafka.bootstrap == "elsewhere:9092"
    assert settings.kafka.replication == 3, "the rest of the section stays"


def test_an_unknown_name_is_an_error_that_says_where(tmp_path: Path) -> None:
    path = write(tmp_path, EXAMPLE.read_text().replace('log_level = "info"', "grace = 30"))
    with pytest.raises(ConfigurationError, match=r"worker\.grace: there is no such setting"):
        load_settings(path)


@pytest.mark.parametrize("dsn", ["postgresql://headrace:hunter%zz2@db:5432/x", "host=db password='hunter%zz2"])
def test_a_dsn_that_does_not_parse_is_an_error_that_quotes_nothing_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dsn: str
) -> None:
    monkeypatch.setenv("HEADRACE_POSTGRES__DSN", dsn)
    with pytest.raises(ConfigurationError, match=r"postgres: .*dsn does not parse") as refused:
        load_settings(write(tmp_path, EXAMPLE.read_text()))
    assert "hunter" not in str(refused.value) and "zz2" not in str(refused.value)
    assert refused.value.__cause__ is None


def test_a_route_to_no_deployment_is_an_error_that_names_both(tmp_path: Path) -> None:
    path = write(tmp_path, EXAMPLE.read_text().replace('deployment = "main"', 'deployment = "man"'))
    with pytest.raises(ConfigurationError, match=r"routes\.default\.deployment is 'man'"):
        load_settings(path)


def test_a_heartbeat_that_is_too_slow_for_the_session_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path, EXAMPLE.read_text() + "heartbeat_s = 20\n")
    with pytest.raises(ConfigurationError, match=r"heartbeat_s"):
        load_settings(path)


def test_a_file_that_is_no_toml_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"headrace\.toml is no valid TOML"):
        load_settings(write(tmp_path, "kafka = ["))


def test_a_file_that_was_asked_for_has_to_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_CONFIG", "missing.toml")
    with pytest.raises(ConfigurationError, match=r"missing\.toml does not exist"):
        load_settings()


def test_without_a_stack_the_error_says_how_to_start_one() -> None:
    with pytest.raises(ConfigurationError, match=r"headrace up"):
        load_settings()


def test_an_external_stack_never_falls_back_to_the_embedded_one(tmp_path: Path) -> None:
    folder = tmp_path / ".headrace"
    folder.mkdir()
    endpoints = {
        "kafka_bootstrap": "127.0.0.1:1",
        "registry_url": "http://127.0.0.1:2",
        "postgres_dsn": "postgresql://127.0.0.1:3/x",
        "embeddings_url": "http://127.0.0.1:4/v1",
        "embeddings_model": "m",
        "embedding_dimension": 384,
        "model_url": "http://127.0.0.1:5/v1",
        "model_name": "m",
    }
    (folder / "stack.json").write_text(json.dumps({"endpoints": endpoints}))
    assert load_settings().kafka.bootstrap == "127.0.0.1:1"
    with pytest.raises(ConfigurationError) as raised:
        load_settings(write(tmp_path, 'stack = "external"\n'))
    assert "kafka" in str(raised.value) and "headrace up" not in str(raised.value)


def test_a_secret_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_POSTGRES__DSN", "postgresql://u:hunter2@h/db")
    assert "hunter2" not in repr(load_settings(EXAMPLE))
    monkeypatch.setenv("HEADRACE_POSTGRES__POOL_SIZE", "hunter2")
    with pytest.raises(ConfigurationError) as raised:
        load_settings(EXAMPLE)
    assert "hunter2" not in str(raised.value), "an error names the field, not its value"
