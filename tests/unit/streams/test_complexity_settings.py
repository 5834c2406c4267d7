"""The settings of classes by complexity: what the stage gets of them, and what is refused with file and line."""

from __future__ import annotations

from pathlib import Path

import pytest

from schemas.errors import ConfigurationError
from streams.deployed import routes
from streams.route_settings import reached
from tests.unit.streams.test_several_settings import BASE, CASCADE, FAN_OUT, load

RULES = "[routes.default.complexity]\n"


@pytest.mark.parametrize(
    ("more", "line", "said"),
    [
        (RULES, 25, "sends no class anywhere"),
        (RULES + 'simple = ["tiny"]', 26, "names 'tiny', which is no deployment"),
        (RULES + 'complex = ["strong"]', 26, "write route/strong for the route"),
        (RULES + 'simple = ["tag/cheap"]', 26, "names 'tag/cheap', which no deployment has"),
        (RULES + 'complex = ["route/x"]', 26, "names 'route/x', which is no route"),
        (RULES + 'complex = ["route/default"]', 26, "names the route itself"),
        (RULES + 'complex = ["route/strong", "big"]', 26, "one route, or to deployments"),
        (RULES + 'easy = ["small"]', 26, "easy"),
        (RULES + 'simple = ["small"]\nsimple_tokens = 5000', 25, "simple_tokens has to be less than complex_tokens"),
        (RULES + 'simple = ["small"]\ncomplex_spread = 0.5', 25, "complex_spread has to be at most balanced_spread"),
        (RULES + 'simple = ["small"]\nefforts.extreme = "complex"', 27, "extreme"),
        (RULES + 'simple = ["small"]\nquestions.code = "hard"', 27, "'simple', 'balanced' or 'complex'"),
        (RULES + 'simple = ["small"]\nwords.code = [" "]', 27, "at least 1 character"),
        (
            RULES + 'simple = ["zero"]\n[deployments.zero]\nbase_url = "http://z"\nmodel = "z"\nweight = 0',
            26,
            "sum to zero",
        ),
        (
            RULES + 'simple = ["short"]\n[deployments.short]\nbase_url = "http://z"\nmodel = "z"\ncontext_tokens = 512',
            26,
            "comes to short, which takes 512 tokens, but prompts of the route may have 8192",
        ),
        (
            RULES + 'simple = ["wordy"]\n[deployments.wordy]\nbase_url = "http://z"\nmodel = "z"\n'
            "default_max_tokens = 4096",
            26,
            "comes to wordy, whose default_max_tokens leave 4096 of its tokens to a prompt, but prompts of the route "
            "may have 7680",
        ),
        (CASCADE + RULES + 'complex = ["big"]', 28, "comes to big, which the cascade asks too"),
        (
            "cache.exact = true\n" + RULES + 'complex = ["route/many"]\n[routes.many]\ndeployment = "big"\n'
            '[routes.many.fan_out]\naggregate = "vote"\nsamples = 3',
            27,
            "has a fan_out, but default has a cache",
        ),
        (
            RULES + 'complex = ["route/strong"]\n[routes.strong.complexity]\nsimple = ["small"]',
            26,
            "has classes of its own",
        ),
    ],
)
def test_what_makes_no_sense_is_refused_with_file_and_line(tmp_path: Path, more: str, line: int, said: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        load(tmp_path, BASE + more + "\n")
    assert said in str(refused.value) and f"headrace.toml:{line}:" in str(refused.value)


def test_classes_reach_the_stage_with_their_routes_and_rules(tmp_path: Path) -> None:
    text = BASE.replace('model = "small"', 'model = "small"\ntags = ["cheap"]') + RULES
    text += 'simple = ["tag/cheap"]\ncomplex = ["route/strong"]\nsimple_tokens = 10\nwords.analysis = ["vergleiche"]\n'
    text += 'efforts.medium = "complex"\nquestions.open = "simple"\n'
    settings = load(tmp_path, text)
    route = routes(settings)["default"]
    policy = route.complexity
    assert policy is not None and policy.targets == {"simple": "tag/cheap", "complex": "route/strong"}
    assert {name: [one.name for one in way.own.deployments] for name, way in policy.routes.items()} == {
        "simple": ["small"],
        "complex": ["big"],
    }
    assert [way.name for way in policy.routes.values()] == ["default", "default"]
    assert [one.name for one in policy.routes["complex"].fallbacks["outage"][0].deployments] == ["small", "other"]
    assert (policy.simple_tokens, policy.complex_tokens, policy.words) == (10, 4000, {"analysis": ("vergleiche",)})
    assert (policy.efforts["medium"], policy.efforts["high"], policy.questions["open"]) == (
        "complex",
        "complex",
        "simple",
    )
    # Places, limits and time are planned for all of them.
    assert {one.name for one in route.deployments} == {"small", "other", "big"}
    assert reached("default", settings.routes, settings.deployments) == {"small", "other", "big"}
    assert routes(settings)["strong"].complexity is None


def test_a_class_may_answer_at_length_where_its_window_is_longer(tmp_path: Path) -> None:
    longer = BASE.replace('model = "big"', 'model = "big"\ncontext_tokens = 16384\ndefault_max_tokens = 8704')
    policy = routes(load(tmp_path, longer + RULES + 'complex = ["big"]\n'))["default"].complexity
    assert policy is not None and policy.routes["complex"].deployment.default_max_tokens == 8704


def test_a_route_with_classes_may_fan_out_by_samples(tmp_path: Path) -> None:
    policy = routes(load(tmp_path, BASE + FAN_OUT + RULES + 'complex = ["big"]\n'))["default"].complexity
    assert policy is not None and policy.routes["complex"].fan_out is not None
