"""How a comparison and a gate look on a terminal, and as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from streams.cli.lines import clean
from streams.replay.diff.gate import Checked, passed
from streams.replay.diff.page import figure, said_p, said_share

# Of a text, so many characters are shown on a terminal; the page has all of it.
WIDTH = 300


def report_text(report: Mapping[str, Any]) -> str:
    """A report on a page."""
    return "\n".join(_lines(report)) + "\n"


def _lines(report: Mapping[str, Any]) -> Iterator[str]:
    run, status, text, cost = report["run"], report["status"], report["text"], report["cost"]
    yield f"{run['name']} against {report['against']['name']}: {report['pairs']:,} pairs of {report['what']}"
    if run["state"] != "done":
        yield f"  the run is {run['state']}: what it did not come to is not compared"
    yield (
        f"  {report['regressions']['count']:,} regressions, {report['improvements']['count']:,} improvements; "
        f"status: {status['worse']} worse, {status['better']} better, p {said_p(status['p'])}"
    )
    for one in status["pairs"]:
        if one["base"] != one["run"]:
            yield f"    {one['base']} > {one['run']}: {one['count']:,}"
    yield f"  texts: {text['same']:,} of {text['compared']:,} the same" + _similar(text)
    for one in report["scores"]:
        yield f"  {one['name']}: {_mean(one)}"
    yield f"  cost: {cost['base_usd']} > {cost['run_usd']} USD ({said_share(cost['increase'])})"
    yield f"    a request: {_mean(cost['a_request'])}"
    tokens = report["tokens"]
    yield (
        f"  tokens: prompt {tokens['prompt_tokens_base']:,} > {tokens['prompt_tokens_run']:,}, "
        f"generated {tokens['completion_tokens_base']:,} > {tokens['completion_tokens_run']:,}"
    )
    if report["latency"]["pairs"]:
        yield f"  latency in ms: {_mean(report['latency'])}"
    citations = report["citations"]
    if citations["changed"]:
        yield f"  citations: changed in {citations['changed']:,}; {citations['gone']:,} gone, {citations['new']:,} new"
    for one in report["verdicts"]["changes"]:
        yield f"  guard {one['guard']}: {one['base']} > {one['run']}, {one['count']:,} times"
    for kind, rows in report["groups"].items():
        yield from _group(kind, rows)
    for title, name in (("regression", "regressions"), ("improvement", "improvements")):
        for one in report[name]["shown"]:
            yield from _example(title, one)
    for name, title in (("base_only", "no output of the run"), ("run_only", "none before"), ("neither", "on no side")):
        yield from _alone(title, report["alone"][name])
    yield from (f"  note: {clean(note)}" for note in report["notes"])


def _similar(text: Mapping[str, Any]) -> str:
    parts = []
    for name, says in (("edit", "of the characters kept"), ("cosine", "cosine")):
        found = text[name]
        if found["pairs"]:
            parts.append(f"{says} {figure(found['mean'], 3)} (10 % under {figure(found['p10'], 3)})")
    return f"; changed ones: {', '.join(parts)}" if parts else ""


def _mean(one: Mapping[str, Any]) -> str:
    if not one["pairs"]:
        return "no pairs"
    interval = one["interval"]
    within = f" [{figure(interval['low'])}, {figure(interval['high'])}]" if interval else ""
    return (
        f"{figure(one['base'])} > {figure(one['run'])}, difference {figure(one['difference'])}{within}, "
        f"p {said_p(one['p'])}, {one['pairs']:,} pairs"
    )


def _group(kind: str, rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    if len(rows) < 2 and kind != "prompt":
        return
    for one in rows:
        name = "(others)" if one["name"] is None else one["name"] or "(none)"
        moved = "" if one["score_change"] is None else f", scores {one['score_change']:+.3f}"
        yield clean(
            f"  {kind} {name}: {one['pairs']:,} pairs, {one['regressions']:,} regressions, "
            f"{one['improvements']:,} improvements, {one['changed_texts']:,} changed texts{moved}, "
            f"{figure(one['base_usd'])} > {figure(one['run_usd'])} USD"
        )


def _example(title: str, one: Mapping[str, Any]) -> Iterator[str]:
    moved = "" if one["score_change"] is None else f", scores {one['score_change']:+.3f}"
    status = one["status"]
    yield clean(f"  {title} {one['tenant']}/{one['request_id']}: {status['base']} > {status['run']}{moved}")
    for mark, side in (("-", one["base"]), ("+", one["run"])):
        text = side["text"] if side["text"] is not None else side["code"] or "no text"
        cut = text if len(text) <= WIDTH else f"{text[:WIDTH]}…"
        yield "    " + clean(f"{mark} {' '.join(cut.split())}")


def _alone(title: str, part: Mapping[str, Any]) -> Iterator[str]:
    if not part["count"]:
        return
    names = ", ".join(f"{one['tenant']}/{one['request_id']}" for one in part["requests"][:5])
    more = ", …" if part["count"] > 5 else ""
    yield clean(f"  without a partner, {title}: {part['count']:,} ({names}{more})")


def checks_text(checks: Sequence[Checked]) -> str:
    """Each bound on a line."""
    lines = [
        f"{'pass' if one.passed else 'FAIL'}  {one.name}: {'no figure' if one.figure is None else one.figure}, "
        f"bound {one.bound}" + (f" ({one.reason})" if one.reason else "")
        for one in checks
    ]
    return "\n".join([*lines, "passed" if passed(checks) else "failed"]) + "\n"


def checks_view(checks: Sequence[Checked]) -> dict[str, Any]:
    """The same as JSON."""
    return {
        "passed": passed(checks),
        "bounds": [
            {"name": one.name, "bound": one.bound, "figure": one.figure, "passed": one.passed, "reason": one.reason}
            for one in checks
        ],
    }
