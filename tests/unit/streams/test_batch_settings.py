"""A deployment's batches: what makes no sense is refused with its line, and which lanes go by them."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from processors.batchapi.policy import BatchPolicy
from schemas.errors import ConfigurationError
from streams.batch_settings import BatchSettings, goes_by_batch
from streams.batches import Gathering, Shown, line_of
from streams.deployed import routes
from streams.settings import Settings, load_settings

BASE = """\
stack = "external"
kafka.bootstrap = "b:9092"
registry.url = "http://r"
postgres.dsn = "postgresql://p/db"
embeddings = { base_url = "http://e/v1", model = "e" }

[deployments.main]
base_url = "http://m/v1"
model = "big"
provider = "openai"

[deployments.main.batch]
max_wait_s = 10

[routes.default]
deployment = "main"
"""


def load(tmp_path: Path, text: str) -> Settings:
    path = tmp_path / "headrace.toml"
    path.write_text(text)
    return load_settings(path)


@pytest.mark.parametrize(
    ("old", "new", "line", "said"),
    [
        ('provider = "openai"', 'provider = "anthropic"', 12, "this deployment speaks anthropic"),
        ('provider = "openai"', 'api = "responses"', 12, "this deployment speaks responses"),
        ('provider = "openai"', 'api = "azure"', 12, "this deployment speaks azure"),
        ("max_wait_s = 10", "price_factor = -1", 13, "greater than or equal to 0"),
        ("max_wait_s = 10", "max_requests = 50001", 13, "less than or equal to 50000"),
        ("max_wait_s = 10", 'again = "never"', 13, "Input should be 'call' or 'batch'"),
        ("max_wait_s = 10", "lanes = []", 13, "at least 1 item"),
    ],
)
def test_what_makes_no_sense_is_refused_with_its_line(tmp_path: Path, old: str, new: str, line: int, said: str) -> None:
    assert BASE.count(old) == 1
    with pytest.raises(ConfigurationError) as caught:
        load(tmp_path, BASE.replace(old, new))
    assert said in str(caught.value)
    assert f"headrace.toml:{line}: " in str(caught.value), str(caught.value)


def test_the_stage_gets_what_the_settings_say(tmp_path: Path) -> None:
    settings = load(tmp_path, BASE)
    assert routes(settings)["default"].deployment.batch == BatchPolicy(max_wait_s=10.0, price_factor=Decimal("0.5"))
    assert BatchSettings().policy() == BatchPolicy()


def test_only_lanes_that_are_named_go_by_batch(tmp_path: Path) -> None:
    deployments = load(tmp_path, BASE).deployments.values()
    assert goes_by_batch("bulk", deployments)
    assert not goes_by_batch("live", deployments)


def test_the_status_has_a_line_only_where_something_goes_by_batch() -> None:
    assert line_of(Shown(batches=[], waiting=[])) is None
    waiting = Gathering(lane="bulk", deployment="main", requests=1_204, oldest_s=720.0)
    told = "batches: 0 open with 0 requests, 1,204 waiting, the oldest 12 min"
    assert line_of(Shown(batches=[], waiting=[waiting])) == told
