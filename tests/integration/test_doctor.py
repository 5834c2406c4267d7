"""What ``headrace doctor`` finds on a real stack, sound and broken on purpose."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource
from pydantic import SecretStr

from schemas.files import event_schemas
from schemas.registry import Registry
from streams.cli.doctor import as_json
from streams.doctor.checkup import Finding, examine
from streams.doctor.plan import checks
from streams.doctor.redact import redactor
from streams.route_settings import DeploymentSettings, RouteSettings
from streams.settings import (
    EmbeddingSettings,
    KafkaSettings,
    PostgresSettings,
    RegistrySettings,
    Settings,
)
from streams.topics import admin_client, apply, compare, topic_name
from tests.support.ports import nobodys_port
from tests.support.stack import TestStack

pytestmark = pytest.mark.stack

ROOT = Path(__file__).parents[2]
# The slowest chain of checks, with room for a machine under load.
BOUND_S = 90.0


def settings_of(stack: TestStack, **changes: Any) -> Settings:
    values: dict[str, Any] = {
        "stack": "external",
        "kafka": KafkaSettings(bootstrap=stack.kafka_bootstrap),
        "registry": RegistrySettings(url=stack.registry_url),
        "postgres": PostgresSettings(dsn=SecretStr(stack.postgres_dsn)),
        "embeddings": EmbeddingSettings(base_url=stack.embeddings_url, model=stack.embeddings_model),
        "deployments": {"local": DeploymentSettings(base_url=stack.model_url, model=stack.model_name)},
        "routes": {"default": RouteSettings(deployment="local")},
        **changes,
    }
    return Settings(**values)


@pytest.fixture
def settings(stack: TestStack) -> Settings:
    return settings_of(stack)


@pytest.fixture
def prepared(settings: Settings, lane: str) -> str:
    """A lane with its topics, and a registry with its schemas."""
    apply(settings, lane, compare(settings, lane))
    asyncio.run(Registry(settings.registry.url).register(event_schemas()))
    return lane


def look(settings: Settings, lane: str, *, call: bool = False) -> dict[str, Finding]:
    found = asyncio.run(examine(checks(settings, lane=lane, call=call), redact=redactor(settings)))
    return {finding.name: finding for finding in found}


def failed(found: dict[str, Finding]) -> set[str]:
    return {name for name, finding in found.items() if finding.status == "failed"}


@contextmanager
def silent_server() -> Iterator[int]:
    """Takes connections and never says a word."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)
        yield listener.getsockname()[1]


def test_a_sound_stack_has_nothing_to_complain_of(settings: Settings, prepared: str) -> None:
    found = look(settings, prepared)
    assert {name: one.status for name, one in found.items() if one.status != "ok"} == {"stack": "skipped"}, found
    assert "384" in found["embeddings"].detail
    assert "1 out" in found["call local"].detail
    assert "answer@1" in found["prompts"].detail
    assert "this machine" in found["clocks"].detail


def test_missing_and_changed_topics_are_named_with_the_command_that_mends_them(settings: Settings, lane: str) -> None:
    apply(settings, lane, compare(settings, lane, ("answers", "control", "requests")))
    name = topic_name(settings.prefix, lane, "answers")
    change = ConfigEntry("retention.ms", "60000", incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ConfigResource.Type.TOPIC, name, incremental_configs=[change])
    admin = admin_client(settings)
    for future in admin.incremental_alter_configs([resource]).values():
        future.result(60)
    # The controller has taken the change; the broker follows a moment later.
    deadline = time.monotonic() + 60
    while not compare(settings, lane, ["answers"]).alter and time.monotonic() < deadline:
        time.sleep(0.1)
    topics = look(settings, lane)["topics"]
    assert topics.status == "failed"
    assert f"{lane}.admitted" in topics.detail
    assert f"{lane}.requests" not in topics.detail
    assert "retention.ms is 60000" in topics.detail
    assert topics.fix == f"headrace topics apply --lane {lane}"


def test_fewer_partitions_are_told_and_no_failure(stack: TestStack, prepared: str) -> None:
    topics = look(settings_of(stack, partitions=6), prepared)["topics"]
    assert topics.status == "ok"
    assert "has 4 of 6" in topics.detail
    assert "--grow" in topics.detail


def test_a_registry_that_is_away_fails_alone(stack: TestStack, prepared: str) -> None:
    with nobodys_port() as port:
        away = f"http://127.0.0.1:{port}"
        found = look(settings_of(stack, registry=RegistrySettings(url=away)), prepared)
    assert failed(found) == {"registry"}, found["clocks"]
    assert found["schemas"].status == "skipped"
    assert away in (found["registry"].fix or "")


def test_dependencies_that_hang_are_told_within_seconds(stack: TestStack, lane: str) -> None:
    with silent_server() as port:
        hanging = settings_of(
            stack,
            kafka=KafkaSettings(bootstrap=f"127.0.0.1:{port}"),
            registry=RegistrySettings(url=f"http://127.0.0.1:{port}"),
            postgres=PostgresSettings(dsn=SecretStr(f"postgresql://u@127.0.0.1:{port}/x")),
            embeddings=EmbeddingSettings(base_url=f"http://127.0.0.1:{port}/v1", model="m"),
            deployments={"local": DeploymentSettings(base_url=f"http://127.0.0.1:{port}/v1", model="m")},
        )
        started = time.monotonic()
        found = look(hanging, lane)
    assert time.monotonic() - started < BOUND_S
    assert failed(found) == {"kafka", "registry", "postgres", "embeddings", "model local"}


