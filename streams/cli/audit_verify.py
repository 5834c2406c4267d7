"""``headrace audit verify``: whether everything that was recorded fits together."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from schemas.errors import ConfigurationError
from streams import security
from streams.auditing.findings import KINDS, TOLERATED
from streams.auditing.scan import Advance, Counts
from streams.auditing.sealed import SealCounts
from streams.auditing.sealed_lane import read_exported
from streams.auditing.seen import Seen
from streams.auditing.verify import Plan, Scope, Verifier, open_seen, temporary
from streams.cli.lines import clean
from streams.cli.output import console, print_json, say, tell
from streams.moments import moment
from streams.opened import iso
from streams.settings import load_settings


def verify(
    since: Annotated[str, typer.Option(help="Requests accepted from then on (2026-05-01, UTC; or 7d ago).")] = "1d",
    until: Annotated[str | None, typer.Option(help="And before this time; now if left out.")] = None,
    lane: Annotated[str, typer.Option(help="Lane to verify.")] = "live",
    grace_s: Annotated[float, typer.Option(min=0, help="What is younger may be on its way: not judged.")] = 60.0,
    streams: Annotated[bool, typer.Option("--streams", help="Read deltas and chunks, too.")] = False,
    costs: Annotated[bool, typer.Option(help="Compare the books, as `headrace costs reconcile` does.")] = True,
    seals: Annotated[bool, typer.Option(help="Compare records with their seals.")] = True,
    exported: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Seals that were exported earlier: they have to be the same.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Show so many of each kind; --json shows all.")] = 20,
    folder: Annotated[Path | None, typer.Option(help="The embedded stack's folder.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print a JSON object a finding, and a summary last.")] = False,
) -> None:
    """Read a stretch of a lane, and list whatever does not fit together. Exit code 1 when anything is off.

    Every request has one final answer; every event's cause is there and its id follows from it; copies have the same
    bytes; the books agree; the filter makes the same answers of the recorded completions, and scores by rule are the
    same for the recorded answers. Spends nothing, and changes nothing.
    """
    now = datetime.now(UTC)
    start, end = moment(since, now=now), moment(until, now=now) if until else None
    if start >= (end or now):
        raise ConfigurationError(f"--since: {iso(start)} is not before {iso(end or now)}; nothing can lie between")
    settings = load_settings(folder=folder)
    codec = asyncio.run(security.codec(settings.registry))
    before = read_exported(exported) if exported is not None else None
    scope = Scope(
        lane=lane,
        since=start,
        until=end,
        grace_s=grace_s,
        streams=streams,
        costs=costs,
        seals=seals,
        exported=before,
    )
    with temporary() as place, open_seen(place) as seen:
        with progress(shown=not json and console.is_terminal) as (advance, plan):
            verifier = Verifier(settings, codec, scope, advance=advance, plan=plan)
            counts = verifier.run(seen)
        found = dict(seen.counts())
        if json:
            for one in seen.findings():
                print_json(asdict(one))
            print_json({**view(scope, counts, found), "seals": asdict(verifier.sealed)})
        else:
            for line in lines(seen, found, limit):
                tell(line)
    shown = say if json else tell
    for note in (*notes(scope, counts), *seal_notes(scope, verifier.sealed)):
        shown(note)
    shown(summary(counts, found))
    if off(found):
        raise typer.Exit(1)


def view(scope: Scope, counts: Counts, found: dict[str, int]) -> dict[str, Any]:
    """The summary as one JSON object."""
    return {
        "lane": scope.lane,
        "since": iso(scope.since),
        "until": iso(scope.until) if scope.until else None,
        "kept_from": iso(counts.kept_from) if counts.kept_from else None,
        "records": counts.records,
        "requests": counts.requests,
        "answers": counts.answers,
        "filtered_again": counts.reruns,
        "scores": counts.scores,
        "scored_again": counts.rescored,
        "kinds": counts.kinds,
        "fits": not off(found),
        "findings": found,
    }


def lines(seen: Seen, found: dict[str, int], limit: int) -> Iterator[str]:
    """What is off, by kind, for a person."""
    for kind, count in found.items():
        yield f"{kind} ({count:,}): {KINDS[kind]}"
        for one in seen.findings(kind, limit):
            yield clean("  " + " ".join(part for part in (one.tenant, one.request_id, one.place, one.detail) if part))
        if count > limit:
            yield f"  and {count - limit:,} more"


def notes(scope: Scope, counts: Counts) -> Iterator[str]:
    """What was not judged, and why."""
    if counts.kept_from is not None and counts.kept_from > scope.since:
        yield f"before {iso(counts.kept_from)} records have gone by retention: judged from there on"
    if counts.gaps_outside:
        yield f"{counts.gaps_outside:,} offsets that producers took hold no record: ends of transactions, or losses"
    if counts.imported:
        yield f"{counts.imported:,} answers were imported: what was final is in another database"
    if counts.scores > counts.rescored:
        left = counts.scores - counts.rescored
        yield f"{left:,} scores not made again: of another version of their scorer, or of answers that are not there"
    if scope.is_replay:
        yield "the lane of a replay: causes, requests and books are in the lane that was replayed"


def seal_notes(scope: Scope, sealed: SealCounts) -> Iterator[str]:
    """What was compared with seals."""
    if not scope.seals:
        return
    if not sealed.seals:
        yield "nothing of this lane is sealed: an altered record can not be told; see `headrace audit seal`"
        return
    gone = f", {sealed.erased:,} erased with a tombstone" if sealed.erased else ""
    gone += f", {sealed.expired:,} gone by retention" if sealed.expired else ""
    compared = f"{sealed.records:,} records compared with them"
    yield f"{sealed.seals:,} seals of {sealed.partitions:,} partitions, {compared}{gone}"
    if sealed.sealed_at is not None:
        behind = f"; {sealed.unsealed:,} offsets behind the seals are not sealed" if sealed.unsealed else ""
        yield f"the last seal was made at {iso(sealed.sealed_at)}{behind}"
    if sealed.gone_before:
        yield f"{sealed.gone_before:,} offsets had gone before sealing began: nothing can be proved of them"


def summary(counts: Counts, found: dict[str, int]) -> str:
    """One line on what was verified."""
    read = f"{counts.records:,} records, {counts.requests:,} requests, {counts.answers:,} answers"
    faults = off(found)
    verdict = f"{faults:,} things are off" if faults else "everything fits"
    drifted = sum(found.values()) - faults
    beside = f"; {drifted:,} inputs drifted" if drifted else ""
    again = f"{counts.reruns:,} filtered again, {counts.rescored:,} scores made again"
    return f"{read}, {again}: {verdict}{beside}"


def off(found: Mapping[str, int]) -> int:
    """How many of the findings are faults."""
    return sum(count for kind, count in found.items() if kind not in TOLERATED)


@contextmanager
def progress(*, shown: bool) -> Iterator[tuple[Advance, Plan]]:
    """A bar on stderr, with what is left."""
    if not shown:
        yield (lambda _what, _count: None), (lambda _total: None)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("records", total=None)

        def plan(total: int) -> None:
            bar.update(task, total=total)

        yield (lambda _what, count: bar.advance(task, count)), plan
