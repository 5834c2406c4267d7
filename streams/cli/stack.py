"""``headrace up`` and ``down``: the embedded stack."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any

import psycopg
import typer
from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.progress import Progress as Bars
from rich.text import Text

from infra.embedded import stack
from infra.embedded.errors import PortTakenError, StackError
from infra.embedded.progress import OnProgress, Progress
from infra.embedded.state import StackState
from infra.migrate import MigrationError
from schemas.errors import ConfigurationError
from streams.cli.components import describe, show_components
from streams.cli.output import console, print_json, program, say
from streams.settings import load_settings

Folder = Annotated[Path, typer.Option(envvar="HEADRACE_FOLDER", help="The embedded stack's folder.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
DEFAULT_FOLDER = Path(".headrace")
READYZ_TIMEOUT_S = 3.0
READYZ_MAX_BYTES = 10_000
COLOURS = {"ready": "green", "failed": "red", "stopped": "dim"}


def up(
    folder: Folder = DEFAULT_FOLDER,
    no_workers: Annotated[bool, typer.Option("--no-workers", help="Start the components alone.")] = False,
    json: Json = False,
) -> None:
    """Start broker, registry, Postgres, model, embeddings and workers; join them if they run."""
    with exit_on_failure(), progress() as on_progress:
        state = bring_up(folder, workers=not no_workers, on_progress=on_progress)
    if json:
        print_json(describe(state))
        return
    show_components(state)
    say(f"\nlook: {program()} status   ask: {program()} ask TEXT   stop: {program()} down")


def down(folder: Folder = DEFAULT_FOLDER, json: Json = False) -> None:
    """Stop everything, workers first. The data stays."""
    with exit_on_failure(), progress() as on_progress:
        stopped = stack.down(folder, on_progress=on_progress)
    if json:
        print_json({"folder": str(folder.absolute()), "stopped": stopped})
    elif not stopped:
        say(f"nothing runs in {folder}")


def bring_up(folder: Path, *, workers: bool = True, on_progress: OnProgress) -> StackState:
    """Components, then migrations, topics and schemas, then the workers. Returns when all of them are ready.

    Blocks for five to ten seconds, and on downloads the first time. What this call started is stopped when it fails
    or is interrupted. Raises StackError, ConfigurationError and what the preparation raises.
    """
    from streams.cli.prepare import prepare  # noqa: PLC0415  (needs the broker's client; status and down don't)

    joins = stack.is_running(folder)
    try:
        state = stack.up(folder, on_progress=on_progress)
        if load_settings(folder=folder).stack != "embedded":
            raise ConfigurationError(
                "the settings name an external stack; headrace up runs the embedded one: set stack = embedded"
            )
        on_progress(Progress("topics, schemas, tables", "preparing"))
        prepare(folder)
        on_progress(Progress("topics, schemas, tables", "ready"))
        return _with_workers(folder, on_progress) if workers else state
    except BaseException:
        if not joins:
            stack.down(folder, on_progress=on_progress)
        raise


def _with_workers(folder: Path, on_progress: OnProgress) -> StackState:
    """Add the workers, with other ports where somebody else took theirs before they could. Raises StackError."""
    from streams.cli.workers import worker_specs  # noqa: PLC0415

    for _ in range(stack.PORT_TRIES - 1):
        with suppress(PortTakenError):
            return stack.up(folder, worker_specs(folder), components=(), on_progress=on_progress)
    return stack.up(folder, worker_specs(folder), components=(), on_progress=on_progress)


@contextmanager
def exit_on_failure() -> Iterator[None]:
    """Turn what goes wrong with the stack into a message on stderr and exit code 1."""
    try:
        yield
    except (StackError, MigrationError, psycopg.Error) as error:
        # A Text: brackets in a log's lines are no markup.
        console.print(Text(f"headrace: {error}"), soft_wrap=True)
        raise typer.Exit(1) from None


@contextmanager
def progress() -> Iterator[OnProgress]:
    """Show reports on stderr: a bar a download on a terminal, else a line for each change."""
    if not console.is_terminal:
        yield _lines()
        return
    columns = (
        TextColumn("{task.description:<24}"),
        TextColumn("{task.fields[state]:<12}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    plain = (TextColumn("{task.description:<24}"), TextColumn("{task.fields[state]}"))
    with Bars(*plain, console=console) as states, Bars(*columns, console=console, transient=True) as bars:
        yield _bars(states, bars)


def _bars(states: Bars, bars: Bars) -> OnProgress:
    rows: dict[str, Any] = {}
    downloads: dict[str, Any] = {}

    def show(report: Progress) -> None:
        if report.what not in rows:
            rows[report.what] = states.add_task(report.what, state=report.state)
        states.update(rows[report.what], state=report.state)
        if report.state == "downloading":
            if report.what not in downloads:
                downloads[report.what] = bars.add_task(report.what, total=report.total, state=report.state)
            bars.update(downloads[report.what], completed=report.done)

    return show


def _lines() -> OnProgress:
    seen: dict[str, str] = {}

    def show(report: Progress) -> None:
        if seen.get(report.what) != report.state:
            seen[report.what] = report.state
            size = f" ({report.total / 1e6:.0f} MB)" if report.state == "downloading" else ""
            say(f"{report.what}: {report.state}{size}")

    return show
