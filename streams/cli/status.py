"""``headrace status``: what runs, what waits, what is paused, and what is down."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import psycopg
import typer
from rich.table import Table
from rich.text import Text

from infra.embedded import stack
from infra.embedded.state import StackState
from schemas.errors import ConfigurationError, DependencyDownError
from streams.batches import Shown as Batches
from streams.batches import batches as read_batches
from streams.batches import line_of
from streams.cli.batches import view as batches_view
from streams.cli.components import describe, say_age, show_components
from streams.cli.output import page, print_json, tell
from streams.overview.backlog import Backlog
from streams.overview.snapshot import Lookout, Snapshot
from streams.paused import Held, what_is_paused
from streams.probes import probe_registry
from streams.settings import Settings, load_settings
from streams.stages import STAGES

Folder = Annotated[Path, typer.Option(envvar="HEADRACE_FOLDER", help="The embedded stack's folder.")]
DEFAULT_FOLDER = Path(".headrace")


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """All that ``status`` found. ``stack`` is None where the settings name an external one."""

    lane: str
    stack: StackState | None = None
    snapshot: Snapshot | None = None
    held: list[Held] = field(default_factory=list)
    batches: Batches | None = None
    faults: dict[str, str] = field(default_factory=dict)

    def down(self) -> list[str]:
        """What is down, one sentence each."""
        found = []
        if self.stack is not None and not self.stack.running:
            option = "" if self.stack.folder == str(DEFAULT_FOLDER.absolute()) else f" --folder {self.stack.folder}"
            found.append(f"no stack runs in {self.stack.folder}; start one with: headrace up{option}")
        elif self.stack is not None:
            found += [f"{child.name} is {child.status}" for child in self.stack.components if child.status != "ready"]
        found += [reason for name, reason in self.faults.items() if self.snapshot is None or name == "registry"]
        return found + (self.snapshot.down() if self.snapshot else [])


def status(
    folder: Folder = DEFAULT_FOLDER,
    lane: Annotated[str, typer.Option(help="Lane to look at.")] = "live",
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show what runs, what waits on each stage and for how long, what is paused, and what is down.

    Exit code 1 when something is down. Works with an external broker and database too, from any machine.
    """
    seen = look(folder, lane)
    down = seen.down()
    if json:
        print_json(view(seen, down))
    else:
        _show(seen, down)
    if down:
        raise typer.Exit(1)


def look(folder: Path, lane: str) -> Seen:
    """Ask the embedded stack, broker, registry and Postgres. Blocks on them; what is away is among the faults.

    Raises ``ConfigurationError`` for settings that can't be read.
    """
    state = stack.status(folder)
    try:
        settings = load_settings(folder=folder)
    except ConfigurationError:
        if state.running:
            raise
        # Nothing is set up, and nothing of the embedded stack was ever up here.
        return Seen(lane=lane, stack=state)
    embedded = state if settings.stack == "embedded" else None
    if embedded is not None and not embedded.running:
        return Seen(lane=lane, stack=embedded)
    faults: dict[str, str] = {}
    with Lookout(settings, lane) as lookout:
        snapshot = lookout.look()
    held = _held(settings, lane, faults, skip={*snapshot.faults})
    batches = None if "postgres" in snapshot.faults else _batches(settings, lane)
    return Seen(lane=lane, stack=embedded, snapshot=snapshot, held=held, batches=batches, faults=faults)


def _batches(settings: Settings, lane: str) -> Batches | None:
    """What goes by batch; ``None`` where the database can't tell, or is older than batches."""
    try:
        return read_batches(settings.postgres.dsn.get_secret_value(), lane=lane, ended=0)
    except (DependencyDownError, psycopg.errors.UndefinedTable):
        return None


def _held(settings: Settings, lane: str, faults: dict[str, str], *, skip: set[str]) -> list[Held]:
    """What is paused; empty where broker, registry or database can't tell."""
    try:
        asyncio.run(_ask_registry(settings))
    except (DependencyDownError, ConfigurationError) as error:
        faults["registry"] = str(error)
        return []
    if skip:
        return []
    try:
        return what_is_paused(settings, lane=lane)
    except (DependencyDownError, ConfigurationError) as error:
        # A lane without topics is told by its stages.
        faults["paused"] = str(error)
        return []


