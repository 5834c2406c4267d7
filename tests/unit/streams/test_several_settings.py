"""The settings of cascades and fan-outs: what the stage gets of them, what is refused with the file and the line."""

from __future__ import annotations

from pathlib import Path

import pytest

from schemas.errors import ConfigurationError
from streams.deployed import routes
from streams.route_settings import reached
from streams.settings import Settings, load_settings

BASE = """\
stack = "external"
kafka.bootstrap = "b:9092"
registry.url = "http://r"
postgres.dsn = "postgresql://p/db"
embeddings = { base_url = "http://e/v1", model = "e" }

[deployments.small]
base_url = "http://s/v1"
model = "small"

[deployments.other]
base_url = "http://o/v1"
model = "other"

[deployments.big]
base_url = "http://b/v1"
model = "big"

[routes.strong]
deployment = "big"
fallbacks.outage = ["route/default"]

[routes.default]
deployments = ["small", "other"]
"""
CASCADE = '[routes.default.cascade]\nto = ["big"]\n'
FAN_OUT = '[routes.default.fan_out]\naggregate = "vote"\nsamples = 3\n'


def load(tmp_path: Path, text: str) -> Settings:
    path = tmp_path / "headrace.toml"
    path.write_text(text)
    return load_settings(path)


@pytest.mark.parametrize(
    ("more", "line", "said"),
    [
        ('[routes.default.cascade]\nto = ["bigger"]', 26, "names 'bigger', which is no deployment"),
        ('[routes.default.cascade]\nto = ["strong"]', 26, "write route/strong for the route"),
        ('[routes.default.cascade]\nto = ["route/x"]', 26, "which is no route"),
        ('[routes.default.cascade]\nto = ["small"]', 26, "comes to small a second time"),
        ('[routes.default.cascade]\nto = ["big", "route/strong"]', 26, "comes to big a second time"),
        ("[routes.default.cascade]\nto = []", 26, "at least 1 item"),
        (CASCADE + "refusal = false\nformat = false", 25, "checks nothing"),
        (CASCADE + 'phrases = [" "]', 25, "phrases has an empty one"),
        (CASCADE + "groundedness = 1.5", 27, "less than or equal to 1"),
        ("stream = true\n" + CASCADE, 25, "is true, but cascade needs whole texts"),
        ("stream = true\n" + FAN_OUT, 25, "is true, but fan_out needs whole texts"),
        (FAN_OUT + 'deployments = ["small", "other"]', 25, "set one of samples and deployments"),
        ('[routes.default.fan_out]\naggregate = "vote"', 25, "set one of samples and deployments"),
        ('[routes.default.fan_out]\naggregate = "most"\nsamples = 3', 26, "Input should be 'vote', 'best' or 'join'"),
        ('[routes.default.fan_out]\naggregate = "vote"\nsamples = 1', 27, "greater than or equal to 2"),
        ('[routes.default.fan_out]\naggregate = "vote"\ndeployments = ["small"]', 25, "name several"),
        (
            '[routes.default.fan_out]\naggregate = "vote"\ndeployments = ["small", "big"]',
            27,
            "names 'big', which is none of the route's own deployments",
        ),
        (FAN_OUT + "needed = 4", 25, "needed is 4, but only 3 calls are made"),
        (FAN_OUT + 'separator = "-"', 25, 'separator is for aggregate = "join"'),
        (FAN_OUT + 'scorer = "relevance"', 25, 'scorer is for aggregate = "best"'),
        (FAN_OUT.replace("vote", "best") + 'field = "a"', 25, 'field is for aggregate = "vote"'),
        (
            '[routes.default.fan_out]\naggregate = "vote"\ndeployments = ["small", "other"]\n'
            '[routes.default.complexity]\ncomplex = ["big"]',
            27,
            "and complexity, by which others are asked",
        ),
        (FAN_OUT + CASCADE, 25, "and cascade: a route has one of them"),
        ("cache.exact = true\n" + FAN_OUT, 25, "is for routes without fan_out"),
    ],
)
def test_what_makes_no_sense_is_refused_with_file_and_line(tmp_path: Path, more: str, line: int, said: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        load(tmp_path, BASE + more + "\n")
    assert said in str(refused.value) and f"headrace.toml:{line}:" in str(refused.value)


def test_a_cascade_reaches_the_stage_with_its_steps_and_thresholds(tmp_path: Path) -> None:
    text = (
        BASE
        + '[routes.default.cascade]\nto = ["route/strong"]\nleast_words = 4\ngroundedness = 0.5\nphrases = ["no"]\n'
    )
    settings = load(tmp_path, text)
    route = routes(settings)["default"]
    assert route.cascade is not None and not route.live
    [group] = route.cascade.groups
    assert [one.name for one in group.deployments] == ["big"]
    assert (route.cascade.least_words, route.cascade.least_groundedness, route.cascade.phrases) == (4, 0.5, ("no",))
    assert route.most_attempts == 4 and [one.name for one in route.deployments] == ["small", "other", "big"]
    # Its way back through that route's fallbacks is none of the cascade's.
    assert reached("default", settings.routes, settings.deployments) == {"small", "other", "big"}


def test_a_fan_out_reaches_the_stage_with_its_calls_and_aggregation(tmp_path: Path) -> None:
    text = BASE + '[routes.default.fan_out]\naggregate = "join"\ndeployments = ["other", "small"]\njoin_as = "json"\n'
    fan_out = routes(load(tmp_path, text))["default"].fan_out
    assert fan_out is not None and (fan_out.size, fan_out.aggregate, fan_out.as_json) == (2, "join", True)
    assert [one.name for one in fan_out.members] == ["other", "small"]
    fan_out = routes(load(tmp_path, BASE + FAN_OUT + 'field = "label"\nneeded = 2\n'))["default"].fan_out
    assert fan_out is not None and (fan_out.size, fan_out.field, fan_out.needed) == (3, "label", 2)
