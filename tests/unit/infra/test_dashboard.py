"""Dashboard and alerts ask for metrics and labels that a worker has."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

from streams.dashboard import PATH, dashboard, declared, rendered

ALERTS = Path(__file__).parents[3] / "infra" / "prometheus" / "alerts.yml"
# Prometheus' own.
FOREIGN = {"up": {"job", "instance"}}
_TARGET = {"job", "instance"}


def _samples() -> dict[str, set[str]]:
    """Every sample name that a worker exposes, and its labels."""
    samples = dict(FOREIGN)
    for metric in declared():
        labels = {*metric.labels, *_TARGET}
        if metric.kind == "counter":
            samples[f"{metric.name}_total"] = labels
        elif metric.kind == "gauge":
            samples[metric.name] = labels
        else:
            samples |= {f"{metric.name}_bucket": {*labels, "le"}, f"{metric.name}_sum": labels}
            samples[f"{metric.name}_count"] = labels
    return samples


def _selectors(node: Any) -> Iterator[Any]:
    if isinstance(node, promql_parser.VectorSelector):
        yield node
    elif isinstance(node, promql_parser.MatrixSelector):
        yield node.vector_selector
    for name in ("expr", "lhs", "rhs", "args"):
        inner = getattr(node, name, None)
        for child in inner if isinstance(inner, list) else [inner]:
            if child is not None:
                yield from _selectors(child)


def _wrong(query: str) -> list[str]:
    """What is wrong with a query. Raises ``ValueError`` for one that is no PromQL."""
    samples, wrong = _samples(), []
    for text in ("$__rate_interval", "$__interval"):
        query = query.replace(text, "5m")
    for selector in _selectors(promql_parser.parse(query)):
        if selector.name not in samples:
            wrong.append(f"{selector.name} is no metric")
            continue
        used = {matcher.name for matcher in selector.matchers.matchers}
        wrong += [f"{selector.name} has no label {name}" for name in used - samples[selector.name]]
    return wrong


def _queries() -> list[str]:
    panels = [panel for panel in dashboard()["panels"] if panel["type"] != "row"]
    return [target["expr"] for panel in panels for target in panel["targets"]]


@pytest.mark.parametrize("query", _queries())
def test_a_query_of_the_dashboard_names_what_there_is(query: str) -> None:
    assert _wrong(query) == []


def test_a_query_for_what_there_is_not_is_found() -> None:
    assert _wrong("sum(rate(headrace_event_total[5m]))") == ["headrace_event_total is no metric"]
    assert _wrong('headrace_in_flight_events{tenant="a"}') == ["headrace_in_flight_events has no label tenant"]
    with pytest.raises(ValueError, match=r".+"):
        _wrong("sum(rate(headrace_events_total[5m])")


def test_every_metric_is_on_the_dashboard_once() -> None:
    text = "\n".join(_queries())
    for metric in declared():
        assert metric.name in text
    titles = [panel["title"] for panel in dashboard()["panels"]]
    assert len(titles) == len(set(titles)), "two metrics have the same description"


def test_the_file_is_what_the_declarations_make() -> None:
    assert PATH.read_text() == rendered(), "run python -m streams.dashboard"
    assert json.loads(rendered())["uid"] == "headrace"


def test_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in dashboard()["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells


def test_an_alert_asks_for_what_there_is_and_says_what_to_do() -> None:
    rules = [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]
    assert len(rules) >= 6
    for rule in rules:
        assert _wrong(rule["expr"]) == [], rule["alert"]
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert rule["annotations"]["summary"]
        assert rule["annotations"]["action"]
