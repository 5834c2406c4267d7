"""The same sums by tenant, feature, prompt, index and route."""

from __future__ import annotations

from typing import Any

from streams.replay.diff.store import Pairs

# Of each kind the largest groups are told; the others are one more.
MOST = 30
_BY = {
    "tenant": "tenant",
    "feature": "feature",
    "prompt": "prompt_base || CASE WHEN prompt_base = prompt_run THEN '' ELSE ' → ' || prompt_run END",
    "index": "index_base || CASE WHEN index_base = index_run THEN '' ELSE ' → ' || index_run END",
    "route": "route_base || CASE WHEN route_base = route_run THEN '' ELSE ' → ' || route_run END",
}
_SUMS = """
    count(*), total(worse), total(better), total(NOT same_text), avg(edit), count(score), avg(score),
    total(direction < 0), total(direction > 0), total(price_base) / 1e12, total(price_run) / 1e12,
    avg(CASE WHEN latency_run IS NOT NULL THEN latency_base END),
    avg(CASE WHEN latency_base IS NOT NULL THEN latency_run END)
"""
_NAMES = (
    "pairs", "status_worse", "status_better", "changed_texts", "edit", "scored", "score_change", "regressions",
    "improvements", "base_usd", "run_usd", "base_ms", "run_ms",
)  # fmt: skip
_COUNTS = frozenset({"status_worse", "status_better", "changed_texts", "regressions", "improvements"})


def groups(pairs: Pairs) -> dict[str, list[dict[str, Any]]]:
    """By each kind the largest groups with their sums, and the others together as ``null``."""
    return {kind: _grouped(pairs, by) for kind, by in _BY.items()}


def _grouped(pairs: Pairs, by: str) -> list[dict[str, Any]]:
    largest = f"SELECT {by} AS name FROM differences GROUP BY 1 ORDER BY count(*) DESC, 1 LIMIT {MOST}"
    rows = pairs.rows(
        f"WITH largest AS ({largest}), named AS (SELECT *, {by} AS name FROM differences) "
        f"SELECT CASE WHEN name IN (SELECT name FROM largest) THEN name END AS shown, {_SUMS} FROM named "
        "GROUP BY 1 ORDER BY shown IS NULL, 2 DESC, 1"
    )
    return [{"name": name, **_row(figures)} for name, *figures in rows]


def _row(figures: list[Any]) -> dict[str, Any]:
    row = dict(zip(_NAMES, figures, strict=True))
    return {name: int(value) if name in _COUNTS else value for name, value in row.items()}
