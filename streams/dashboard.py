"""Makes the Grafana dashboard from the metric declarations: ``python -m streams.dashboard``.

A counter is shown as its rate, a histogram as its percentiles, a gauge as it is; each by its labels. A metric that is
declared is on the dashboard, and a query can't name one that is not.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.metrics import MetricWrapperBase

from streams.metrics import Metrics

PATH = Path(__file__).parents[1] / "infra" / "grafana" / "dashboards" / "headrace.json"
SOURCE = {"type": "prometheus", "uid": "prometheus"}
COLUMNS, WIDTH, HEIGHT = 3, 8, 8
PERCENTILES = (0.5, 0.95, 0.99)
# A unit of Grafana by the end of a metric's name.
UNITS = {"seconds": "s", "bytes": "bytes", "usd": "currencyUSD", "ratio": "percentunit"}
ROWS = ("Stages", "Model calls", "Everything else")


@dataclass(frozen=True, slots=True)
class Declared:
    """One declared metric: its name without suffix, what it means, its type and labels."""

    name: str
    meaning: str
    kind: str
    labels: tuple[str, ...]

    @property
    def row(self) -> str:
        """The row of the dashboard that it is shown in."""
        if "stage" in self.labels:
            return "Stages"
        return "Model calls" if "deployment" in self.labels else "Everything else"

    @property
    def unit(self) -> str:
        """Grafana's unit."""
        base = next((unit for end, unit in UNITS.items() if self.name.endswith(end)), "short")
        return {"short": "cps"}.get(base, base) if self.kind == "counter" else base

    def queries(self) -> list[tuple[str, str]]:
        """PromQL and legend, a pair for each line of the panel."""
        # The lane is chosen above the panels.
        where = '{lane=~"$lane"}' if "lane" in self.labels else ""
        by = ", ".join(label for label in self.labels if label != "lane")
        legend = " ".join(f"{{{{{label}}}}}" for label in self.labels if label != "lane")
        if self.kind == "counter":
            return [(f"sum by ({by}) (rate({self.name}_total{where}[$__rate_interval]))", legend or "rate")]
        if self.kind == "gauge":
            how = "min" if self.name.endswith("_up") else "max" if self.unit == "s" else "sum"
            return [(f"{how} by ({by}) ({self.name}{where})", legend or "value")]
        buckets = f"rate({self.name}_bucket{where}[$__rate_interval])"
        groups = f"le, {by}" if by else "le"
        return [
            (f"histogram_quantile({share}, sum by ({groups}) ({buckets}))", f"p{share * 100:g} {legend}".strip())
            for share in PERCENTILES
        ]


def declared() -> list[Declared]:
    """Every metric of a worker, in the order of declaration."""
    kinds = {Counter: "counter", Gauge: "gauge", Histogram: "histogram"}
    # The library gives labels only with samples, so its own names are read.
    metrics = [value for value in vars(Metrics()).values() if isinstance(value, MetricWrapperBase)]
    return [
        Declared(metric._name, metric._documentation, kinds[type(metric)], tuple(metric._labelnames))
        for metric in metrics
    ]


def dashboard() -> dict[str, Any]:
    """The dashboard, in Grafana's JSON model."""
    return {
        "uid": "headrace",
        "title": "Headrace",
        "description": "Made from the metric declarations by python -m streams.dashboard; edit those.",
        "tags": ["headrace"],
        "schemaVersion": 41,
        "version": 1,
        "editable": False,
        "timezone": "utc",
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [_lane()]},
        "annotations": {"list": []},
        "panels": list(_panels()),
    }


def _lane() -> dict[str, Any]:
    query = "label_values(headrace_events_total, lane)"
    return {
        "name": "lane",
        "label": "Lane",
        "type": "query",
        "datasource": SOURCE,
        "query": {"query": query, "refId": "lanes"},
        "definition": query,
        "refresh": 2,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }


def _panels() -> Iterator[dict[str, Any]]:
    metrics, y, number = declared(), 0, 1
    for row in ROWS:
        shown = [metric for metric in metrics if metric.row == row]
        place = {"x": 0, "y": y, "w": COLUMNS * WIDTH, "h": 1}
        yield {"id": number, "type": "row", "title": row, "collapsed": False, "gridPos": place, "panels": []}
        y, number = y + 1, number + 1
        for position, metric in enumerate(shown):
            line, column = divmod(position, COLUMNS)
            yield _panel(metric, number, {"x": column * WIDTH, "y": y + line * HEIGHT, "w": WIDTH, "h": HEIGHT})
            number += 1
        y += -(-len(shown) // COLUMNS) * HEIGHT


def _panel(metric: Declared, number: int, place: dict[str, int]) -> dict[str, Any]:
    targets = [
        {"refId": chr(ord("A") + n), "datasource": SOURCE, "expr": query, "legendFormat": legend}
        for n, (query, legend) in enumerate(metric.queries())
    ]
    return {
        "id": number,
        "type": "timeseries",
        "title": metric.meaning,
        "description": f"{metric.name}, by {', '.join(metric.labels) or 'worker'}",
        "datasource": SOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": {"unit": metric.unit, "min": 0}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": targets,
    }


def rendered() -> str:
    """The file's text."""
    return json.dumps(dashboard(), indent=1) + "\n"


if __name__ == "__main__":
    PATH.write_text(rendered(), encoding="utf-8")
