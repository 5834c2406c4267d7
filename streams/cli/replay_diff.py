"""``headrace replay diff`` and ``replay gate``: what a run changed, and whether that is good enough."""

from __future__ import annotations

import asyncio
import math
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from schemas.errors import ConfigurationError
from streams.cli.output import console, print_json, say
from streams.cli.replay_diff_text import checks_text, checks_view, report_text
from streams.page_file import check_folder
from streams.replay.desk import Desk
from streams.replay.diff.gate import ALL, MIN_PAIRS, Bounds, check, passed
from streams.replay.diff.making import LIVE, Asked, make_report
from streams.replay.diff.page import write_page
from streams.replay.plan import times
from streams.settings import load_settings

Named = Annotated[str, typer.Argument(metavar="RUN", help="The run's id or name.")]
Against = Annotated[str, typer.Option(metavar="live|RUN", help="What it is compared with.")]
Html = Annotated[Path | None, typer.Option(metavar="FILE", help="Write a page that needs no network, for a browser.")]
Decide = Annotated[
    list[str] | None, typer.Option("--score", metavar="NAME", help="Scores that say which way it went; else all.")
]
Tolerance = Annotated[float, typer.Option(min=0.0, max=1.0, help="Scores that move by less went neither way.")]
Shown = Annotated[int, typer.Option(min=0, max=1_000, help="Regressions and improvements to tell in full.")]
Embed = Annotated[int, typer.Option(min=0, help="Pairs of changed texts to compare in meaning; 0 for none.")]
Since = Annotated[
    str | None, typer.Option(metavar="TIME", help="Only requests accepted since then: 2026-05-01T10:00 (UTC), 7d ago.")
]
Folder = Annotated[Path | None, typer.Option(help="The embedded stack's folder.")]


def diff(
    run: Named,
    against: Against = LIVE,
    html: Html = None,
    decide: Decide = None,
    tolerance: Tolerance = 0.05,
    show: Shown = 10,
    embed: Embed = 200,
    since: Since = None,
    folder: Folder = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show what a run changed, request by request, against what it replayed or another run.

    Statuses, texts, citations, guards, scores with intervals and tests, cost, tokens and latency; the largest
    regressions and improvements; by tenant, feature, prompt and route. Texts are shown, and may hold personal data.

    Exit code 1: the run has no output that could be paired.
    """
    check_folder(html)
    asked = Asked(decide=tuple(decide or ()), tolerance=tolerance, shown=show, embed=embed, since=_moment(since))
    found = _report(run, against, asked, folder)
    if html is not None:
        write_page(found, html)
        say(f"{html} shows {found['pairs']} pairs")
    if json:
        print_json(found)
    elif html is None:
        sys.stdout.write(report_text(found))
    if not found["pairs"]:
        say("headrace: no request has an output on both sides")
        raise typer.Exit(1)


def gate(
    run: Named,
    against: Against = LIVE,
    min_score: Annotated[
        list[str] | None,
        typer.Option(metavar="[NAME=]VALUE", help="Least mean of this score, or of each; may be repeated."),
    ] = None,
    max_score_drop: Annotated[
        list[str] | None,
        typer.Option(metavar="[NAME=]VALUE", help="Most that this score, or each, may fall; may be repeated."),
    ] = None,
    max_cost_increase: Annotated[str | None, typer.Option(metavar="SHARE", help="E.g. 10% or 0.1.")] = None,
    max_latency_increase: Annotated[str | None, typer.Option(metavar="SHARE", help="Of the mean, e.g. 20%.")] = None,
    max_regressions: Annotated[str | None, typer.Option(metavar="N|SHARE", help="E.g. 5, or 1% of the pairs.")] = None,
    min_pairs: Annotated[int, typer.Option(min=1, help="Fewer pairs prove nothing, and fail.")] = MIN_PAIRS,
    html: Html = None,
    decide: Decide = None,
    tolerance: Tolerance = 0.05,
    since: Since = None,
    folder: Folder = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Hold a run against bounds, for CI and before a change goes live; prints each bound with its figure.

    Exit code 1: a bound is broken, or too few pairs tell it. 2: no bound was given, or one can't be read.
    """
    check_folder(html)
    bounds = Bounds(
        min_score=_named("--min-score", min_score),
        max_score_drop=_named("--max-score-drop", max_score_drop),
        max_cost_increase=_share("--max-cost-increase", max_cost_increase),
        max_latency_increase=_share("--max-latency-increase", max_latency_increase),
        max_regressions=_share("--max-regressions", max_regressions),
        regressions_share=bool(max_regressions and max_regressions.strip().endswith("%")),
        min_pairs=min_pairs,
    )
    if not bounds.any:
        raise ConfigurationError(
            "name a bound, e.g. --min-score, --max-score-drop, --max-regressions, --max-cost-increase or "
            "--max-latency-increase"
        )
    asked = Asked(decide=tuple(decide or ()), tolerance=tolerance, embed=0, since=_moment(since))
    found = _report(run, against, asked, folder)
    checks = check(found, bounds)
    if html is not None:
        write_page(found, html)
    if json:
        print_json({"run": found["run"]["run"], "name": found["run"]["name"], **checks_view(checks)})
    else:
        sys.stdout.write(checks_text(checks))
    if not passed(checks):
        raise typer.Exit(1)


def _report(run: str, against: str, asked: Asked, folder: Path | None) -> dict[str, Any]:
    settings = load_settings(folder=folder)

    async def work() -> dict[str, Any]:
        async with Desk.open(settings) as desk:
            found = await desk.find(run)
            # The lane that it replayed is what live means here, whatever its name.
            other = None if against in (LIVE, found.source_lane) else await desk.find(against)
            columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
            with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
                task = bar.add_task("")

                def observe(doing: str, done: int) -> None:
                    bar.update(task, description=f"{doing} {done:,}")

                return await make_report(desk, found, other, asked, observe=observe)

    return asyncio.run(work())


def _moment(since: str | None) -> datetime | None:
    return times(since, None, now=datetime.now(UTC))[0]


def _named(option: str, given: Sequence[str] | None) -> dict[str, float]:
    """Bounds by score: ``NAME=VALUE``, or ``VALUE`` for each."""
    found = {}
    for one in given or ():
        name, sign, value = one.rpartition("=")
        if sign and not name.strip():
            raise ConfigurationError(f"{option} {one}: write NAME=VALUE, or VALUE for each score")
        number = _number(value)
        if number is None or not 0 <= number <= 1:
            raise ConfigurationError(f"{option} {one}: scores are from 0 to 1")
        found[name.strip() or ALL] = number
    return found


def _share(option: str, given: str | None) -> float | None:
    """A number, or a percentage as a share."""
    if given is None:
        return None
    text = given.strip()
    number = _number(text.removesuffix("%"))
    if number is None or number < 0:
        raise ConfigurationError(f"{option} {given}: write a number from 0, or a percentage such as 10%")
    return number / 100 if text.endswith("%") else number


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
