"""``headrace replay lineage``: what is told of a run, shown, or sent once more."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Annotated

import typer

from schemas.errors import ConfigurationError
from streams.cli.output import say
from streams.lineage.happening import Happening, Sums
from streams.lineage.replays import once_more
from streams.lineage.topics import Topics
from streams.replay.desk import Desk
from streams.settings import Settings, load_settings

EXTRA = "lineage needs openlineage-python, which the extra `lineage` brings: install headrace[lineage]"


def lineage(
    run: Annotated[str, typer.Argument(metavar="RUN", help="The run's id or name.")],
    send: Annotated[bool, typer.Option("--send", help="Send them, as [lineage] of the settings says.")] = False,
    folder: Annotated[Path | None, typer.Option(help="The embedded stack's folder.")] = None,
) -> None:
    """Print the OpenLineage events of a run as JSON lines, made of what its row says; or send them once more.

    For a catalogue that was away while the run was led. Exit code 1: with --send, not all of them were taken.
    """
    settings = load_settings(folder=folder)
    if send and not settings.lineage.on:
        raise ConfigurationError("--send: set lineage.url or lineage.file in the settings, which say where to")
    told, sums = asyncio.run(_told(settings, run, send=send))
    for line in _lines(settings, told):
        sys.stdout.write(line + "\n")
    if sums is not None:
        say(f"{sums.taken} events were sent" + (f", {sums.lost} were not taken" if sums.lost else ""))
        if sums.lost:
            raise typer.Exit(1)


async def _told(settings: Settings, named: str, *, send: bool) -> tuple[list[Happening], Sums | None]:
    async with Desk.open(settings, note=say) as desk:
        run = await desk.find(named)
        if run.epoch == 0:
            raise ConfigurationError(f"the run {run.name} was never led, so there is nothing to tell of it")
        topics = Topics(settings, desk.codec)
        told = once_more(run, await desk.progress(run), topics, settings.prefix)
        if not send:
            return told, None
        for one in told:
            desk.lineage.tell(one)
        return told, await asyncio.to_thread(desk.lineage.close)


def _lines(settings: Settings, told: list[Happening]) -> list[str]:
    try:
        from openlineage.client.serde import Serde  # noqa: PLC0415  (the library is an extra)

        from streams.lineage.openlineage import Events  # noqa: PLC0415
    except ImportError:
        raise ConfigurationError(EXTRA) from None
    events = Events(settings.lineage.namespace, settings.lineage.parent_run())
    return [Serde.to_json(events.event(one)) for one in told]
