"""``headrace export`` and ``headrace import``: recorded events as files, and back into a lane."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from schemas.errors import ConfigurationError
from streams import security
from streams.cli.audit_verify import progress
from streams.cli.output import console, print_json, say
from streams.exporting import prompts
from streams.exporting.erased import add_exported, erased_here
from streams.exporting.export import DEFAULT_KINDS, RECORDS, Exporter, Wanted
from streams.exporting.formats import FORMATS
from streams.exporting.load import Loader
from streams.exporting.manifest import Manifest, check_files, read_manifest
from streams.lineage.emitter import open_lineage
from streams.lineage.moving import exported, exporting, imported, importing, telling
from streams.lineage.topics import Topics
from streams.moments import moment
from streams.opened import iso
from streams.settings import load_settings

Folder = Annotated[Path | None, typer.Option(help="The embedded stack's folder.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def export(
    to: Annotated[Path, typer.Option(metavar="DIR", help="A folder that is empty or not there yet.")],
    since: Annotated[str | None, typer.Option(help="Appended from then on (2026-05-01, UTC; or 7d ago).")] = None,
    until: Annotated[str | None, typer.Option(help="And before this time; now if left out.")] = None,
    kind: Annotated[
        list[str] | None,
        typer.Option(
            help=f"Kinds of events; all but deltas and chunks: {', '.join(RECORDS)}. prompts: every prompt there is."
        ),
    ] = None,
    format_: Annotated[str, typer.Option("--format", help="parquet, jsonl or avro.")] = "parquet",
    lane: Annotated[str, typer.Option(help="Lane to export.")] = "live",
    folder: Folder = None,
    json: AsJson = False,
) -> None:
    """Write recorded events into files, with a manifest of digests: the folder is there whole or not at all.

    A folder for each kind, a file for every 100,000 records. Each row says where the record lay, and then what it
    says. The prompts that the events name are with them. Texts are in it, and may hold personal data.
    """
    if format_ not in FORMATS:
        raise ConfigurationError(f"--format: {format_!r} is none of {', '.join(FORMATS)}")
    unknown = [one for one in kind or () if one not in (*RECORDS, prompts.KIND)]
    if unknown:
        raise ConfigurationError(f"--kind: {unknown[0]!r} is none of {', '.join(RECORDS)}, {prompts.KIND}")
    now = datetime.now(UTC)
    start, end = moment(since, now=now) if since else None, moment(until, now=now) if until else None
    if start is not None and start >= (end or now):
        raise ConfigurationError(f"--since: {iso(start)} is not before {iso(end or now)}; nothing can lie between")
    settings = load_settings(folder=folder)
    codec = asyncio.run(security.codec(settings.registry))
    kinds = tuple(one for one in dict.fromkeys(kind) if one in RECORDS) if kind else DEFAULT_KINDS
    every = prompts.KIND in (kind or ())
    wanted = Wanted(lane=lane, kinds=kinds, since=start, until=end, format=format_, all_prompts=every)
    topics, lineage = Topics(settings, codec), open_lineage(settings, note=say)
    begun = exporting(settings, topics, lane, kinds, since=start, until=end)
    with (
        telling(lineage, begun) as done,
        progress(shown=not json and console.is_terminal) as (advance, plan),
    ):
        exporter = Exporter(settings, codec, wanted, advance=lambda count: advance("records", count), plan=plan)
        manifest = exporter.run(to)
        done(exported(begun, topics, manifest, to, settings))
    if json:
        more = {"prompts_missing": list(exporter.missing), "erased": exporter.erased}
        print_json({"to": str(to), **asdict(manifest), "digest": manifest.digest, **more})
    _explain_export(manifest, exporter, to)


def _explain_export(manifest: Manifest, exporter: Exporter, to: Path) -> None:
    rejected = sum(manifest.rejected.values())
    unread = f"; {rejected:,} could not be read and are in *.rejected.jsonl" if rejected else ""
    gone = f"; {exporter.erased:,} were erased and are left out" if exporter.erased else ""
    say(f"{sum(manifest.records.values()):,} records in {len(manifest.parts):,} files in {to}{unread}{gone}")
    if exporter.missing:
        say(
            f"headrace: events name prompts that are not here: {', '.join(exporter.missing)}; "
            "a replay elsewhere will need them"
        )


def import_(
    export: Annotated[Path, typer.Argument(metavar="DIR", help="The folder of an export.")],
    lane: Annotated[str, typer.Option(help="Lane to load it into; its topics are created.")],
    yes: Annotated[bool, typer.Option("--yes", help="Load into live without being asked.")] = False,
    without_prompts: Annotated[bool, typer.Option("--without-prompts", help="Load the events alone.")] = False,
    erased: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Tombstones of the other cluster, by headrace audit seals export."),
    ] = None,
    folder: Folder = None,
    json: AsJson = False,
) -> None:
    """Load an export into a lane, for a replay: every record once, however often this is repeated.

    Digests are checked before anything is sent. Keys, headers and event ids stay as they were; the broker's times and
    offsets are new. Prompts are stored where they are not there; a version that has another text here ends the import
    before anything is loaded. Left out are dead letters, and what was erased or removed since.
    """
    manifest = read_manifest(export)
    if lane == "live" and not yes:
        raise ConfigurationError(
            "--lane: live is production, and its workers would take these records for new ones; "
            "name a lane of its own, or say --yes"
        )
    settings = load_settings(folder=folder)
    codec = asyncio.run(security.codec(settings.registry))
    stones = erased_here(settings)
    if erased is not None:
        add_exported(stones, erased)
    topics, lineage = Topics(settings, codec), open_lineage(settings, note=say)
    begun = importing(settings, topics, lane, manifest, export)
    with (
        telling(lineage, begun) as tell,
        progress(shown=not json and console.is_terminal) as (advance, plan),
    ):
        plan(sum(part.records for part in manifest.parts))
        for _ in check_files(export, manifest):
            pass
        loader = Loader(settings, codec, lane=lane, advance=lambda count: advance("records", count), erased=stones)
        done = loader.run(export, manifest, with_prompts=not without_prompts)
        tell(imported(begun, asdict(done)))
    if json:
        print_json({"lane": lane, "digest": manifest.digest, **asdict(done)})
    there = f", {done.there:,} were there already" if done.there else ""
    left = f", {done.left_out:,} dead letters left out" if done.left_out else ""
    gone = f", {done.erased:,} that were erased or removed left out" if done.erased else ""
    new = f", {done.prompts:,} prompts stored" if done.prompts else ""
    say(f"{done.loaded:,} records loaded into the lane {lane}{there}{left}{gone}{new}")
