"""``headrace audit seal``, ``audit seals`` and ``audit tombstone``: evidence that nothing was altered."""

from __future__ import annotations

import re
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import orjson
import typer

from schemas.errors import ConfigurationError
from streams.auditing.proof import holds, prove
from streams.auditing.sealed_lane import exported_view
from streams.auditing.sealing import Interval, Sealer, keep_sealing
from streams.auditing.seals import Tombstone, leaf_of, tombstone_hash
from streams.auditing.seals_pg import PostgresSeals
from streams.cli.audit_verify import progress
from streams.cli.author import author as made_by
from streams.cli.output import console, print_json, say
from streams.moments import moment
from streams.page_file import whole_file
from streams.reading import Entry, Place, Stretch, TopicReader
from streams.settings import Settings, load_settings
from streams.topics import topic_name

app = typer.Typer(no_args_is_help=True, help="Seals: what partitions held, provably.")

_PLACE = re.compile(r"(?P<topic>.+)-(?P<partition>\d{1,9})@(?P<offset>\d{1,18})")
Folder = Annotated[Path | None, typer.Option(help="The embedded stack's folder.")]
Lane = Annotated[str, typer.Option(help="Lane whose topics are sealed.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
PlaceArgument = Annotated[str, typer.Argument(metavar="TOPIC-PARTITION@OFFSET", help="Where the record lies.")]


def seal(
    follow: Annotated[bool, typer.Option("--follow", help="Go on until SIGTERM, as a service.")] = False,
    every_records: Annotated[int, typer.Option(min=1, max=1_000_000, help="Records to a seal at most.")] = 1_000,
    every_s: Annotated[float, typer.Option(min=0.1, help="With --follow: seconds until a record is sealed.")] = 60.0,
    streams: Annotated[bool, typer.Option("--streams", help="Seal deltas and chunks, too.")] = False,
    lane: Lane = "live",
    folder: Folder = None,
    json: AsJson = False,
) -> None:
    """Seal what was appended since the last seal: a Merkle root over each stretch, chained to the one before.

    One sealer works on a lane at a time; with --follow others wait for it to end. Exit code 1: another one is at work.
    """
    settings = load_settings(folder=folder)
    interval = Interval(every_records, every_s)

    def make(seals: PostgresSeals) -> Sealer:
        return Sealer(settings, seals, lane=lane, interval=interval, streams=streams, note=say)

    if follow:
        _follow(settings, make, lane)
        return
    with PostgresSeals(settings.postgres.dsn.get_secret_value()) as seals:
        if not seals.hold(lane):
            say(f"headrace: another sealer is at work on the lane {lane}; nothing was done")
            raise typer.Exit(1)
        with progress(shown=not json and console.is_terminal) as (advance, plan):
            records, made = make(seals).once(lambda count: advance("records", count), plan)
    if json:
        print_json({"lane": lane, "records": records, "seals": made})
    say(f"{records:,} records are under {made:,} new seals")


def _follow(settings: Settings, make: object, lane: str) -> None:
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    dsn = settings.postgres.dsn.get_secret_value()
    say(f"sealing the lane {lane}")
    keep_sealing(lambda: PostgresSeals(dsn), make, lane=lane, stop=stop, note=say)  # type: ignore[arg-type]


@app.command("list")
def list_(lane: Lane = "live", folder: Folder = None, json: AsJson = False) -> None:
    """The last seal of each partition."""
    settings = load_settings(folder=folder)
    with _seals(settings) as seals:
        prefix = topic_name(settings.prefix, lane, "")
        last = seals.last(sorted({topic for topic, _ in seals.places(prefix)}))
    for (topic, partition), one in sorted(last.items()):
        if json:
            print_json(exported_view(one))
        else:
            typer.echo(
                f"{topic}-{partition} {one.number + 1:,} seals to offset {one.to_offset:,}, "
                f"{one.sealed_at:%Y-%m-%d %H:%M:%S} {one.seal.hex()}"
            )


@app.command("export")
def export(
    to: Annotated[Path | None, typer.Option(metavar="FILE", help="A file of its own; stdout if left out.")] = None,
    since: Annotated[
        str | None, typer.Option(help="Seals made from then on: 2026-05-01T10:00 (UTC), or 2h, 7d ago.")
    ] = None,
    lane: Lane = "live",
    folder: Folder = None,
) -> None:
    """Print every seal of a lane, and every tombstone, as JSON lines: to be kept where nobody here can alter them."""
    settings = load_settings(folder=folder)
    first = None if since is None else moment(since, now=datetime.now(UTC))
    with _seals(settings) as seals:
        lines = _exported(seals, topic_name(settings.prefix, lane, ""), first)
        if to is None:
            for line in lines:
                sys.stdout.buffer.write(line)
            sys.stdout.flush()
            return
        written = 0
        with whole_file(to, "--to") as file:
            for written, line in enumerate(lines, start=1):  # noqa: B007
                file.write(line)
        say(f"{to} holds {written:,} seals and tombstones")


def _exported(seals: PostgresSeals, prefix: str, since: datetime | None) -> Iterator[bytes]:
    for place in seals.places(prefix):
        for one in seals.of(place):
            if since is None or one.sealed_at.astimezone(UTC) >= since:
                yield orjson.dumps(exported_view(one)) + b"\n"
    for stone in seals.tombstones():
        yield orjson.dumps(exported_view(stone)) + b"\n"


@app.command("prove")
def prove_(place: PlaceArgument, folder: Folder = None) -> None:
    """Print a proof that a record was there when its partition was sealed: the record, its path and the seal.

    It is checked with `headrace audit seals check`, without a broker or a database. It holds the record's text.
    """
    settings = load_settings(folder=folder)
    entry = _record(settings, place)
    with _seals(settings) as seals:
        covering = seals.covering((entry.topic, entry.partition), entry.offset)
    if covering is None:
        raise ConfigurationError(f"{place} is not sealed yet; run `headrace audit seal`")
    print_json(prove(entry, covering))


@app.command("check")
def check(
    file: Annotated[Path, typer.Argument(help="A proof, as `headrace audit seals prove` prints it.")],
    seal: Annotated[str | None, typer.Option(metavar="HEX", help="The hash that has to come out.")] = None,
    json: AsJson = False,
) -> None:
    """Check a record's proof, and print the seal that it leads to. Exit code 1: it leads to another one.

    The proof shows that the record belongs to that seal; that the seal is ours is shown by an export of earlier.
    """
    try:
        proof = orjson.loads(file.read_bytes())
    except (OSError, ValueError):
        raise ConfigurationError(f"{file} can't be read as JSON; write it with `headrace audit seals prove`") from None
    found = holds(proof)
    if json:
        print_json({"seal": found, "matches": None if seal is None else seal == found})
    else:
        typer.echo(found)
    if seal is not None and seal != found:
        say("headrace: the record is under another seal than the one that was named")
        raise typer.Exit(1)


def tombstone(
    places: Annotated[list[str], typer.Argument(metavar="TOPIC-PARTITION@OFFSET…", help="Where the records lie.")],
    reason: Annotated[str, typer.Option(help="Why they are to be removed; kept with the tombstone.")],
    folder: Folder = None,
    json: AsJson = False,
) -> None:
    """Note that records are going to be removed on purpose, before they are: `verify` then calls them erased, not lost.

    The tombstone holds the hash that was sealed, who did it and why. It removes nothing itself.
    """
    if not reason.strip():
        raise ConfigurationError("--reason is empty; say why the records are to be removed")
    settings = load_settings(folder=folder)
    entries = [_record(settings, place) for place in places]
    with _seals(settings) as seals:
        for entry in entries:
            _check_sealed(seals, entry)
        moment = seals.now()

        def make(number: int, previous: bytes) -> list[Tombstone]:
            return _stones(entries, number, previous, moment, reason)

        made = seals.bury(make)
    for one in made:
        if json:
            print_json(exported_view(one))
    say(f"{len(made):,} tombstones were written; the records may be removed now")


def _stones(entries: Sequence[Entry], number: int, previous: bytes, now: datetime, reason: str) -> list[Tombstone]:
    stones: list[Tombstone] = []
    for at, entry in enumerate(entries):
        fields = {
            "number": number + at,
            "topic": entry.topic,
            "partition": entry.partition,
            "offset": entry.offset,
            "leaf": leaf_of(entry),
            "request_id": (entry.key or b"").decode("utf-8", "replace"),
            "reason": reason,
            "author": made_by(),
            "erased_at": now,
            "previous": stones[-1].hash if stones else previous,
        }
        blank = Tombstone(**fields, hash=b"")  # type: ignore[arg-type]
        stones.append(Tombstone(**fields, hash=tombstone_hash(blank)))  # type: ignore[arg-type]
    return stones


def _check_sealed(seals: PostgresSeals, entry: Entry) -> None:
    place = f"{entry.topic}-{entry.partition}@{entry.offset}"
    covering = seals.covering((entry.topic, entry.partition), entry.offset)
    if covering is None:
        raise ConfigurationError(f"{place} is not sealed yet; run `headrace audit seal` first")
    if covering.hashes().get(entry.offset) != leaf_of(entry):
        raise ConfigurationError(f"{place} is not what was sealed; see `headrace audit verify` before it goes")


def _record(settings: Settings, text: str) -> Entry:
    match = _PLACE.fullmatch(text)
    if match is None:
        raise ConfigurationError(f"{text!r} is no place of a record; write TOPIC-PARTITION@OFFSET, live.answers-0@17")
    place: Place = (match["topic"], int(match["partition"]))
    offset = int(match["offset"])
    with TopicReader(settings) as reader:
        if place[1] >= reader.counts([place[0]])[place[0]]:
            raise ConfigurationError(f"{place[0]} has no partition {place[1]}")
        log = reader.ends([place])[place]
        found = list(reader.read({place: Stretch(offset, offset + 1)})) if log.start <= offset < log.end else []
    if not found:
        raise ConfigurationError(f"{text} is not on the broker: there are offsets {log.start} to {log.end - 1}")
    return found[0]


def _seals(settings: Settings) -> PostgresSeals:
    return PostgresSeals(settings.postgres.dsn.get_secret_value())
