"""The container files hold together: what they refer to exists, and what they set is known. Nothing is built here."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator
from pydantic import BaseModel
from typer.main import get_command

from streams.cli import build
from streams.settings import Settings
from streams.stages import STAGES
from streams.worker import grace_s

ROOT = Path(__file__).parents[3]
COMPOSE = ROOT / "docker-compose.yml"
INFRA = ROOT / "infra"
# Names that Headrace's settings refer to by their own name, in an *_env field.
KEYS = {"MODEL_API_KEY"}


def _compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())
    return loaded


def _specification() -> Draft202012Validator:
    # The package carries the specification's schema; its command line needs a newer click than Faust allows.
    found = find_spec("check_jsonschema")
    assert found is not None
    assert found.origin is not None
    schema = json.loads((Path(found.origin).parent / "builtin_schemas" / "vendor" / "compose-spec.json").read_text())
    return Draft202012Validator(schema)


def _ours() -> dict[str, dict[str, Any]]:
    return {name: s for name, s in _compose()["services"].items() if s["image"].startswith("headrace:")}


def _mounts(service: dict[str, Any]) -> list[tuple[str, str]]:
    pairs = [str(volume).split(":") for volume in service.get("volumes", ())]
    return [(parts[0], parts[1]) for parts in pairs]


def test_the_compose_file_is_valid_under_the_specification() -> None:
    assert [error.message for error in _specification().iter_errors(_compose())] == []


def test_the_specification_refuses_a_wrong_file() -> None:
    wrong = yaml.safe_load(COMPOSE.read_text().replace("depends_on:", "depend_on:", 1))
    assert list(_specification().iter_errors(wrong))


def test_every_stage_has_a_service_that_runs_it_alone() -> None:
    runs = {name: s["command"] for name, s in _ours().items() if s.get("command", [""])[0] == "worker"}
    assert runs == {name: ["worker", name] for name in STAGES}


def test_a_service_has_longer_to_stop_than_its_stage_may_need() -> None:
    settings = _settings()
    for name, service in _ours().items():
        if name in STAGES:
            assert _seconds(service["stop_grace_period"]) >= grace_s(settings, [name]) + 30, name


@pytest.mark.parametrize("name", sorted(_ours()))
def test_a_command_is_one_that_the_command_line_has(name: str) -> None:
    arguments = _ours()[name].get("command", ["--help"])
    if arguments == ["--help"]:
        return
    group = get_command(build(arguments))
    command = group.commands[arguments[0]]  # type: ignore[attr-defined]
    # Parses the arguments and runs nothing.
    command.make_context(arguments[0], list(arguments[1:]))


@pytest.mark.parametrize("name", sorted(_ours()))
def test_a_variable_is_one_that_the_settings_know(name: str) -> None:
    for variable in _ours()[name]["environment"]:
        if variable in KEYS or variable == "HEADRACE_CONFIG":
            continue
        assert variable.startswith("HEADRACE_"), variable
        assert _known(Settings, variable.removeprefix("HEADRACE_").lower().split("__")), variable


def test_the_image_sets_variables_that_the_settings_know() -> None:
    variables = re.findall(r"HEADRACE_(\w+)=", (INFRA / "Dockerfile").read_text())
    assert variables
    for variable in variables:
        assert _known(Settings, variable.lower().split("__")), variable


def test_a_name_that_the_settings_do_not_have_is_found() -> None:
    assert not _known(Settings, ["worker", "http_prt"])
    assert not _known(Settings, ["deployments", "main", "nodel"])
    assert _known(Settings, ["deployments", "main", "model"])


def test_the_settings_of_the_services_are_valid() -> None:
    settings = _settings()
    assert settings.stack == "external"
    assert settings.deployments["main"].base_url == "value-of-MODEL_BASE_URL"
    # No secret is in the file.
    text = (INFRA / "compose" / "headrace.toml").read_text()
    assert not re.search(r"(password|secret|api_key)\s*=", text)


def test_every_variable_that_has_to_be_set_is_in_the_example() -> None:
    wanted = set(re.findall(r"\$\{([A-Z_]+)", COMPOSE.read_text()))
    offered = set(re.findall(r"^([A-Z_]+)=", (INFRA / "compose" / "env.example").read_text(), re.MULTILINE))
    assert wanted == offered


def test_no_secret_has_a_default() -> None:
    for name in re.findall(r"\$\{([A-Z_]*PASSWORD)(:?[^}]*)\}", COMPOSE.read_text()):
        assert name[1].startswith(":?"), name


def test_what_is_mounted_from_here_exists_and_named_volumes_are_declared() -> None:
    compose = _compose()
    for name, service in compose["services"].items():
        for source, target in _mounts(service):
            assert target.startswith("/"), (name, target)
            if source.startswith("."):
                assert (ROOT / source).exists(), (name, source)
            else:
                assert source in compose["volumes"], (name, source)
    used = {source for service in compose["services"].values() for source, _ in _mounts(service)}
    assert set(compose["volumes"]) <= used


def test_services_wait_for_services_that_exist() -> None:
    services = _compose()["services"]
    for name, service in services.items():
        wanted = service.get("depends_on", {})
        assert set(wanted) <= set(services), name
        for other, how in wanted.items() if isinstance(wanted, dict) else ():
            if how["condition"] == "service_healthy":
                assert "healthcheck" in services[other], (name, other)


def test_no_two_services_publish_one_port() -> None:
    ports = [str(port).split(":")[-2] for s in _compose()["services"].values() for port in s.get("ports", ())]
    assert len(ports) == len(set(ports))
    published = [str(port) for s in _compose()["services"].values() for port in s.get("ports", ())]
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_endpoints_in_the_settings_are_services() -> None:
    settings, services = _settings(), _compose()["services"]
    assert settings.kafka.bootstrap.split(":")[0] in services
    assert re.match(r"http://(\w+):8080/", settings.registry.url)[1] in services  # type: ignore[index]
    dsn = settings.postgres.dsn.get_secret_value()
    assert re.search(r"@(\w+):5432/", dsn)[1] in services  # type: ignore[index]
    assert services["kafka"]["environment"]["KAFKA_ADVERTISED_LISTENERS"] == f"PLAINTEXT://{settings.kafka.bootstrap}"


def test_prometheus_scrapes_every_stage_where_its_worker_listens() -> None:
    config = yaml.safe_load((INFRA / "prometheus" / "prometheus.yml").read_text())
    [job] = config["scrape_configs"]
    [source] = job["dns_sd_configs"]
    assert set(source["names"]) == set(STAGES)
    assert f"HEADRACE_WORKER__HTTP_PORT={source['port']}" in (INFRA / "Dockerfile").read_text()
    mounted = {target for _, target in _mounts(_compose()["services"]["prometheus"])}
    assert set(config["rule_files"]) <= mounted


def test_grafana_asks_the_prometheus_service() -> None:
    folder = INFRA / "grafana" / "provisioning"
    [source] = yaml.safe_load((folder / "datasources" / "prometheus.yml").read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090"
    assert "prometheus" in _compose()["services"]
    [provider] = yaml.safe_load((folder / "dashboards" / "headrace.yml").read_text())["providers"]
    mounted = {target for _, target in _mounts(_compose()["services"]["grafana"])}
    assert provider["options"]["path"] in mounted


def test_the_image_has_stages_no_root_and_a_health_check() -> None:
    lines = [line for line in (INFRA / "Dockerfile").read_text().splitlines() if line and not line.startswith("#")]
    assert sum(line.startswith("FROM ") for line in lines) == 2
    last = lines[len(lines) - next(n for n, line in enumerate(reversed(lines)) if line.startswith("FROM ")) - 1 :]
    [user] = [line.split()[1] for line in last if line.startswith("USER ")]
    assert user.split(":")[0] not in ("0", "root")
    text = "\n".join(last)
    assert "HEALTHCHECK" in text
    assert "/livez" in text
    [entry] = [line for line in last if line.startswith("ENTRYPOINT")]
    assert entry == 'ENTRYPOINT ["headrace"]'
    for source in re.findall(r"^COPY (?!--from)(.+) \S+$", "\n".join(lines), re.MULTILINE):
        for name in shlex.split(source):
            assert (ROOT / name).exists(), name


def _settings() -> Settings:
    """What a service reads: the file, and the variables with a value for each that is asked for."""
    values = tomllib.loads((INFRA / "compose" / "headrace.toml").read_text())
    environment = next(iter(_ours().values()))["environment"]
    for variable, value in environment.items():
        if variable.startswith("HEADRACE_") and variable != "HEADRACE_CONFIG":
            at = values
            *path, last = variable.removeprefix("HEADRACE_").lower().split("__")
            for name in path:
                at = at.setdefault(name, {})
            at[last] = re.sub(r"\$\{(\w+)(?::-(\w*)|:\?[^}]*)?\}", lambda m: m[2] or f"value-of-{m[1]}", value)
    return Settings(**values)


def _known(model: type[BaseModel], path: list[str]) -> bool:
    """Whether the settings have a field under this path; a table takes any name."""
    field = model.model_fields.get(path[0])
    if field is None:
        return False
    if len(path) == 1:
        return True
    inner, rest = field.annotation, path[1:]
    if getattr(inner, "__origin__", None) is dict:
        inner, rest = inner.__args__[1], rest[1:]  # type: ignore[union-attr]
        if not rest:
            return True
    inner = next((a for a in getattr(inner, "__args__", ()) if isinstance(a, type) and issubclass(a, BaseModel)), inner)
    return isinstance(inner, type) and issubclass(inner, BaseModel) and _known(inner, rest)


def _seconds(text: str) -> float:
    return float(text.removesuffix("s"))
