"""``headrace replay mirror``: replay a share of live traffic as it comes, and look after the mirrors."""

from __future__ import annotations

import asyncio
import signal
import sys
from contextlib import AsyncExitStack
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Annotated

import typer

from streams.cli.costs_amounts import micro_amount
from streams.cli.mirror_text import ended_text, mirror_line, mirror_text, mirror_view, started_text
from streams.cli.output import print_json, say
from streams.cli.replay_asked import end, parse_sets, remove, usd, with_desk
from streams.mirroring.conduct import MirrorConductor
from streams.mirroring.desk import LANE, SHARE, STAGE, Asked, changed, mirror_of, mirrors, standing, started
from streams.mirroring.figures import Figures, MirrorMetrics
from streams.mirroring.serving import serving
from streams.replay.desk import Desk
from streams.replay.priority import step_aside
from streams.replay.run import Run
from streams.replay.work import Ended
from streams.settings import load_settings

app = typer.Typer(help="Replay a share of live traffic as it comes. See docs/mirror.md.", no_args_is_help=True)

Named = Annotated[str, typer.Argument(metavar="NAME", help="The mirror's name or id.")]
Folder = Annotated[Path | None, typer.Option(help="The embedded stack's folder.")]
MaxCost = Annotated[
    str | None, typer.Option(metavar="USD", help="Pass over what would cost more than this in a day (UTC).")
]
Rate = Annotated[float | None, typer.Option(min=0.001, help="At most so many events a second.")]
Workers = Annotated[int | None, typer.Option(min=1, max=256, help="Calls at a time; 16 if left out.")]
Lines = Annotated[bool, typer.Option("--json", help="Print JSON, one object a mirror.")]


@app.command()
def start(
    name: Annotated[str, typer.Argument(help="What to call it. The same name goes on where it was.")],
    stage: Annotated[str | None, typer.Option(help=f"Stage to run; {STAGE} if left out.")] = None,
    through: Annotated[str | None, typer.Option(help="Run the stages from --stage to this one.")] = None,
    share: Annotated[float | None, typer.Option(help=f"Share of the requests; {SHARE:g} if left out.")] = None,
    salt: Annotated[str | None, typer.Option(help="Another one draws another share.")] = None,
    where: Annotated[str | None, typer.Option(help="Of these only such events, e.g. 'tenant = acme'.")] = None,
    sets: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Change this; may be repeated.")
    ] = None,
    max_cost_per_day: MaxCost = None,
    rate: Rate = None,
    workers: Workers = None,
    lane: Annotated[str | None, typer.Option(help=f"Lane that is mirrored; {LANE} if left out.")] = None,
    http_port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Serve /livez, /readyz and /metrics here; 0 for any port.")
    ] = None,
    folder: Folder = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object at the end.")] = False,
) -> None:
    """Mirror what comes from now on, until SIGTERM or Ctrl-C; the same command goes on where it was.

    A share of the requests, by a hash of their ids, goes through the stage once more with what --set changes, into a
    lane of its own; live workers, groups and topics are not touched. What the day's budget has no room for is passed
    over and counted.

    Exit code 1: it could not go on. 0: it was told to stop.
    """
    asked = Asked(
        stage=stage,
        through=through,
        share=share,
        salt=salt,
        where=where,
        sets=parse_sets(sets),
        per_day_usd=usd(max_cost_per_day, "--max-cost-per-day"),
        rate=rate,
        workers=workers,
        lane=lane,
    )
    settings = load_settings(folder=folder)
    step_aside()

    async def work(desk: Desk) -> bool:
        run, new = await started(desk, name, asked)
        ended, told = await _led(desk, run, new, http_port)
        found = await standing(desk, await mirror_of(desk, run.run))
        if json:
            print_json(mirror_view(found))
        else:
            say(ended_text(found, ended))
        # One that another process has in hand by now was not stopped.
        return told or found.run.state == "cancelled"

    if not with_desk(settings, work):
        raise typer.Exit(1)


