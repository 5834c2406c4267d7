"""The report of a comparison: what changed, how sure that is, and which requests show it most. One JSON object."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import asdict
from decimal import Decimal
from typing import Any

import numpy as np

from streams.replay.diff.groups import groups
from streams.replay.diff.said import PICO
from streams.replay.diff.statistics import changes_p, mean_interval, paired_p
from streams.replay.diff.store import Pairs, Side

# Of requests without a partner, so many are named.
NAMED = 50
BINS = 20


def report(pairs: Pairs, *, shown: int, seed: int) -> dict[str, Any]:
    """Sum up the pairs. ``shown``: of regressions, improvements and changed texts, so many are told in full.

    Memory: some numbers a pair. Costs a second or two of the processor for the intervals.
    """
    [(count,)] = pairs.rows("SELECT count(*) FROM differences")
    return {
        "pairs": count,
        "alone": _alone(pairs),
        "status": _status(pairs),
        "text": _text(pairs),
        "verdicts": _verdicts(pairs),
        "citations": _citations(pairs, seed),
        "scores": _scores(pairs, seed),
        "cost": _cost(pairs, seed),
        "tokens": _tokens(pairs),
        "latency": _latency(pairs, seed),
        "regressions": _ranked(pairs, "direction < 0", "severity, draw", shown),
        "improvements": _ranked(pairs, "direction > 0", "severity DESC, draw", shown),
        "changed_texts": _ranked(pairs, "NOT same_text", "cosine IS NULL, coalesce(cosine, edit, 0), draw", shown),
        "groups": groups(pairs),
    }


def seed_of(name: str) -> int:
    """A seed that is the same for the same run every time."""
    return zlib.crc32(name.encode())


def usd(amount: int) -> str:
    """Picodollars as US dollars."""
    return f"{Decimal(amount) / PICO:f}"


def _alone(pairs: Pairs) -> dict[str, Any]:
    """Requests that one side alone gave an output for, and those that neither did."""
    found: dict[str, Any] = {}
    for name, side, other in (("run_only", Side.RUN, Side.BASE), ("base_only", Side.BASE, Side.RUN)):
        [(count,)] = pairs.rows(f"SELECT count(*) {_ALONE}", (side, other))
        rows = pairs.rows(f"SELECT one.tenant, one.request_id {_ALONE} ORDER BY 1, 2 LIMIT {NAMED}", (side, other))
        found[name] = {"count": count, "requests": [{"tenant": tenant, "request_id": one} for tenant, one in rows]}
    [(count,)] = pairs.rows(f"SELECT count(*) {_NEITHER}")
    rows = pairs.rows(f"SELECT tenant, request_id {_NEITHER} ORDER BY 1, 2 LIMIT {NAMED}")
    found["neither"] = {"count": count, "requests": [{"tenant": tenant, "request_id": one} for tenant, one in rows]}
    return found


def _status(pairs: Pairs) -> dict[str, Any]:
    rows = pairs.rows("SELECT status_base, status_run, count(*) FROM differences GROUP BY 1, 2 ORDER BY 3 DESC, 1, 2")
    [(worse, better)] = pairs.rows("SELECT total(worse), total(better) FROM differences")
    return {
        "changed": sum(count for base, run, count in rows if base != run),
        "worse": int(worse),
        "better": int(better),
        "p": changes_p(int(worse), int(better)),
        "pairs": [{"base": base, "run": run, "count": count} for base, run, count in rows],
    }


def _text(pairs: Pairs) -> dict[str, Any]:
    [(compared, same)] = pairs.rows("SELECT count(same_text), total(same_text) FROM differences")
    found: dict[str, Any] = {"compared": compared, "same": int(same), "changed": compared - int(same)}
    for name in ("edit", "cosine"):
        values = pairs.numbers(f"SELECT {name} FROM differences WHERE NOT same_text AND {name} IS NOT NULL")[:, 0]
        found[name] = {"pairs": len(values)} | (_spread(values) if len(values) else {})
        found[name]["histogram"] = np.histogram(np.clip(values, 0, 1), bins=BINS, range=(0, 1))[0].tolist()
    return found


def _verdicts(pairs: Pairs) -> dict[str, Any]:
    [(changed,)] = pairs.rows("SELECT count(*) FROM differences WHERE verdicts")
    rows = pairs.rows(
        "SELECT guard, before, now, count FROM verdicts ORDER BY count DESC, guard, before, now LIMIT 100"
    )
    return {
        "changed": changed,
        "changes": [{"guard": guard, "base": base, "run": run, "count": count} for guard, base, run, count in rows],
    }


def _citations(pairs: Pairs, seed: int) -> dict[str, Any]:
    [(changed, gone, new)] = pairs.rows(
        "SELECT total(cited_gone OR cited_new), total(cited_gone), total(cited_new) FROM differences"
    )
    return {
        "changed": int(changed),
        "gone": int(gone),
        "new": int(new),
        **_paired(pairs, "cited_base", "cited_run", seed),
    }


def _scores(pairs: Pairs, seed: int) -> list[dict[str, Any]]:
    found = []
    for (name,) in pairs.rows("SELECT DISTINCT name FROM scores ORDER BY 1"):
        values = pairs.numbers(f"SELECT base.value, run.value {_SCORE} {_SCORED} {_ORDER}", (name,), columns=2)
        [(asked,)] = pairs.rows(f"SELECT count(*) {_SCORE}", (name,))
        figures = _figures(values[:, 0], values[:, 1], seed)
        found.append(
            {
                "name": name,
                **figures,
                # Both sides were asked for it, and one or both had no figure.
                "unscored": asked - len(values),
                "worse": int((values[:, 1] < values[:, 0]).sum()),
                "better": int((values[:, 1] > values[:, 0]).sum()),
            }
        )
    return found


def _cost(pairs: Pairs, seed: int) -> dict[str, Any]:
    sums = ", ".join(f"coalesce(sum({name}), 0)" for name in ("price_base", "price_run", "paid_base", "paid_run"))
    [(base, run, paid_base, paid_run)] = pairs.rows(f"SELECT {sums} FROM differences")
    figures = _paired(pairs, "price_base / 1e12", "price_run / 1e12", seed)
    return {
        "base_usd": usd(base),
        "run_usd": usd(run),
        # As a share of what it was; null where it was nothing.
        "increase": (run - base) / base if base else None,
        "paid_base_usd": usd(paid_base),
        "paid_run_usd": usd(paid_run),
        "a_request": figures,
    }


def _tokens(pairs: Pairs) -> dict[str, Any]:
    names = [f"{kind}_tokens_{side}" for kind in ("prompt", "completion") for side in ("base", "run")]
    [row] = pairs.rows(f"SELECT {', '.join(f'coalesce(sum({name}), 0)' for name in names)} FROM differences")
    return dict(zip(names, row, strict=True))


def _latency(pairs: Pairs, seed: int) -> dict[str, Any]:
    """Of pairs where both sides asked a model."""
    return _paired(pairs, "latency_base", "latency_run", seed, quantiles=True)


def _paired(pairs: Pairs, base: str, run: str, seed: int, *, quantiles: bool = False) -> dict[str, Any]:
    values = pairs.numbers(
        f"SELECT {base}, {run} FROM differences WHERE {base} IS NOT NULL AND {run} IS NOT NULL ORDER BY draw", columns=2
    )
    found = _figures(values[:, 0], values[:, 1], seed)
    if quantiles and len(values):
        levels = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99)
        found["quantiles"] = [
            {
                "level": level,
                "base": float(np.quantile(values[:, 0], level)),
                "run": float(np.quantile(values[:, 1], level)),
            }
            for level in levels
        ]
    return found


def _figures(base: Any, run: Any, seed: int) -> dict[str, Any]:
    """Both means, and the mean difference with its interval and test."""
    if not len(base):
        return {"pairs": 0, "base": None, "run": None, "difference": None, "interval": None, "p": None}
    differences = run - base
    interval = mean_interval(differences, seed=seed)
    return {
        "pairs": len(base),
        "base": float(base.mean()),
        "run": float(run.mean()),
        "difference": float(differences.mean()),
        "interval": asdict(interval) if interval else None,
        "p": paired_p(differences, seed=seed),
    }


def _spread(values: Any) -> dict[str, float]:
    low, median, high = np.quantile(values, (0.1, 0.5, 0.9))
    return {"mean": float(np.mean(values)), "p10": float(low), "median": float(median), "p90": float(high)}


def _ranked(pairs: Pairs, which: str, order: str, shown: int) -> dict[str, Any]:
    [(count,)] = pairs.rows(f"SELECT count(*) FROM differences WHERE {which}")
    rows = pairs.rows(
        f"SELECT tenant, request_id, status_base, status_run, score, edit, cosine, severity FROM differences "
        f"WHERE {which} ORDER BY {order} LIMIT ?",
        (shown,),
    )
    return {"count": count, "shown": [_example(pairs, *row) for row in rows]}


def _example(pairs: Pairs, tenant: str, request_id: str, *row: Any) -> dict[str, Any]:
    status_base, status_run, score, edit, cosine, severity = row
    base, run = pairs.said(Side.BASE, tenant, request_id), pairs.said(Side.RUN, tenant, request_id)
    sides: Sequence[tuple[str, Any]] = (("base", base), ("run", run))
    return {
        "tenant": tenant,
        "request_id": request_id,
        "question": base.question or run.question,
        "status": {"base": status_base, "run": status_run},
        "score_change": score,
        "edit": edit,
        "cosine": cosine,
        "severity": severity,
        "scores": {
            name: {"base": before, "run": now} for name, (before, now) in pairs.scores(tenant, request_id).items()
        },
        **{
            name: {
                "text": one.text,
                "code": one.code,
                "citations": list(one.citations),
                "verdicts": dict(one.verdicts),
                "prompt": one.prompt,
                "route": one.route,
                "model": one.model,
                "price_usd": usd(one.price_pico),
                "latency_ms": one.latency_ms,
            }
            for name, one in sides
        },
    }


_ALONE = """
    FROM sides AS one LEFT JOIN sides AS other ON other.side = ?2 AND other.tenant = one.tenant
        AND other.request_id = one.request_id
    WHERE one.side = ?1 AND other.side IS NULL
"""
_NEITHER = """
    FROM wanted WHERE NOT EXISTS (SELECT 1 FROM sides WHERE sides.side IN (0, 1) AND sides.tenant = wanted.tenant
        AND sides.request_id = wanted.request_id)
"""
_SCORE = """
    FROM scores AS base
    JOIN scores AS run ON run.side = 1 AND run.tenant = base.tenant AND run.request_id = base.request_id
        AND run.name = base.name
    WHERE base.side = 0 AND base.name = ?
"""
_SCORED = "AND base.value IS NOT NULL AND run.value IS NOT NULL"
_ORDER = "ORDER BY base.tenant, base.request_id"
