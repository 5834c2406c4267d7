"""Deployments, routes and fallbacks: what makes no sense is refused at start, with the file and the line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from processors.admit.policy import AdmitPolicy
from schemas.errors import ConfigurationError
from streams.deployed import routes
from streams.settings import Settings, load_settings
from streams.toml_lines import line_of
from streams.worker import WorkerPlan, run_worker
from tests.support.settings import bare_settings

BASE = """\
stack = "external"
kafka.bootstrap = "b:9092"
registry.url = "http://r"
postgres.dsn = "postgresql://p/db"
embeddings = { base_url = "http://e/v1", model = "e" }

[deployments.main]
base_url = "http://m/v1"
model = "big"
max_concurrency = 8
tags = ["eu"]

[deployments.spare]
base_url = "http://s/v1"
model = "small"
max_concurrency = 4

[routes.default]
deployments = ["main", "spare"]

[routes.cheap]
deployment = "spare"
"""


def load(tmp_path: Path, text: str) -> Settings:
    path = tmp_path / "headrace.toml"
    path.write_text(text)
    return load_settings(path)


@pytest.mark.parametrize(
    ("old", "new", "line", "said"),
    [
        ('deployment = "spare"', 'deployment = "spar"', 22, "is 'spar', which is no deployment"),
        ('["main", "spare"]', '["main", "man"]', 19, "is 'man', which is no deployment"),
        ('["main", "spare"]', '["main", "main"]', 19, "names a deployment twice"),
        ('deployment = "spare"', "k = 3", 21, "names no deployment"),
        ('deployment = "spare"', 'deployment = "spare"\ntags = ["eu"]', 21, "sets deployment and tags"),
        ('deployment = "spare"', 'tags = ["us"]', 22, "no deployment has us"),
        ("max_concurrency = 4", "weight = 0", 22, "the weights of its deployments sum to zero"),
        ("max_concurrency = 4", "weight = -1", 16, "greater than or equal to 0"),
        ("max_concurrency = 4", "price = { prompt = -1 }", 16, "greater than or equal to 0"),
        ("max_concurrency = 4", 'api_key_env = "A"\napi_keys_env = ["B"]', 17, "and api_key_env: set one of them"),
        ('model = "small"', 'model = ""', 15, "at least 1 character"),
        (
            'deployment = "spare"',
            'deployment = "spare"\nfallbacks.outage = ["nowhere"]',
            23,
            "names 'nowhere', which is no deployment",
        ),
        (
            'deployment = "spare"',
            'deployment = "spare"\nfallbacks.outage = ["default"]',
            23,
            "write route/default for the route",
        ),
        ('deployment = "spare"', 'deployment = "spare"\nfallbacks.outage = ["route/x"]', 23, "which is no route"),
        (
            'deployment = "spare"',
            'deployment = "spare"\n[routes.cheap.fallbacks]\noutage = [\n  "route/cheap",\n]',
            24,
            "goes in a circle: cheap -> cheap",
        ),
        ('deployment = "spare"', 'deployment = "spare"\naliases = ["default"]', 23, "which route default has already"),
        ('deployment = "spare"', 'deployment = "spare"\nlast_resort = "{{ no }}"', 23, "is no template that can be"),
        (
            'deployment = "spare"',
            'deployment = "spare"\nunknown_policy = "reconcile"',
            23,
            "needs deployments.spare.reconcile_url",
        ),
        (
            'deployment = "spare"',
            'deployment = "spare"\nunknown_policy = "reconcile"\nmax_attempts = 1',
            24,
            'has to be 2 at least with unknown_policy = "reconcile"',
        ),
        ("max_concurrency = 4", 'reconcile_url = "http://x/attempts"', 16, "should match pattern"),
        ('deployment = "spare"', 'deployment = "spare"\nstrategy = "best"', 23, "Input should be 'weighted'"),
        ('deployment = "spare"', 'deployment = "spare"\n[tenants.a.routes]\ndefault = "x"', 24, "is 'x', which is no"),
        ('deployment = "spare"', 'deployment = "spare"\n[tenants.a.routes]\nx = "cheap"', 24, "stands for no route"),
    ],
)
def test_what_makes_no_sense_is_refused_with_its_line(tmp_path: Path, old: str, new: str, line: int, said: str) -> None:
    assert BASE.count(old) == 1
    with pytest.raises(ConfigurationError) as caught:
        load(tmp_path, BASE.replace(old, new))
    assert said in str(caught.value)
    assert f"headrace.toml:{line}: " in str(caught.value), str(caught.value)


def test_a_circle_over_two_routes_is_found_whatever_the_causes() -> None:
    with pytest.raises(ValueError, match=r"goes in a circle: (a -> b -> a|b -> a -> b)"):
        bare_settings(
            routes={
                "default": {"deployment": "local"},
                "a": {"deployment": "local", "fallbacks": {"outage": ["route/b"]}},
                "b": {"deployment": "local", "fallbacks": {"rate_limit": ["route/a"]}},
            }
        )


def test_a_key_that_is_not_set_is_an_error_with_its_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load(tmp_path, BASE.replace("max_concurrency = 8", 'api_keys_env = ["KEY_A", "KEY_B"]'))
    monkeypatch.setenv("KEY_A", "a")
    monkeypatch.delenv("KEY_B", raising=False)
    with pytest.raises(ConfigurationError, match=r"headrace\.toml:10: deployments\.main\.api_keys_env names KEY_B"):
        routes(settings)
    with pytest.raises(ConfigurationError, match=r"headrace\.toml:10: deployments\.main\.api_keys_env names KEY_B"):
        run_worker(WorkerPlan(stages=("complete",), slot="w0"), settings)
    monkeypatch.setenv("KEY_B", "b")
    deployment = routes(settings)["default"].deployment
    assert [key.get_secret_value() for key in deployment.api_keys] == ["a", "b"]
    assert "KEY" not in repr(deployment) and "'a'" not in repr(deployment)


def test_a_route_has_its_deployments_and_those_it_falls_back_to() -> None:
    def one(name: str, **more: Any) -> dict[str, Any]:
        return {"base_url": f"http://{name}/v1", "model": name, "max_concurrency": 4, **more}

    settings = bare_settings(
        deployments={name: one(name, tags=["eu"] if name in "ab" else []) for name in "abcd"},
        routes={
            "default": {
                "tags": ["eu"],
                "strategy": "cheapest",
                "fallbacks": {"outage": ["c", "route/other"], "context_too_long": ["d"]},
            },
            "other": {"deployment": "d", "fallbacks": {"outage": ["c"]}},
        },
    )
    route = routes(settings)["default"]
    assert [one.name for one in route.own.deployments] == ["a", "b"] and route.own.strategy == "cheapest"
    outage = [[one.name for one in group.deployments] for group in route.fallbacks["outage"]]
    assert outage == [["c"], ["d"]], "the other route, then what it falls back to; each once"
    assert [one.name for one in route.deployments] == ["a", "b", "c", "d"]
    assert route.most_attempts == 3 + 2
    assert settings.call_concurrency == 16


def test_a_route_of_the_file_takes_the_place_of_the_embedded_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".headrace").mkdir()
    stack = """{"endpoints": {"kafka_bootstrap": "b", "registry_url": "r", "postgres_dsn": "postgresql://p/db",
        "embeddings_url": "e", "embeddings_model": "m", "embedding_dimension": 384, "model_url": "u",
        "model_name": "n"}}"""
    (tmp_path / ".headrace" / "stack.json").write_text(stack)
    more = '[deployments.more]\nbase_url = "http://m/v1"\nmodel = "m"\n[routes.default]\n'
    settings = load(tmp_path, more + 'deployments = ["local", "more"]\n')
    assert settings.routes["default"].names(settings.deployments) == ("local", "more")
    assert load(tmp_path, more + "k = 1\n").routes["default"].deployment == "local"


def test_admission_knows_aliases_and_a_tenants_own_routes() -> None:
    policy = AdmitPolicy(
        routes=frozenset({"default", "fast"}), aliases={"quick": "fast"}, overrides={"acme": {"default": "fast"}}
    )
    assert policy.route(None, "other") == "default" and policy.route(None, "acme") == "fast"
    assert policy.route("quick", "other") == "fast" and policy.route("default", "acme") == "fast"
    assert policy.route("nowhere", "acme") is None


TOML = """\
list = [1, 2]
[b]
c = { inner = '''
[t.never]
k = 2
''' }

