"""``headrace costs``: what was spent, by whom and on what."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterable
from dataclasses import asdict
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from schemas.errors import ConfigurationError
from streams.cli.costs_amounts import plain_amount
from streams.cli.costs_reconcile import reconcile_books
from streams.cli.costs_rerate import rerate
from streams.cli.lines import clean
from streams.cli.output import print_json, say
from streams.costs import DIMENSIONS, Costs, Selection, Spent, look_up
from streams.moments import moment
from streams.opened import iso
from streams.settings import load_settings

WIDE = 1000
_COUNTS = ("requests", "attempts", "prompt_tokens", "completion_tokens")
_AMOUNTS = ("done_usd", "failed_usd", "unknown_usd", "total_usd", "avoided_usd")
_HEADS = ("requests", "attempts", "prompt", "completion", "done", "failed", "unknown", "total", "avoided")


app = typer.Typer(help="What was spent, by whom and on what. See docs/costs.md.")
app.command("rerate")(rerate)
app.command("reconcile")(reconcile_books)


@app.callback(invoke_without_command=True)
def costs(
    context: typer.Context,
    by: Annotated[
        list[str] | None,
        typer.Option(help=f"Break down by: {', '.join(DIMENSIONS)}. May be given several times, or as a,b."),
    ] = None,
    since: Annotated[str | None, typer.Option(help="From this time on (2026-05-01, UTC) or so long ago (7d).")] = None,
    until: Annotated[str | None, typer.Option(help="Before this time, or so long ago.")] = None,
    tenant: Annotated[str | None, typer.Option(help="Only this tenant.")] = None,
    lane: Annotated[str | None, typer.Option(help="Only this lane; replays cost money too.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Show so many groups; the total is of all.")] = None,
    folder: Annotated[Path | None, typer.Option(help="The embedded stack's folder.")] = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object; amounts are decimals in strings.")
    ] = False,
) -> None:
    """Sum up the ledger in US dollars: what was done, what failed, and what may have been paid without an outcome.

    Tokens are those of attempts that were done. An attempt of unknown outcome counts with the most it can have cost.
    """
    if context.invoked_subcommand is not None:
        return
    now = datetime.now(UTC)
    selection = Selection(
        since=None if since is None else moment(since, now=now),
        until=None if until is None else moment(until, now=now),
        tenant=tenant,
        lane=lane,
    )
    if selection.since and selection.until and selection.since >= selection.until:
        raise ConfigurationError(f"--since {since} is not before --until {until}: nothing can be between")
    names = list(dict.fromkeys(name for given in by or ["tenant"] for name in given.split(",")))
    dsn = load_settings(folder=folder).postgres.dsn.get_secret_value()
    found = asyncio.run(look_up(dsn, names, selection, limit=limit))
    if json:
        print_json(view(found, selection))
    elif found.groups:
        Console(highlight=False, width=None if sys.stdout.isatty() else WIDE).print(table(found))
    for line in notes(found):
        say(line)


def view(found: Costs, selection: Selection) -> dict[str, Any]:
    """The books as one JSON object. Amounts are decimal numbers in strings: money is never a float."""
    return {
        "by": list(found.by),
        "since": None if selection.since is None else iso(selection.since),
        "until": None if selection.until is None else iso(selection.until),
        "tenant": selection.tenant,
        "lane": selection.lane,
        "groups": [{**dict(zip(found.by, one.group, strict=True)), **_plain(one)} for one in found.groups],
        "omitted": found.omitted,
        "total": _plain(found.total),
        "conflicts": found.conflicts,
        "ledger_written_at": None if found.latest is None else iso(found.latest),
    }


def table(found: Costs) -> Table:
    """The books for a person, with the total below."""
    shown = Table(box=None, pad_edge=False, show_footer=True)
    for number, name in enumerate(found.by):
        shown.add_column(name, footer="total" if number == 0 else "", overflow="fold")
    for head, cell in zip(_HEADS, _cells(found.total), strict=True):
        shown.add_column(head, justify="right", footer=cell, no_wrap=True)
    for one in found.groups:
        shown.add_row(*(Text(clean(value) or "–") for value in one.group), *_cells(one))
    return shown


def notes(found: Costs) -> Iterable[str]:
    """What the sums do not say by themselves."""
    if found.latest is None:
        yield "the ledger holds nothing of this; is a worker running the stage `account`?"
        return
    if found.omitted:
        yield f"{found.omitted} more groups are in the total alone"
    total = found.total
    if total.unknown_attempts:
        yield f"{total.unknown_attempts} attempts of unknown outcome are counted with the most they can have cost"
    if total.unpriced_attempts:
        yield f"{total.unpriced_attempts} attempts are counted at 0: nobody gave their model a price (see `prices`)"
    if found.conflicts:
        yield f"{found.conflicts} cost events said otherwise than an earlier one; the dearer counts"
    yield f"the ledger was last written {iso(found.latest)}"


def _plain(one: Spent) -> dict[str, Any]:
    values = asdict(one)
    del values["group"]
    return {name: plain_amount(value) if isinstance(value, Decimal) else value for name, value in values.items()}


def _cells(one: Spent) -> list[str]:
    return [
        *(f"{getattr(one, name):,}" for name in _COUNTS),
        # To the micro-dollar: a call may cost less than a cent.
        *(plain_amount(getattr(one, name).quantize(Decimal("0.000001"))) for name in _AMOUNTS),
    ]
