"""``headrace topics``: bring the broker's topics in line with their declarations."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from streams.cli.acls import acls
from streams.cli.output import print_json, say
from streams.offsets import broker_offsets_days, offsets_warning
from streams.settings import load_settings
from streams.topics import Difference, compare
from streams.topics import apply as apply_difference

app = typer.Typer(no_args_is_help=True, help="Topics as they are declared, and who may use them.")
app.command()(acls)


@app.callback()
def _group() -> None:
    """Topics as they are declared."""


@app.command()
def apply(
    lane: Annotated[str, typer.Option(help="Lane whose topics to apply.")] = "live",
    dry_run: Annotated[bool, typer.Option(help="Print the difference and change nothing.")] = False,
    grow: Annotated[bool, typer.Option(help="Add partitions where there are fewer than declared.")] = False,
    folder: Annotated[Path | None, typer.Option(help="The embedded stack's folder.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Print what the broker lacks, then create and alter it. Nothing is ever deleted."""
    settings = load_settings(folder=folder)
    difference = compare(settings, lane)
    offsets_days = broker_offsets_days(settings)
    warning = offsets_warning(offsets_days, settings)
    if warning is not None:
        say(f"headrace: {warning}")
    if json:
        print_json({**describe(difference), "broker_offsets_days": offsets_days, "applied": not dry_run})
    else:
        show(difference, grow=grow)
    if difference and not dry_run:
        apply_difference(settings, lane, difference, grow=grow)


def describe(difference: Difference) -> dict[str, object]:
    """The difference as JSON."""
    return {
        "create": list(difference.create),
        "alter": {
            topic: {key: {"now": now, "wanted": wanted} for key, (now, wanted) in changes.items()}
            for topic, changes in difference.alter.items()
        },
        "grow": {topic: {"now": now, "wanted": wanted} for topic, (now, wanted) in difference.grow.items()},
    }


def show(difference: Difference, *, grow: bool) -> None:
    """The difference for a person."""
    if not difference:
        say("topics are as declared")
    for name in difference.create:
        say(f"create {name}")
    for name, changes in difference.alter.items():
        for key, (now, wanted) in changes.items():
            say(f"alter  {name}: {key} {now or 'unset'} → {wanted}")
    for name, (there, declared) in difference.grow.items():
        note = "" if grow else " (left: keys would move to other partitions; add --grow to do it)"
        say(f"grow   {name}: {there} → {declared} partitions{note}")
