"""``headrace dlq``: dead letters listed, shown, retried and dropped."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from schemas.errors import ConfigurationError
from streams.cli.dlq_desk import choose, chosen_filter, desk_of
from streams.cli.dlq_text import dropped_line, letter_line, letter_text, retried_line
from streams.cli.output import print_json, quiet_end, say
from streams.dlq.retry import Redriver
from streams.dlq.search import WANTED
from streams.dlq.view import letter_view, retried_view, whole_view
from streams.settings import load_settings

app = typer.Typer(help="Dead letters: look, retry, drop. See docs/dead-letters.md.", no_args_is_help=True)

Ids = Annotated[list[str] | None, typer.Argument(help="Ids as list shows them, e.g. 0-17.")]
Class = Annotated[str | None, typer.Option("--class", help="Only this class of error, e.g. poison.")]
Stage = Annotated[str | None, typer.Option(help="Only letters of this stage.")]
Since = Annotated[str | None, typer.Option(help="Only letters since then: 2026-05-01T10:00 (UTC), or 2h, 7d ago.")]
Until = Annotated[str | None, typer.Option(help="Only letters before then.")]
Tenant = Annotated[str | None, typer.Option(help="Only this tenant's letters.")]
Lane = Annotated[str, typer.Option(help="Lane of the letters.")]
Folder = Annotated[Path | None, typer.Option(help="The embedded stack's folder.")]
Lines = Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask, though no ids were named.")]


@app.command("list")
def list_letters(
    error_class: Class = None,
    stage: Stage = None,
    since: Since = None,
    until: Until = None,
    tenant: Tenant = None,
    state: Annotated[str, typer.Option(help=f"One of {', '.join(WANTED)}.")] = "open",
    limit: Annotated[int | None, typer.Option(min=1, help="Stop after so many.")] = None,
    lane: Lane = "live",
    folder: Folder = None,
    json: Lines = False,
) -> None:
    """List dead letters, oldest first: what failed, where and why. No text of an event is shown."""
    wanted = chosen_filter(error_class, stage, since, until, tenant, state)
    shown = 0
    with quiet_end(), desk_of(load_settings(folder=folder), lane) as desk:
        for found in desk.search.matching(wanted, desk.search.stretches(wanted)):
            if json:
                print_json(letter_view(found))
            else:
                sys.stdout.write(letter_line(found) + "\n")
                sys.stdout.flush()
            shown += 1
            if shown == limit:
                break
    if not json:
        say(f"{shown} {'' if state == 'all' else state + ' '}dead letters in the lane {lane}")


@app.command()
def show(
    letter: Annotated[str, typer.Argument(help="Its id as list shows it, e.g. 0-17.")],
    content: Annotated[bool, typer.Option("--content", help="Show texts too; they may hold personal data.")] = False,
    lane: Lane = "live",
    folder: Folder = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show one letter: why, where, its headers, and the event with sizes in the place of texts."""
    with desk_of(load_settings(folder=folder), lane) as desk:
        view = whole_view(desk.search.one(letter), content=content)
    if json:
        print_json(view)
    else:
        sys.stdout.write(letter_text(view))


@app.command()
def retry(
    ids: Ids = None,
    error_class: Class = None,
    stage: Stage = None,
    since: Since = None,
    until: Until = None,
    tenant: Tenant = None,
    again: Annotated[bool, typer.Option("--again", help="Also letters that were retried or dropped; by id.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be retried and do nothing.")] = False,
    yes: Yes = False,
    lane: Lane = "live",
    folder: Folder = None,
    json: Lines = False,
) -> None:
    """Send letters through their stage once more: by id, or all open ones that pass the filters.

    The original bytes go to the topic that they came from. A request that has an answer gets another one as its next
    revision, which names the one it replaces; what was paid is not paid again. A letter is retried once, however often
    this runs, unless --again says so. One that fails again is a new letter.

    Exit code 1: a letter could not be retried. One that is skipped because it was retried before is no failure.
    """
    wanted = chosen_filter(error_class, stage, since, until, tenant, "open")
    if again and not ids:
        raise ConfigurationError("--again is for letters named by id, so that none is answered twice by accident")
    outcomes: Counter[str] = Counter()
    with desk_of(load_settings(folder=folder), lane) as desk:
        redriver = Redriver(desk.settings, desk.states, lane=lane)
        for found in choose(desk, ids, wanted, "retry", sure=yes or dry_run):
            done = redriver.retry(found, again=again, dry_run=dry_run)
            outcomes[done.outcome] += 1
            if json:
                print_json(retried_view(done))
            else:
                say(retried_line(done))
    if not json:
        say(_summed(outcomes))
    if outcomes["failed"] or outcomes["refused"]:
        raise typer.Exit(1)


@app.command()
def drop(
    reason: Annotated[str, typer.Option(help="Why; kept with the letter.")],
    ids: Ids = None,
    error_class: Class = None,
    stage: Stage = None,
    since: Since = None,
    until: Until = None,
    tenant: Tenant = None,
    yes: Yes = False,
    lane: Lane = "live",
    folder: Folder = None,
    json: Lines = False,
) -> None:
    """Mark letters as done with: by id, or all open ones that pass the filters. They stay on their topic.

    Who dropped a letter, when and why is shown by list --state dropped and by show. One that was retried or dropped
    before stays as it is: its event is with its stage again, and what fails again is a new letter.
    """
    wanted = chosen_filter(error_class, stage, since, until, tenant, "open")
    if not reason.strip():
        raise ConfigurationError("--reason is empty; say why the letters need nothing more")
    outcomes: Counter[str] = Counter()
    with desk_of(load_settings(folder=folder), lane) as desk:
        for found in choose(desk, ids, wanted, "drop", sure=yes):
            outcome = "dropped" if desk.states.drop(found.letter, reason) else "skipped"
            outcomes[outcome] += 1
            if json:
                print_json({"id": found.letter.id, "outcome": outcome})
            else:
                say(dropped_line(found, outcome))
    if not json:
        say(_summed(outcomes))


def _summed(outcomes: Counter[str]) -> str:
    return ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in outcomes.items()) or "no letters"