[t."x/y"] # with = a comment
text = '''
k = "no"
'''
k = [1,
  2]
d.e = 1
"""


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("list",), 1),
        (("list", 1), 1),
        (("b", "c"), 3),
        (("b", "c", "other"), 3),
        (("t", "x/y"), 8),
        (("t", "x/y", "k"), 12),
        (("t", "x/y", "unset"), 8),
        (("t", "x/y", "d", "e"), 14),
        (("t", "never"), None),
        (("nowhere",), None),
    ],
)
def test_the_line_of_a_field_is_where_it_is_set(path: tuple[str | int, ...], line: int | None) -> None:
    assert line_of(TOML, path) == line


@pytest.mark.parametrize(
    ("said", "meant"),
    [("repeat", "repeat"), ("fail", "fail"), ("never-repeat", "fail"), ("reconcile", "reconcile")],
)
def test_what_becomes_of_an_unknown_outcome_is_the_routes_to_say(tmp_path: Path, said: str, meant: str) -> None:
    text = BASE.replace('model = "small"', 'model = "small"\nreconcile_url = "http://s/attempts/{attempt_id}"')
    settings = load(tmp_path, text + f'unknown_policy = "{said}"\n')
    route = routes(settings)["cheap"]
    assert route.unknown_policy == meant
    assert route.deployment.reconcile_url == "http://s/attempts/{attempt_id}"