@app.command("list")
def list_mirrors(folder: Folder = None, json: Lines = False) -> None:
    """List the mirrors, newest first."""

    async def work(desk: Desk) -> None:
        for run in await mirrors(desk):
            found = await standing(desk, run)
            if json:
                print_json(mirror_view(found))
            else:
                sys.stdout.write(mirror_line(found) + "\n")

    with_desk(load_settings(folder=folder), work)


@app.command()
def show(name: Named, folder: Folder = None, json: Lines = False) -> None:
    """Show one mirror: what was asked for, what it took and passed over, what it cost, and how far it is behind."""

    async def work(desk: Desk) -> None:
        await _show(desk, await mirror_of(desk, name), json=json)

    with_desk(load_settings(folder=folder), work)


@app.command()
def change(
    name: Named,
    max_cost_per_day: MaxCost = None,
    rate: Rate = None,
    workers: Workers = None,
    folder: Folder = None,
    json: Lines = False,
) -> None:
    """Change how much a mirror may spend, and how fast it may go; what it mirrors stays. End its process first."""
    asked = Asked(per_day_usd=usd(max_cost_per_day, "--max-cost-per-day"), rate=rate, workers=workers)

    async def work(desk: Desk) -> None:
        await _show(desk, await changed(desk, await mirror_of(desk, name), asked), json=json)

    with_desk(load_settings(folder=folder), work)


@app.command()
def stop(name: Named, folder: Folder = None, json: Lines = False) -> None:
    """Stop a mirror for good, whoever leads it; what it made stays, and can be compared. Exit code 1: it had ended.

    To stop it for a while, end its process: the same start goes on where it was.
    """
    end(load_settings(folder=folder), mirror_of, name, "stopped", json=json)


@app.command()
def delete(name: Named, folder: Folder = None, json: Lines = False) -> None:
    """Delete a mirror with its topics and rows. What it paid stays in the journal and in the books."""
    remove(load_settings(folder=folder), mirror_of, name, json=json)


async def _show(desk: Desk, run: Run, *, json: bool) -> None:
    found = await standing(desk, run)
    if json:
        print_json(mirror_view(found))
    else:
        sys.stdout.write(mirror_text(found))


async def _led(desk: Desk, run: Run, new: bool, http_port: int | None) -> tuple[Ended, bool]:
    """Lead a mirror; how it ended, and whether a signal told it to."""
    metrics, said = MirrorMetrics(), _Said()
    told = False

    def tell(figures: Figures) -> None:
        metrics.figures = figures
        said.over_budget(figures)

    services = (desk.settings, desk.database, desk.runs, desk.codec)
    conductor = MirrorConductor(*services, tell=tell, lineage=desk.telling)

    def stop_it() -> None:
        nonlocal told
        told = True
        conductor.stop()

    loop = asyncio.get_running_loop()
    async with AsyncExitStack() as stack:
        port = None
        if http_port is not None:
            port = await stack.enter_async_context(serving(metrics, desk.settings.worker.http_host, http_port))
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop_it)
            stack.callback(loop.remove_signal_handler, number)
        say(started_text(run, new=new, host=desk.settings.worker.http_host, port=port))
        return await conductor.lead(run), told


class _Said:
    """What was said to whoever watches the process: once a day that its budget is spent."""

    def __init__(self) -> None:
        self._day: date | None = None
        self._before: int | None = None

    def over_budget(self, figures: Figures) -> None:
        before, self._before = self._before, figures.over_budget
        if before is None or figures.over_budget == before or self._day == figures.day.day:
            return
        self._day = figures.day.day
        say(
            f"mirror {figures.run.name}: {micro_amount(figures.day.spent_usd)} of "
            f"{micro_amount(figures.limit_usd or Decimal(0))} USD are spent on {figures.day.day}; "
            "what has no room is passed over until the next day (UTC)"
        )
