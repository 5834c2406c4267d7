"""How checks are run, and what is hidden of what they say."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta

import pytest
from pydantic import SecretStr

from schemas.errors import DependencyDownError
from streams.doctor.checkup import Check, NotCheckedError, ProblemError, examine, in_thread
from streams.doctor.clocks import judge_clocks
from streams.doctor.models import is_local
from streams.doctor.redact import redactor, shown_dsn, shown_url
from streams.route_settings import DeploymentSettings, RouteSettings
from streams.settings import (
    EmbeddingSettings,
    KafkaSettings,
    PostgresSettings,
    RegistrySettings,
    Settings,
)


async def fine() -> str:
    return "seen"


async def problem() -> str:
    raise ProblemError("two are missing", "make them")


async def down() -> str:
    raise DependencyDownError("postgres", "refused")


async def not_checked() -> str:
    raise NotCheckedError("not here")


async def bug() -> str:
    raise KeyError("x")


async def hang() -> str:
    await asyncio.sleep(60)
    return ""


async def test_each_way_a_check_may_end_is_told() -> None:
    looks = {"fine": fine, "problem": problem, "down": down, "off": not_checked, "bug": bug}
    found = await examine([Check(name=name, look=look, fix="fix it") for name, look in looks.items()])
    assert [(one.name, one.status, one.fix) for one in found] == [
        ("fine", "ok", None),
        ("problem", "failed", "make them"),
        ("down", "failed", "fix it"),
        ("off", "skipped", None),
        ("bug", "failed", "fix it"),
    ]
    assert found[0].detail == "seen"
    assert "two are missing" in found[1].detail
    assert "KeyError" in found[4].detail


async def test_a_check_whose_ground_failed_is_skipped_and_so_is_what_stands_on_it() -> None:
    found = await examine(
        [
            Check(name="a", look=down, fix="x"),
            Check(name="b", look=fine, fix="x", needs=("a",)),
            Check(name="c", look=fine, fix="x", needs=("b",)),
            Check(name="d", look=fine, fix="x"),
        ]
    )
    assert [one.status for one in found] == ["failed", "skipped", "skipped", "ok"]
    assert found[1].detail == "needs a"


async def test_a_check_that_hangs_ends_at_its_limit() -> None:
    started = time.monotonic()
    checks = [Check(name=str(n), look=hang, fix="x", limit_s=0.2) for n in range(20)]
    found = await examine(checks)
    assert {one.status for one in found} == {"failed"}
    assert "no reply within 0.2 s" in found[0].detail
    assert time.monotonic() - started < 5


async def test_blocking_work_that_hangs_holds_up_neither_the_loop_nor_its_end() -> None:
    async def look() -> str:
        return await in_thread(lambda: time.sleep(30) or "late")

    started = time.monotonic()
    found = await examine([Check(name="a", look=look, fix="x", limit_s=0.2)])
    assert found[0].status == "failed"
    assert time.monotonic() - started < 5


async def test_blocking_work_hands_on_its_result_and_its_error() -> None:
    assert await in_thread(lambda: 7) == 7
    found = await examine([Check(name="a", look=lambda: in_thread(lambda: str(1 // 0)), fix="x")])
    assert "ZeroDivisionError" in found[0].detail


def settings(**changes: object) -> Settings:
    values: dict[str, object] = {
        "stack": "external",
        "kafka": KafkaSettings(bootstrap="k:9092", options={"sasl.username": "me", "sasl.password": "kafka-pw"}),
        "registry": RegistrySettings(url="http://u:registry-pw@r:8081", options={"basic.auth.user.info": "u:basic-pw"}),
        "postgres": PostgresSettings(dsn=SecretStr("postgresql://me:p%40ss-pw@db:5432/headrace")),
        "embeddings": EmbeddingSettings(base_url="http://e/v1", model="m", api_key=SecretStr("sk-embed")),
        "deployments": {"main": DeploymentSettings(base_url="http://m/v1", model="m", api_key_env="TEST_MODEL_KEY")},
        "routes": {"default": RouteSettings(deployment="main")},
        **changes,
    }
    return Settings(**values)  # type: ignore[arg-type]


def test_every_secret_is_hidden_in_each_form_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_MODEL_KEY", "sk-model")
    redact = redactor(settings())
    secrets = ("kafka-pw", "registry-pw", "basic-pw", "u:basic-pw", "p@ss-pw", "p%40ss-pw", "sk-embed", "sk-model")
    for secret in secrets:
        assert redact(f"before {secret} after") == "before *** after"
    assert redact("me at db:5432") == "me at db:5432"


def test_a_dsn_that_does_not_parse_is_not_quoted() -> None:
    assert "pw-in-here" not in shown_dsn("postgresql:/oops pw-in-here")


def test_addresses_are_shown_without_user_password_and_query() -> None:
    assert shown_url("https://u:pw@host:8443/v1?key=pw#x") == "https://host:8443/v1"
    assert shown_dsn("postgresql://u:pw@host:5433/db?sslpassword=pw") == "host:5433/db"


def test_only_an_endpoint_on_this_machine_is_called_without_being_asked() -> None:
    def local(url: str) -> bool:
        return is_local(DeploymentSettings(base_url=url, model="m"))

    assert local("http://127.0.0.1:8000/v1")
    assert local("http://localhost/v1")
    assert local("http://[::1]:8000/v1")
    assert not local("https://api.openai.com/v1")
    assert not local("http://10.0.0.1/v1")
    assert not local("http://localhost.example.com/v1")


NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


def test_a_broker_ahead_of_the_database_is_a_problem_and_an_old_record_is_none() -> None:
    with pytest.raises(ProblemError, match=r"10\.0 s ahead"):
        judge_clocks(NOW, NOW + timedelta(seconds=10), machine_behind_s=0)
    assert "at most 2 h" in judge_clocks(NOW, NOW - timedelta(hours=2), machine_behind_s=0)
    assert "200 ms ahead" in judge_clocks(NOW, NOW + timedelta(milliseconds=200), machine_behind_s=0)
    assert "appended nothing" in judge_clocks(NOW, None, machine_behind_s=0)


def test_this_machines_clock_is_told_and_never_a_problem() -> None:
    assert "3600000 ms behind this machine" in judge_clocks(NOW, NOW, machine_behind_s=-3600)
    assert "3600000 ms ahead of this machine" in judge_clocks(NOW, NOW, machine_behind_s=3600)
