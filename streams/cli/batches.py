"""``headrace batches``: what was sent to providers' Batch APIs, and what waits for the next batch."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from streams.batches import Shown, ShownBatch
from streams.batches import batches as read
from streams.cli.components import say_age
from streams.cli.lines import clean
from streams.cli.output import print_json, say
from streams.opened import iso
from streams.settings import load_settings

WIDE = 1000


def batches(
    lane: Annotated[str | None, typer.Option(help="Only this lane.")] = None,
    ended: Annotated[int, typer.Option(min=0, max=1000, help="How many batches that are over to show.")] = 10,
    folder: Annotated[Path | None, typer.Option(help="The embedded stack's folder.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show the batches that are open and the last that are over, with their requests by how far they are.

    See "Batches" in docs/calling.md.
    """
    settings = load_settings(folder=folder)
    shown = read(settings.postgres.dsn.get_secret_value(), lane=lane, ended=ended)
    if json:
        print_json(view(shown))
        return
    if shown.batches:
        Console(highlight=False, width=None if sys.stdout.isatty() else WIDE).print(table(shown))
    for one in shown.waiting:
        place, age = f"{clean(one.lane)}, {clean(one.deployment)}", say_age(one.oldest_s)
        typer.echo(f"{one.requests:,} requests wait for a batch ({place}), the oldest for {age}")
    if not shown.batches and not shown.waiting:
        say("nothing went by batch; see docs/calling.md")


def view(shown: Shown) -> dict[str, Any]:
    """All of it as JSON."""
    return {
        "batches": [_batch(one) for one in shown.batches],
        "waiting": [
            {
                "lane": one.lane,
                "deployment": one.deployment,
                "requests": one.requests,
                "oldest_s": round(one.oldest_s, 3),
            }
            for one in shown.waiting
        ],
    }


def _batch(one: ShownBatch) -> dict[str, Any]:
    return {
        "batch_id": one.batch_id,
        "lane": one.lane,
        "deployment": one.deployment,
        "state": one.state,
        "provider_batch": one.provider_batch,
        "provider_status": one.provider_status,
        "begun_at": iso(one.begun_at),
        "ended_at": None if one.ended_at is None else iso(one.ended_at),
        "age_s": round(one.age_s, 3),
        "requests": sum(one.items.values()),
        "items": one.items,
    }


def table(shown: Shown) -> Table:
    """The batches for a person."""
    found = Table(box=None, pad_edge=False)
    for name in ("batch", "lane", "deployment", "state", "at its provider", "begun", "requests"):
        found.add_column(name, overflow="fold")
    for one in shown.batches:
        items = ", ".join(f"{count:,} {state}" for state, count in sorted(one.items.items()))
        provider = " ".join(filter(None, (one.provider_batch, one.provider_status)))
        begun = f"{say_age(one.age_s)} ago"
        row = (one.batch_id, one.lane, one.deployment, one.state, provider, begun, items or "none")
        found.add_row(*(Text(clean(cell)) for cell in row))
    return found
