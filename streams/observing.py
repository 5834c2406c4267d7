"""Observers of stages that count what they hear."""

from __future__ import annotations

from decimal import Decimal

from processors.ruling import Ruling
from schemas.records import Usage
from streams.metrics import Metrics


class LimitMetrics:
    """A ``LimitObserver`` that counts."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def on_ruling(self, tier: str, ruling: Ruling) -> None:
        self._metrics.rulings.labels(tier, ruling.verdict, ruling.by).inc()
        kind, _, budget = ruling.by.partition("/")
        if kind == "budget":
            self._metrics.budget_reservations.labels(budget, "over").inc()


class EvaluateMetrics:
    """An ``EvaluateObserver`` that counts."""

    def __init__(self, metrics: Metrics, lane: str) -> None:
        self._metrics, self._lane = metrics, lane

    def on_expected(self) -> None:
        self._metrics.evaluations_expected.labels(self._lane).inc()

    def on_done(self, outcome: str) -> None:
        self._metrics.evaluations_done.labels(self._lane, outcome).inc()

    def on_feedback(self, outcome: str) -> None:
        self._metrics.feedback.labels(self._lane, outcome).inc()


class CallMetrics:
    """A ``CallObserver`` that counts."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def on_call(self, deployment: str, outcome: str, seconds: float | None) -> None:
        self._metrics.calls.labels(deployment, outcome).inc()
        if seconds is not None:
            self._metrics.call_seconds.labels(deployment, outcome).observe(seconds)

    def on_retry(self, deployment: str, code: str) -> None:
        self._metrics.call_retries.labels(deployment, code).inc()

    def on_unknown(self, deployment: str, code: str) -> None:
        self._metrics.indeterminate.labels(deployment, code).inc()

    def on_input_drift(self) -> None:
        self._metrics.input_drift.inc()

    def on_tokens(self, deployment: str, usage: Usage) -> None:
        self._metrics.tokens.labels(deployment, "prompt").inc(usage.prompt_tokens)
        self._metrics.tokens.labels(deployment, "completion").inc(usage.completion_tokens)

    def on_cost(self, deployment: str, usd: Decimal) -> None:
        self._metrics.cost.labels(deployment).inc(float(usd))

    def on_first_token(self, deployment: str, seconds: float) -> None:
        self._metrics.first_token.labels(deployment).observe(seconds)

    def on_complexity(self, route: str, name: str) -> None:
        self._metrics.complexities.labels(route, name).inc()

    def on_hedge(self, route: str, outcome: str) -> None:
        self._metrics.hedges.labels(route, outcome).inc()

    def on_gap(self, deployment: str, seconds: float) -> None:
        self._metrics.token_gap.labels(deployment).observe(seconds)

    def on_delta(self, outcome: str) -> None:
        self._metrics.deltas.labels(outcome).inc()
