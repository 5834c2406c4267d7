"""A worker's metrics as plain figures by stage, for its report. Counts are since the worker's start."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from prometheus_client.metrics import MetricWrapperBase

from streams.health import Unit
from streams.load import load_of
from streams.metrics import Metrics

# What a call's figures belong to; they are labelled by deployment and not by stage.
_CALLING = "complete"


def stage_figures(metrics: Metrics, units: Sequence[Unit], *, now: datetime) -> dict[str, dict[str, Any]]:
    """By stage: load, counts by outcome, and the histograms of waiting and service as counts by upper bound."""
    found: dict[str, dict[str, Any]] = {}
    for (stage, lane), load in load_of(units).items():
        of = {"stage": stage, "lane": lane}
        found[stage] = {
            "in_flight": load.in_flight,
            "lag": load.lag,
            "oldest_age_s": load.age_s(now),
            "outcomes": _counts(metrics.outcomes, "outcome", of),
            "dead_letters": _counts(metrics.dead_letters, "error_class", of),
            "answers": _counts(metrics.answers, "status", of),
            "retries": sum(_counts(metrics.retries, "error_class", of).values()),
            "wait": _histogram(metrics.waiting, of),
            "service": _histogram(metrics.service, of),
        }
    if _CALLING in found:
        found[_CALLING]["calls"] = _counts(metrics.calls, "outcome", {})
        found[_CALLING]["tokens"] = _counts(metrics.tokens, "kind", {})
        found[_CALLING]["cost_usd"] = sum(_counts(metrics.cost, "deployment", {}).values())
    return found


def _counts(metric: MetricWrapperBase, label: str, of: dict[str, str]) -> dict[str, float]:
    """A counter's values by one of its labels, summed over the others."""
    counts: dict[str, float] = {}
    for sample in _samples(metric, "_total", of):
        name = sample.labels[label]
        counts[name] = counts.get(name, 0.0) + sample.value
    return counts


def _histogram(metric: MetricWrapperBase, of: dict[str, str]) -> dict[str, Any]:
    """``buckets``: (upper bound in seconds, events under it), the last one ``+Inf``; ``sum_s``."""
    buckets = [[sample.labels["le"], sample.value] for sample in _samples(metric, "_bucket", of)]
    return {"buckets": buckets, "sum_s": sum(sample.value for sample in _samples(metric, "_sum", of))}


def _samples(metric: MetricWrapperBase, suffix: str, of: dict[str, str]) -> list[Any]:
    return [
        sample
        for family in metric.collect()
        for sample in family.samples
        if sample.name.endswith(suffix) and all(sample.labels.get(name) == value for name, value in of.items())
    ]