def test_a_wrong_dimension_is_told_for_the_model_and_for_the_table(stack: TestStack, prepared: str) -> None:
    wanted = EmbeddingSettings(base_url=stack.embeddings_url, model=stack.embeddings_model, dimension=768)
    found = look(settings_of(stack, embeddings=wanted), prepared)
    assert failed(found) == {"embeddings", "dimension"}
    assert "gives 384 dimensions, settings say 768" in found["embeddings"].detail
    assert "takes 384 dimensions, settings say 768" in found["dimension"].detail


def test_a_database_without_our_tables_asks_for_migrations(stack: TestStack, prepared: str) -> None:
    name = f"empty_{secrets.token_hex(4)}"
    with psycopg.connect(stack.postgres_dsn, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")  # type: ignore[call-overload]
    try:
        dsn = stack.postgres_dsn.rpartition("/")[0] + f"/{name}"
        found = look(settings_of(stack, postgres=PostgresSettings(dsn=SecretStr(dsn))), prepared)
    finally:
        with psycopg.connect(stack.postgres_dsn, autocommit=True) as connection:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")  # type: ignore[call-overload]
    assert failed(found) == {"migrations", "pgvector", "dimension"}
    assert "0001" in found["migrations"].detail
    assert found["migrations"].fix == "headrace migrate"
    assert found["prompts"].status == "skipped"


def test_a_model_that_is_not_served_and_a_prompt_that_is_not_there_are_named(stack: TestStack, prepared: str) -> None:
    found = look(
        settings_of(
            stack,
            deployments={"local": DeploymentSettings(base_url=stack.model_url, model="gpt-unknown")},
            routes={"default": RouteSettings(deployment="local", prompt="nowhere")},
        ),
        prepared,
    )
    assert failed(found) == {"model local", "prompts"}, found
    assert "gpt-unknown" in found["model local"].detail
    assert "'nowhere'" in found["prompts"].detail
    assert found["call local"].status == "skipped"


def test_a_key_that_is_not_set_is_named_by_its_variable(stack: TestStack, prepared: str) -> None:
    keyed = DeploymentSettings(base_url=stack.model_url, model=stack.model_name, api_key_env="HEADRACE_TEST_NO_KEY")
    found = look(settings_of(stack, deployments={"local": keyed}), prepared)
    assert "HEADRACE_TEST_NO_KEY" in found["model local"].detail


def test_a_skipped_check_is_neither_true_nor_false_as_json() -> None:
    found = as_json([Finding("a", "ok", "x"), Finding("b", "skipped", "y"), Finding("c", "failed", "z", "do")])
    assert found["ok"] is False
    assert [one["ok"] for one in found["checks"]] == [True, None, False]  # type: ignore[attr-defined]
    assert as_json([Finding("a", "ok", "x"), Finding("b", "skipped", "y")])["ok"] is True


def run_doctor(folder: Path, env: dict[str, str], *options: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_")}
    return subprocess.run(
        [sys.executable, "-m", "streams", "doctor", *options],
        cwd=folder,
        env={**clean, "PYTHONPATH": str(ROOT), **env},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture
def dead() -> Iterator[int]:
    with nobodys_port() as port:
        yield port


@pytest.mark.parametrize("options", [["--json"], []])
def test_no_secret_is_shown(stack: TestStack, tmp_path: Path, dead: int, options: list[str]) -> None:
    env = {
        "HEADRACE_STACK": "external",
        "HEADRACE_KAFKA__BOOTSTRAP": stack.kafka_bootstrap,
        "HEADRACE_KAFKA__OPTIONS": json.dumps(
            {"security.protocol": "SASL_PLAINTEXT", "sasl.mechanism": "PLAIN", "sasl.username": "me"}
            | {"sasl.password": "canary-kafka"}
        ),
        "HEADRACE_REGISTRY__URL": f"http://me:canary-url@127.0.0.1:{dead}",
        "HEADRACE_REGISTRY__OPTIONS": json.dumps({"basic.auth.user.info": "me:canary-basic"}),
        "HEADRACE_POSTGRES__DSN": f"postgresql://me:canary-dsn@127.0.0.1:{dead}/headrace",
        "HEADRACE_EMBEDDINGS__BASE_URL": f"http://127.0.0.1:{dead}/v1",
        "HEADRACE_EMBEDDINGS__MODEL": "m",
        "HEADRACE_EMBEDDINGS__API_KEY": "canary-embedding",
        "HEADRACE_DEPLOYMENTS": json.dumps(
            {"local": {"base_url": f"http://127.0.0.1:{dead}/v1", "model": "m", "api_key_env": "SOME_KEY"}}
        ),
        "HEADRACE_ROUTES": json.dumps({"default": {"deployment": "local"}}),
        "SOME_KEY": "canary-model",
    }
    done = run_doctor(tmp_path, env, *options)
    assert done.returncode == 1, done.stderr
    assert "canary" not in done.stdout + done.stderr
    if options:
        assert json.loads(done.stdout)["ok"] is False
        assert len(done.stdout.splitlines()) == 1
    else:
        assert done.stderr == ""
        assert "FAILED" in done.stdout


def test_unreadable_settings_end_with_2_and_name_the_field(tmp_path: Path) -> None:
    (tmp_path / "headrace.toml").write_text('stack = "external"\npartitions = "many"\n', encoding="utf-8")
    done = run_doctor(tmp_path, {}, "--json")
    assert done.returncode == 2, done.stderr
    found = json.loads(done.stdout)
    assert found["ok"] is False
    assert [one["name"] for one in found["checks"]] == ["settings"]
    assert "partitions" in found["checks"][0]["detail"]


def test_without_a_stack_it_says_how_to_start_one(tmp_path: Path) -> None:
    done = run_doctor(tmp_path, {}, "--json")
    assert done.returncode == 2
    assert json.loads(done.stdout)["checks"][0]["fix"] == "headrace up"
