"""``headrace eval``: how good the answers were, by the scores of the sample and by users' feedback."""

from __future__ import annotations

import asyncio
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from streams.cli.output import print_json, say
from streams.scores import Report, report
from streams.settings import load_settings

WIDE = 200


class By(StrEnum):
    """What a report may be grouped by."""

    SCORER = "scorer"
    ROUTE = "route"
    MODEL = "model"
    PROMPT = "prompt"
    TENANT = "tenant"


def evaluations(
    by: Annotated[By, typer.Option(help="Group the scores by it.")] = By.SCORER,
    since: Annotated[
        str | None, typer.Option(help="From a time on, e.g. 2026-05-01T10:00, or 2h, 7d ago. Default: a day.")
    ] = None,
    tenant: Annotated[str | None, typer.Option(help="Of this tenant only.")] = None,
    lane: Annotated[str, typer.Option(help="Lane that was scored.")] = "live",
    folder: Annotated[Path | None, typer.Option(help="The embedded stack's folder.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show mean scores, and how many answers were to be scored and are.

    Answers that wait for the embedding endpoint, or whose scoring was dead-lettered, are expected and not done.
    """
    dsn = load_settings(folder=folder).postgres.dsn.get_secret_value()
    found = asyncio.run(report(dsn, lane=lane, by=by.value, since=since, tenant=tenant))
    if json:
        print_json({"lane": lane, "by": by.value, **found.view()})
        return
    # A file or a pipe has no width to fit into.
    Console(width=None if sys.stdout.isatty() else WIDE).print(_table(found, by.value))
    for group in found.groups:
        if group.done < group.expected:
            what = f" of {by.value} {group.name}" if by is not By.SCORER else ""
            say(
                f"{group.expected - group.done} answers{what} are expected and not scored, the oldest since "
                f"{group.oldest_expected_at:%Y-%m-%dT%H:%M:%SZ}; see headrace dlq list and the worker's /readyz"
            )
    if found.feedback_waiting:
        say(f"feedback that waits for its answer: {found.feedback_waiting}")


def _table(found: Report, by: str) -> Table:
    grouped = by != "scorer"
    table = Table(*([by] if grouped else []), "score", "scorer", "mean", "median", "p10", "min", "scored", "not scored")
    for group in found.groups:
        for line in group.scores:
            why = ", ".join(f"{count} {code}" for code, count in sorted(line.unscored.items()))
            figures = ["–" if one is None else f"{one:.2f}" for one in (line.mean, line.median, line.p10, line.least)]
            name = [group.name] if grouped else []
            table.add_row(*name, line.name, f"{line.scorer} {line.version}", *figures, str(line.count), why or "0")
    expected, done = (sum(getattr(group, name) for group in found.groups) for name in ("expected", "done"))
    table.caption = f"sampled answers: {expected} expected, {done} done"
    return table
