"""``headrace replay``: run stages once more over what was recorded, and look after the runs."""

from __future__ import annotations

import asyncio
import gc
import signal
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from schemas.errors import ConfigurationError
from streams.cli.mirror import app as mirror
from streams.cli.output import print_json, say
from streams.cli.replay_asked import end, parse_sets, remove, usd, with_desk
from streams.cli.replay_diff import diff, gate
from streams.cli.replay_lineage import lineage
from streams.cli.replay_survey_text import survey_text
from streams.cli.replay_text import Bar, asked_text, ended_line, planned_text, run_line, run_text, run_view, survey_view
from streams.replay.desk import Desk, Planned
from streams.replay.plan import times
from streams.replay.priority import step_aside
from streams.replay.run import Run, RunConfig, Target
from streams.replay.selection import read_ids, read_offsets
from streams.replay.shares import GC_THRESHOLD
from streams.replay.survey import Surveyed, survey
from streams.replay.work import Ended
from streams.settings import Settings, load_settings

app = typer.Typer(
    help="Run stages once more over what was recorded. See docs/replay.md.",
    invoke_without_command=True,
    no_args_is_help=True,
)

app.command()(diff)
app.command()(gate)
app.add_typer(mirror, name="mirror")
app.command()(lineage)

Named = Annotated[str, typer.Argument(metavar="RUN", help="The run's id or name.")]
Folder = Annotated[Path | None, typer.Option(help="The embedded stack's folder.")]
Lines = Annotated[bool, typer.Option("--json", help="Print JSON, one object a run.")]
Sets = Annotated[list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Change this; may be repeated.")]
MaxCost = Annotated[str | None, typer.Option(metavar="USD", help="Stop before more than this is spent; resumable.")]


@app.callback()
def replay(
    context: typer.Context,
    stage: Annotated[str | None, typer.Option(help="Stage to run again, e.g. filter.")] = None,
    through: Annotated[str | None, typer.Option(help="Run the stages from --stage to this one.")] = None,
    since: Annotated[str | None, typer.Option(help="Events since then: 2026-05-01T10:00 (UTC), or 2h, 7d ago.")] = None,
    until: Annotated[str | None, typer.Option(help="Events before then.")] = None,
    offsets: Annotated[Path | None, typer.Option(help="File of TOPIC PARTITION FIRST-LAST, one a line.")] = None,
    ids: Annotated[Path | None, typer.Option(help="File of request ids, one a line.")] = None,
    run: Annotated[str | None, typer.Option(help="Of the events that this run took.")] = None,
    where: Annotated[str, typer.Option(help="Only such events, e.g. 'tenant = acme and status != answered'.")] = "",
    sample: Annotated[float, typer.Option(min=0.0, max=1.0, help="Only this share of the requests.")] = 1.0,
    salt: Annotated[str, typer.Option(help="Another one draws another sample.")] = "headrace",
    sets: Sets = None,
    workers: Annotated[int | None, typer.Option(min=1, max=256, help="Processes; for complete, calls.")] = None,
    rate: Annotated[float | None, typer.Option(min=0.001, help="At most so many events a second.")] = None,
    max_cost: MaxCost = None,
    into: Annotated[str, typer.Option(help="shadow: a lane of its own. live: new revisions of answers.")] = "shadow",
    name: Annotated[str | None, typer.Option(help="What to call the run; else its id.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it would do, and do nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before answers are replaced.")] = False,
    lane: Annotated[str, typer.Option(help="Lane whose events are read.")] = "live",
    folder: Folder = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Run a stage, or several, once more over what was recorded; see also the commands below.

    The end is the end of the topic now. Live workers, groups and topics are not touched; what the run writes is in a
    lane of its own. A run that is cut off goes on with headrace replay resume.

    Exit code 1: the run did not come to its end.
    """
    if context.invoked_subcommand is not None:
        return
    if stage is None:
        raise ConfigurationError("--stage is missing: name the stage to run again, e.g. --stage filter")
    if into not in ("shadow", "live"):
        raise ConfigurationError(f"--into {into}: it has to be shadow or live")
    if not any((since, until, offsets, ids, run)):
        raise ConfigurationError("name a range: --since, --until, --offsets, --ids or --run")
    if sum(one is not None for one in (offsets, run)) and (since or until):
        raise ConfigurationError("--since and --until don't go with --offsets or --run, which say what is read")
    if sample <= 0:
        raise ConfigurationError("--sample 0 takes nothing")
    target: Target = "live" if into == "live" else "shadow"
    first, last = times(since, until, now=datetime.now(UTC))
    config = RunConfig(
        since=first,
        until=last,
        ids=read_ids(ids) if ids else (),
        offsets=read_offsets(offsets) if offsets else (),
        where=where,
        sample=sample,
        salt=salt,
        sets=parse_sets(sets),
        workers=workers,
        rate=rate,
        max_cost_usd=usd(max_cost),
        of_run=run or "",
    )
    settings = load_settings(folder=folder)
    step_aside()

    async def work(desk: Desk) -> tuple[Run, Ended] | None:
        planned = await desk.plan(stage, config, through=through, name=name, target=target, lane=lane)
        if dry_run or (target == "live" and not yes):
            found = await _surveyed(desk, planned)
            if dry_run:
                _show_survey(planned, found, json=json)
                return None
            _confirm(planned, found)
        begun = await desk.begin(planned)
        say(planned_text(planned))
        return begun, await _led(desk, begun)

    _conclude(settings, with_desk(settings, work), json=json)


@app.command("list")
def list_runs(folder: Folder = None, json: Lines = False) -> None:
    """List the runs, newest first."""

    async def work(desk: Desk) -> None:
        for run in await desk.runs.all():
            progress = await desk.progress(run)
            if json:
                print_json(run_view(run, progress))
            else:
                sys.stdout.write(run_line(run, progress) + "\n")

    with_desk(load_settings(folder=folder), work)


@app.command()
def show(run: Named, folder: Folder = None, json: Lines = False) -> None:
    """Show one run: what was asked for, how far it is, what it waits for, its outcome, and answers left alone."""

    async def work(desk: Desk) -> None:
        found = await desk.find(run)
        progress, left = await desk.progress(found), await desk.left_alone(found)
        waits_for = await desk.waits_for(found)
        if json:
            print_json(run_view(found, progress, left, waits_for=waits_for))
        else:
            sys.stdout.write(run_text(found, progress, left, waits_for=waits_for))

    with_desk(load_settings(folder=folder), work)


@app.command()
def resume(run: Named, sets: Sets = None, max_cost: MaxCost = None, folder: Folder = None, json: Lines = False) -> None:
    """Go on with a run that was stopped, failed or killed, from where it was; nothing is done twice.

    A process that leads the run and died is waited for, a few seconds. Exit code 1: it did not come to its end.
    """
    settings = load_settings(folder=folder)
    step_aside()

    async def work(desk: Desk) -> tuple[Run, Ended]:
        found = await desk.find(run)
        if found.config.mirror:
            raise ConfigurationError(f"{found.name} is a mirror: headrace replay mirror start {found.name} goes on")
        found = await desk.reconfigure(found, max_cost_usd=usd(max_cost), sets=parse_sets(sets))
        return found, await _led(desk, found)

    _conclude(settings, with_desk(settings, work), json=json)


@app.command()
def cancel(run: Named, folder: Folder = None, json: Lines = False) -> None:
    """Cancel a run, whoever leads it, and book what it paid. What it wrote stays until it is deleted.

    After a kill that waits for the dead process's leases, some 15 s. Exit code 1: it had ended.
    """
    end(load_settings(folder=folder), Desk.find, run, "cancelled", json=json)


@app.command()
def delete(run: Named, folder: Folder = None, json: Lines = False) -> None:
    """Delete a run with its topics, groups and rows. What it paid stays in the journal and in the books."""
    remove(load_settings(folder=folder), Desk.find, run, json=json)


async def _surveyed(desk: Desk, planned: Planned) -> Surveyed:
    with Bar(planned.run, planned.places, "looking") as bar:
        return await survey(planned.run, planned.places, desk.settings, desk.database, desk.codec, observe=bar.read)


def _show_survey(planned: Planned, found: Surveyed, *, json: bool) -> None:
    if json:
        print_json(survey_view(planned, found))
        return
    sys.stdout.write(survey_text(planned, found))


def _confirm(planned: Planned, found: Surveyed) -> None:
    text = asked_text(planned, found)
    if not sys.stdin.isatty():
        raise ConfigurationError(f"{text}: --yes says that this is wanted")
    typer.confirm(f"{text}. Go on?", abort=True, err=True)


async def _led(desk: Desk, run: Run) -> Ended:
    """Lead a run, showing how far it is; an interrupt lets it finish what is begun."""
    progress = await desk.progress(run)
    with Bar(run, progress.places, "replaying") as bar:
        conductor = desk.conductor(bar.show)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, conductor.stop)
        gc.freeze()
        gc.set_threshold(GC_THRESHOLD, 20, 50)
        try:
            return await conductor.lead(run)
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)


def _conclude(settings: Settings, outcome: tuple[Run, Ended] | None, *, json: bool) -> None:
    if outcome is None:
        return
    run, ended = outcome

    async def work(desk: Desk) -> None:
        found = await desk.find(run.run)
        progress, left = await desk.progress(found), await desk.left_alone(found)
        if json:
            print_json(run_view(found, progress, left))
        else:
            say(ended_line(found, progress, ended, left))

    with_desk(settings, work)
    if ended.state != "done":
        raise typer.Exit(1)
