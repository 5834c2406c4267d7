"""``headrace pause``, ``resume`` and ``drain``: hold back a stage, a route or a tenant, through the control topic."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from processors.control import Pausable
from schemas.errors import DependencyDownError
from streams import controlling
from streams.cli.author import author
from streams.cli.output import console, print_json, say
from streams.draining import Left, drained
from streams.settings import load_settings


class Kind(StrEnum):
    """What can be paused."""

    stage = "stage"
    route = "route"
    tenant = "tenant"

    @property
    def pausable(self) -> Pausable:
        """As control records call it."""
        kinds: dict[str, Pausable] = {"stage": "stage", "route": "route", "tenant": "tenant"}
        return kinds[self.value]


KindOf = Annotated[Kind, typer.Argument(help="What it is.")]
Name = Annotated[str, typer.Argument(help="Its name, e.g. complete, default or acme.")]
Reason = Annotated[str, typer.Option(help="Why; kept with the control record and shown by `headrace status`.")]
Lane = Annotated[str, typer.Option(help="Lane to work on.")]
Unseen = Annotated[
    bool, typer.Option("--unseen", help="Also a tenant that is in no settings and never asked anything.")
]
Folder = Annotated[Path | None, typer.Option(help="The embedded stack's folder.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def pause(
    kind: KindOf,
    name: Name,
    reason: Reason = "",
    lane: Lane = "live",
    unseen: Unseen = False,
    folder: Folder = None,
    json: AsJson = False,
) -> None:
    """Pause it: a stage takes nothing new; a route's or tenant's events are set aside, and others go on."""
    settings = load_settings(folder=folder)
    changed = controlling.pause(settings, kind.pausable, name, lane=lane, author=author(), reason=reason, unseen=unseen)
    assert changed.after is not None
    if json:
        print_json({**changed.after.view(), "paused": True, "changed": changed.before is None})
    else:
        say(("already: " if changed.before else "") + changed.after.line())


def resume(
    kind: KindOf, name: Name, reason: Reason = "", lane: Lane = "live", folder: Folder = None, json: AsJson = False
) -> None:
    """Resume it: what was set aside is put back by the workers of its stages."""
    settings = load_settings(folder=folder)
    changed = controlling.resume(settings, kind.pausable, name, lane=lane, author=author(), reason=reason)
    before = changed.before
    if json:
        held: dict[str, Any] = before.view() if before else {"kind": kind.value, "name": name, "deferred": 0}
        print_json({**held, "paused": False, "changed": before is not None})
    elif before is None:
        say(f"{kind.value} {name} was not paused")
    else:
        waiting = f"; {before.deferred} events that were set aside go on" if before.deferred else ""
        say(f"{kind.value} {name} is resumed{waiting}")


def drain(
    kind: KindOf,
    name: Name,
    timeout: Annotated[float, typer.Option(min=0, help="Seconds to wait for what is in process.")] = 180.0,
    reason: Reason = "",
    lane: Lane = "live",
    unseen: Unseen = False,
    folder: Folder = None,
    json: AsJson = False,
) -> None:
    """Pause it, then wait until nothing of it is in process. Exit code 1 when that takes longer than the timeout."""
    settings = load_settings(folder=folder)
    changed = controlling.pause(settings, kind.pausable, name, lane=lane, author=author(), reason=reason, unseen=unseen)
    assert changed.after is not None
    if not json:
        say(("already: " if changed.before else "") + changed.after.line())
    with console.status(f"waiting for {kind.value} {name}") as status:

        def note(left: Left) -> None:
            status.update(f"waiting for {kind.value} {name}: {left.line()}")

        try:
            left = drained(settings, changed.after.pause, lane=lane, timeout_s=timeout, note=note)
        except DependencyDownError as error:
            held = {**changed.after.view(), "paused": True, "changed": changed.before is None}
            if json:
                print_json({**held, "drained": False, "left": None, "error": str(error)})
            say(f"headrace: {kind.value} {name} is paused; what of it is in process is not known: {error}")
            raise typer.Exit(1) from None
    if json:
        print_json(
            {
                **changed.after.view(),
                "paused": True,
                "changed": changed.before is None,
                "drained": not left,
                "left": left.view(),
            }
        )
    elif left:
        say(f"not drained within {timeout:g} s: {left.line()}; it stays paused")
    else:
        nobody = "" if left.workers else "; no worker that would have it reports"
        say(f"{kind.value} {name} is drained{nobody}; `headrace resume {kind.value} {name}` lets it go on")
    if left:
        raise typer.Exit(1)