async def _ask_registry(settings: Settings) -> None:
    await probe_registry(settings.registry)()


def view(seen: Seen, down: list[str]) -> dict[str, Any]:
    """All of it as one JSON object; the embedded stack's own fields come first, where there is one."""
    shown: dict[str, Any] = describe(seen.stack) if seen.stack is not None else {}
    shown |= {"lane": seen.lane, "healthy": not down, "down": down}
    snapshot = seen.snapshot
    if snapshot is None:
        return shown
    faults = {**snapshot.faults, **seen.faults}
    shown["parts"] = {name: {"ok": name not in faults} for name in ("kafka", "registry", "postgres")}
    for name in shown["parts"]:
        shown["parts"][name] |= {"reason": faults[name]} if name in faults else {}
    shown["stages"] = [_stage(snapshot, name) for name in STAGES]
    shown["workers"] = [worker.view() for worker in snapshot.workers]
    shown["paused"] = [held.view() for held in seen.held]
    shown["batches"] = None if seen.batches is None else batches_view(seen.batches)
    shown["dead_letters"] = {"total": snapshot.letters, "open_at_most": snapshot.open_letters}
    return shown


def _stage(snapshot: Snapshot, name: str) -> dict[str, Any]:
    return {
        "stage": name,
        "workers": len(snapshot.running(name)),
        "lag_events": snapshot.events(name),
        "lag_age_s": _rounded(snapshot.age_s(name)),
        "inputs": [_input(one, snapshot) for one in snapshot.of(name)],
    }


def _input(one: Backlog, snapshot: Snapshot) -> dict[str, Any]:
    age = None if one.oldest_at is None else max(0.0, (snapshot.at - one.oldest_at).total_seconds())
    return {
        "kind": one.kind,
        "topics": list(one.topics),
        "missing": list(one.missing),
        "partitions": one.partitions,
        "group": one.group,
        "group_state": one.state,
        "members": one.members,
        "lag_events": one.events,
        "lag_age_s": _rounded(age),
    }


def _show(seen: Seen, down: list[str]) -> None:
    if seen.stack is not None and seen.stack.running:
        show_components(seen.stack)
        page().print()
    snapshot = seen.snapshot
    if snapshot is not None:
        _show_stages(snapshot)
        _show_workers(snapshot)
        letters = f"{snapshot.open_letters} open of {snapshot.letters}" if snapshot.open_letters else "none open"
        tell(f"\ndead letters: {'not known' if snapshot.open_letters is None else letters}")
        batches = None if seen.batches is None else line_of(seen.batches)
        if batches is not None:
            tell(batches)
        for held in seen.held:
            tell(f"paused: {held.line()}")
    for reason in down:
        page().print(Text(f"down: {reason}", style="red"), soft_wrap=True)


def _show_stages(snapshot: Snapshot) -> None:
    table = Table("stage", "reads", "group", "members", "waiting", "since", box=None, pad_edge=False)
    for one in snapshot.backlogs:
        age = None if one.oldest_at is None else max(0.0, (snapshot.at - one.oldest_at).total_seconds())
        reads = one.kind if not one.missing else f"{one.kind} (missing)"
        group = one.state if one.state != "dead" else "not run"
        table.add_row(one.stage, reads, group, str(one.members), f"{one.events:,}", say_age(age) or "-")
    page().print(table)


def _show_workers(snapshot: Snapshot) -> None:
    if not snapshot.workers:
        return
    table = Table("\nworker", "\nstages", "\nstate", "\nhost", "\npid", "\nreported", box=None, pad_edge=False)
    for worker in snapshot.workers:
        style = {"ready": "green", "stale": "red"}.get(worker.state, "yellow")
        reported = f"{say_age(worker.age_s)} ago"
        table.add_row(
            worker.slot,
            "+".join(worker.stages),
            Text(worker.state, style=style),
            worker.host,
            str(worker.pid),
            reported,
        )
    page().print(table)


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)
