"""``headrace purge``: delete the rows whose time is over."""

from __future__ import annotations

import asyncio
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from processors.postgres import Database
from streams.cli.output import console, print_json, tell
from streams.purging import Purge, Purged
from streams.retention import FOREVER, say_days
from streams.settings import Settings, load_settings

# Counting what would go may read a large part of a table.
STATEMENT_TIMEOUT_S = 600.0


def purge(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count the rows and delete nothing.")] = False,
    folder: Annotated[Path | None, typer.Option(help="The embedded stack's folder.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object a table.")] = False,
) -> None:
    """Delete the rows whose time is over, in small batches. Workers do the same in the background.

    Exit 1 when a table could not be purged because its migration is not applied.
    """
    done = asyncio.run(_purge(load_settings(folder=folder), dry_run=dry_run, shown=not json and console.is_terminal))
    for purged in done:
        if json:
            print_json(_describe(purged, dry_run=dry_run))
        else:
            tell(_line(purged, dry_run=dry_run))
    if any(purged.outcome == "missing" for purged in done):
        raise typer.Exit(1)


async def _purge(settings: Settings, *, dry_run: bool, shown: bool) -> list[Purged]:
    dsn = settings.postgres.dsn.get_secret_value()
    database = await Database.open(
        dsn, max_size=1, statement_timeout_s=STATEMENT_TIMEOUT_S, application_name="headrace purge"
    )
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TextColumn("{task.completed:,.0f} rows"))
    bar = Progress(*columns, TimeElapsedColumn(), console=console, transient=True) if shown else None
    try:
        with bar or nullcontext():
            task = bar.add_task("purging", total=None) if bar else None

            def advance(batch: Purged) -> None:
                if bar is not None and task is not None:
                    bar.update(task, advance=batch.rows, description=batch.table)

            job = Purge(database, settings.retention.resolved(), batch=settings.retention.purge_batch)
            # Another process that purges has its turn for one batch only: it is waited for.
            return [purged async for purged in job.run(dry_run=dry_run, wait=True, advance=advance)]
    finally:
        await database.close()


def _describe(purged: Purged, *, dry_run: bool) -> dict[str, Any]:
    return {
        "table": purged.table,
        "outcome": purged.outcome,
        "kept_days": None if purged.days == FOREVER else purged.days,
        "before": purged.before,
        "rows": purged.rows,
        "oldest": purged.oldest,
        "deleted": not dry_run and purged.outcome == "done",
    }


def _line(purged: Purged, *, dry_run: bool) -> str:
    if purged.outcome == "missing":
        return f"{purged.table}: there is no such table yet; run headrace migrate"
    if purged.before is None:
        return f"{purged.table}: kept for ever"
    verb = "would be deleted" if dry_run else "deleted"
    oldest = f", the oldest of {purged.oldest:%Y-%m-%d %H:%M}" if purged.oldest else ""
    kept = say_days(purged.days)
    return f"{purged.table}: {purged.rows:,} rows older than {kept} ({purged.before:%Y-%m-%d %H:%M}) {verb}{oldest}"
