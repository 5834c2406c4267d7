"""The settings of caches and bodies: what is refused, and what a route gets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from processors.cache import CachePolicy
from schemas.errors import ConfigurationError
from streams.caching import cache_policy
from streams.settings import load_settings
from tests.support.settings import bare_settings


def with_cache(**cache: Any) -> Any:
    return bare_settings(routes={"default": {"deployment": "local", "cache": cache}})


def test_everything_is_off_by_default() -> None:
    policy = cache_policy(bare_settings().routes["default"].cache)
    assert not policy.used and policy == CachePolicy()


def test_a_route_has_what_it_asks_for() -> None:
    policy = cache_policy(with_cache(exact=True, semantic=True, ttl_s=60, similarity=0.97).routes["default"].cache)
    assert policy == CachePolicy(exact=True, semantic=True, single_flight=True, ttl_s=60, similarity=0.97)
    assert not cache_policy(with_cache(exact=True, single_flight=False).routes["default"].cache).single_flight
    assert cache_policy(with_cache(single_flight=True).routes["default"].cache) == CachePolicy(single_flight=True)


def test_a_worker_has_more_in_hand_where_requests_wait_for_each_other() -> None:
    assert with_cache(single_flight=True).call_concurrency == 2 * with_cache().call_concurrency


@pytest.mark.parametrize(
    ("cache", "named"),
    [
        ({"semantic": True}, "semantic needs exact = true"),
        ({"exact": True, "similarity": 0.5}, "greater than or equal to 0.8"),
        ({"exact": True, "ttl_s": 0}, "greater than 0"),
        ({"exact": True, "ttl_s": 3_000_000}, "less than or equal to"),
        ({"exact": True, "scope": "everybody"}, "'tenant' or 'user'"),
        ({"ttl": 60}, "ttl"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(cache: dict[str, Any], named: str) -> None:
    with pytest.raises(ValidationError, match=named):
        with_cache(**cache)


def test_an_answer_may_not_be_served_for_longer_than_it_is_kept() -> None:
    retention = {"tables": {"cache_entries": 1}}
    route = {"deployment": "local", "cache": {"exact": True, "ttl_s": 90_000}}
    with pytest.raises(ValidationError, match=r"routes\.default\.cache\.ttl_s is 90000 s.*set ttl_s to 86400 or less"):
        bare_settings(routes={"default": route}, retention=retention)
    route["cache"] = {"exact": False, "ttl_s": 90_000}
    assert bare_settings(routes={"default": route}, retention=retention)


@pytest.mark.parametrize(
    ("bodies", "named"),
    [
        ({"max_bytes": -1}, "greater than or equal to 0"),
        ({"message_chars": 300_000}, "message_chars has to be at most total_chars"),
    ],
)
def test_bounds_of_bodies_are_checked(bodies: dict[str, Any], named: str) -> None:
    with pytest.raises(ValidationError, match=named):
        bare_settings(bodies=bodies)


def test_an_error_names_the_file_and_the_field(tmp_path: Path) -> None:
    file = tmp_path / "headrace.toml"
    file.write_text(
        'stack = "external"\n[kafka]\nbootstrap = "b:1"\n[registry]\nurl = "http://r"\n[postgres]\ndsn = "postgresql://p/d"\n'
        '[embeddings]\nbase_url = "http://e"\nmodel = "m"\n[deployments.d]\nbase_url = "http://d"\nmodel = "m"\n'
        '[routes.default]\ndeployment = "d"\n[routes.default.cache]\nsemantic = true\n'
    )
    with pytest.raises(ConfigurationError) as refused:
        load_settings(file)
    said = str(refused.value)
    assert "headrace.toml" in said and "routes.default.cache" in said and "exact = true" in said
