"""``headrace ingest``: publish files, folders and web pages as documents, and wait for the index if asked to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from schemas.codec import Codec
from streams import security
from streams.cli.output import console, print_json, say
from streams.ingestion import FileReport, Ingestion
from streams.lineage.emitter import open_lineage
from streams.lineage.moving import ingested, ingesting, telling
from streams.lineage.topics import Topics
from streams.loading import Bounds, Found, LoadedFile, Owner, Problem, Selection, find_sources, load_sources
from streams.loading.kinds import SUPPORTED
from streams.reading import TopicReader
from streams.settings import Settings, load_settings
from streams.topics import topic_name

MOST_NAMED = 20
MEGABYTE = 1_000_000


def ingest(
    given: Annotated[
        list[str],
        typer.Argument(metavar="PATH|URL...", help="Files, folders, which are read through, and http(s) addresses."),
    ],
    namespace: Annotated[str, typer.Option(min=1, help="Namespace to search them under.")] = "default",
    tenant: Annotated[str, typer.Option(min=1, help="Tenant that they belong to.")] = "default",
    include: Annotated[
        list[str] | None, typer.Option(help="In folders, take only files that match, e.g. *.md.")
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option(help="In folders, leave out files and folders that match.")
    ] = None,
    hidden: Annotated[bool, typer.Option("--hidden", help="In folders, take hidden files as well.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until the index holds them.")] = False,
    timeout: Annotated[float, typer.Option(min=0.1, help="How long to wait at most, in seconds.")] = 600.0,
    max_mb: Annotated[float, typer.Option(min=0.001, help="Largest file or page, in megabytes.")] = 100.0,
    file_timeout: Annotated[float, typer.Option(min=0.1, help="Longest time for a file or page, in seconds.")] = 120.0,
    jobs: Annotated[int, typer.Option(min=1, max=64, help="Files that are converted at a time.")] = 2,
    allow_private: Annotated[
        bool, typer.Option("--allow-private", help="Follow redirects from public pages into private networks.")
    ] = False,
    lane: Annotated[str, typer.Option(help="Lane to publish in.")] = "live",
    folder: Annotated[Path | None, typer.Option(help="The embedded stack's folder.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object a file.")] = False,
) -> None:
    """Publish files, folders and web pages as documents.

    Reads txt, md, jsonl, html, pdf, docx and csv. What can't be read is named, the rest goes on, and the exit code is
    1. Nothing of a file is published unless all of it could be read.
    """
    settings = load_settings(folder=folder)
    selection = Selection(include=include or (), exclude=exclude or (), hidden=hidden)
    found = find_sources(given, selection)
    bounds = Bounds(max_bytes=int(max_mb * MEGABYTE), timeout_s=file_timeout, jobs=jobs, allow_private=allow_private)
    owner = Owner(tenant=tenant, namespace=namespace, lane=lane)
    codec = _connect(settings, lane)
    ingestion = Ingestion(settings, codec, owner)
    begun = ingesting(settings, Topics(settings, codec), lane, given)
    with telling(open_lineage(settings, note=say), begun) as done:
        _publish(ingestion, found, owner, bounds)
        if not found.sources and not found.problems:
            ingestion.publish([_nothing(given, found)])
        if wait:
            _wait(ingestion, timeout)
        reports = list(ingestion.reports.values())
        done(
            ingested(
                begun,
                published=sum(len(report.sent) for report in reports),
                removed=sum(len(report.removed) for report in reports),
                problems=sum(len(report.problems) for report in reports),
            )
        )
    _explain(reports)
    if json:
        for report in reports:
            print_json(_describe(report))
    else:
        say(_summary(reports, owner, found, waited=wait))
    if any(report.problems or report.missing for report in reports):
        raise typer.Exit(1)


def _publish(ingestion: Ingestion, found: Found, owner: Owner, bounds: Bounds) -> None:
    sizes = {source.name: max(1, source.size) for source in found.sources}
    loaded = load_sources(found.sources, owner, bounds)
    problems = (LoadedFile(path=problem.file, problems=(problem,)) for problem in found.problems)
    with _bar("publishing", sum(sizes.values()), "bytes") as advance:
        ingestion.publish(_all(problems, loaded), advance=lambda name: advance(sizes.get(name, 0)))


def _all(*several: Iterator[LoadedFile]) -> Iterator[LoadedFile]:
    for one in several:
        yield from one


def _wait(ingestion: Ingestion, timeout_s: float) -> None:
    total = sum(len(report.sent) + len(report.removed) for report in ingestion.reports.values())
    with _bar("indexing", total, "documents") as advance:
        ingestion.wait(timeout_s, advance=advance)
    missing = [each for report in ingestion.reports.values() for each in report.missing or ()]
    if missing:
        say(
            f"headrace: {len(missing)} documents are not indexed after {timeout_s:g} s, e.g."
            f" {missing[0].document_id!r}; see headrace status and headrace doctor"
        )


def _explain(reports: list[FileReport]) -> None:
    problems = [problem for report in reports for problem in report.problems]
    for problem in problems[:MOST_NAMED]:
        say(f"headrace: {problem}")
    if len(problems) > MOST_NAMED:
        say(f"headrace: and {len(problems) - MOST_NAMED} more; --json lists all of them")


def _describe(report: FileReport) -> dict[str, Any]:
    missing = report.missing
    return {
        "file": report.file,
        "status": report.status,
        "documents": report.documents,
        "published": len(report.sent),
        "removed": len(report.removed),
        "indexed": None if missing is None else len(report.sent) - sum(not each.deleted for each in missing),
        "not_indexed": [each.document_id for each in missing or ()],
        "problems": [{"line": p.line, "what": p.what, "todo": p.todo} for p in report.problems],
    }


def _summary(reports: list[FileReport], owner: Owner, found: Found, *, waited: bool) -> str:
    sent, removed = sum(len(report.sent) for report in reports), sum(len(report.removed) for report in reports)
    done = f"published {_count(sent, 'document')} from {_count(len(reports), 'file')}"
    done += f" to {owner.tenant}/{owner.namespace}"
    if removed:
        done += f", removed {_count(removed, 'part')} that they no longer have"
    if waited:
        done += f", {sent + removed - sum(len(report.missing or ()) for report in reports)} indexed"
    if found.passed_over:
        done += f"; {_count(found.passed_over, 'file')} of other kinds passed over"
    problems = sum(len(report.problems) for report in reports)
    return done + (f"; {_count(problems, 'problem')}" if problems else "")


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _nothing(given: list[str], found: Found) -> LoadedFile:
    named = ", ".join(given)
    other = f" ({_count(found.passed_over, 'file')} of other kinds)" if found.passed_over else ""
    problem = Problem(file=named, what=f"holds no file that is read{other}", todo=f"give one of {', '.join(SUPPORTED)}")
    return LoadedFile(path=named, problems=(problem,))


def _connect(settings: Settings, lane: str) -> Codec:
    """A codec, once the documents' topic is known to be there."""
    with TopicReader(settings) as reader:
        reader.counts([topic_name(settings.prefix, lane, "documents")])
    return asyncio.run(security.codec(settings.registry))


@contextmanager
def _bar(what: str, total: float, unit: str) -> Iterator[Callable[[float], None]]:
    """A progress bar with rate and time left where stderr is a terminal; else nothing."""
    columns = (
        TextColumn("{task.description:<10}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    options: dict[str, Any] = {"transient": True, "redirect_stdout": False, "disable": not console.is_terminal}
    with Progress(*columns, console=console, **options) as progress:
        task = progress.add_task(what, total=total, rate="")

        def advance(step: float) -> None:
            progress.advance(task, step)
            speed = progress.tasks[0].speed
            progress.update(task, rate=f"{speed:,.0f} {unit}/s" if speed else "")

        yield advance
