"""How long a worker may take to stop, and what it says when that is less than a paid call may take."""

from __future__ import annotations

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from streams.settings import Settings, load_settings
from streams.worker import grace_s, warn_of_grace

EXAMPLE = Path(__file__).parents[3] / "infra" / "headrace.example.toml"


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Settings:
    monkeypatch.chdir(tmp_path)
    return load_settings(EXAMPLE)


def said(settings: Settings, *stages: str) -> list[str]:
    with capture_logs() as lines:
        warn_of_grace(settings, stages)
    assert {line["log_level"] for line in lines} <= {"warning"}
    return [line["stage"] for line in lines]


def with_grace(settings: Settings, seconds: float) -> Settings:
    return settings.model_copy(update={"worker": settings.worker.model_copy(update={"grace_s": seconds})})


def test_the_example_lets_a_call_end(example: Settings) -> None:
    longest = max(one.total_timeout_s for one in example.deployments.values())
    assert grace_s(example, ["complete"]) >= longest
    assert said(example, "admit", "complete", "filter") == []


def test_a_grace_that_is_shorter_than_a_paid_call_is_warned_of(example: Settings) -> None:
    assert said(with_grace(example, 119), "admit", "complete", "filter") == ["complete"]
    assert said(with_grace(example, 120), "admit", "complete", "filter") == []
    assert said(with_grace(example, 5), "admit", "filter") == [], "nothing is paid there"
