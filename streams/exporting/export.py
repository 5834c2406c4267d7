"""Writes a stretch of a lane's topics into a folder: whole, with a manifest, or not at all."""

from __future__ import annotations

import shutil
import tempfile
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import orjson

from schemas.codec import Codec
from schemas.errors import ConfigurationError, UndecodableError
from schemas.record import Record
from schemas.records import (
    Admitted,
    Alert,
    Answer,
    Chunk,
    Completion,
    Control,
    Cost,
    DeadLetter,
    Delta,
    Document,
    Enrichment,
    Evaluation,
    Feedback,
    Request,
)
from streams.claims import BlockingClaims
from streams.exporting import prompts
from streams.exporting.erased import Erased, erased_here
from streams.exporting.formats import PORTION, Row, Writer, suffix, writer_of
from streams.exporting.manifest import Manifest, Part, sha256_of
from streams.opened import Opened, Opener, iso
from streams.reading import Entry, Place, Stretch, TopicReader
from streams.removals import removal_of
from streams.settings import Settings
from streams.topics import input_topics, topic_name

RECORDS: Mapping[str, type[Record]] = {
    "requests": Request,
    "admitted": Admitted,
    "enrichments.high": Enrichment,
    "enrichments.normal": Enrichment,
    "enrichments.low": Enrichment,
    "completions": Completion,
    "deltas": Delta,
    "chunks": Chunk,
    "answers": Answer,
    "evaluations": Evaluation,
    "feedback": Feedback,
    "costs": Cost,
    "documents": Document,
    "control": Control,
    "alerts": Alert,
    "dead-letters": DeadLetter,
}
# A stream's pieces are in the answer again.
DEFAULT_KINDS = tuple(kind for kind in RECORDS if kind not in ("deltas", "chunks"))
# Records to a file.
ROLL = 100_000

Advance = Callable[[int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What to export. ``until`` None: to the present ends.

    ``all_prompts``: every prompt that there is, and not only those that the events name.
    """

    lane: str
    kinds: tuple[str, ...]
    since: datetime | None
    until: datetime | None
    format: str
    all_prompts: bool = False


class Exporter:
    """Exports once. Blocks on broker, registry and, for texts that lie there, Postgres. Holds 1,000 records."""

    def __init__(self, settings: Settings, codec: Codec, wanted: Wanted, *, advance: Advance, plan: Advance) -> None:
        self._settings, self._wanted, self._advance, self._plan = settings, wanted, advance, plan
        claims = BlockingClaims(settings, codec)
        self._opener = Opener(codec, prefix=settings.prefix, lane=wanted.lane, claims=claims, complete=True)
        self._named: dict[tuple[str, int], str] = {}
        self._stones = Erased()
        # Prompts that events name and that are not here; records that were left out because they were erased.
        self.missing: Sequence[str] = ()
        self.erased = 0

    def run(self, folder: Path) -> Manifest:
        """Write the export into ``folder``, which must be empty or not there.

        Raises ``ConfigurationError`` for that, and for a lane without topics; nothing is left then.
        """
        with whole(folder) as beside, TopicReader(self._settings) as reader:
            stretches = {kind: self._stretches(reader, kind) for kind in self._wanted.kinds}
            if not any(stretches.values()) and not self._wanted.all_prompts:
                raise ConfigurationError(f"the lane {self._wanted.lane} has none of these topics; name another")
            self._stones = erased_here(self._settings)
            self._plan(sum(one.end - one.start for found in stretches.values() for one in found.values()))
            written = {kind: self._kind(reader, kind, found, beside) for kind, found in stretches.items()}
            if part := self._prompts(beside):
                written[prompts.KIND] = ([part], 0)
            manifest = self._manifest(stretches, written)
            manifest.write(beside)
        return manifest

    def _stretches(self, reader: TopicReader, kind: str) -> dict[Place, Stretch]:
        settings, wanted = self._settings, self._wanted
        names = input_topics(settings, wanted.lane, kind)
        if kind != "requests":
            names = (topic_name(settings.prefix, wanted.lane, kind),)
        places = [(name, number) for name, count in reader.existing(names).items() for number in range(count)]
        # What was live in a stretch may have been said long before it.
        starts = reader.offsets_at(places, wanted.since) if wanted.since and kind != "control" else {}
        ends = reader.offsets_at(places, wanted.until) if wanted.until else {}
        return {
            place: Stretch(start := max(log.start, starts.get(place, log.start)), max(start, ends.get(place, log.end)))
            for place, log in reader.ends(places).items()
        }

    def _kind(
        self, reader: TopicReader, kind: str, stretches: dict[Place, Stretch], folder: Path
    ) -> tuple[list[Part], int]:
        files = _Files(kind, self._wanted.format, folder)
        try:
            for entry in reader.read(stretches):
                if self._stones.is_entry(entry):
                    self.erased += 1
                else:
                    self._one(kind, entry, files)
                self._advance(1)
        finally:
            files.close()
        return files.parts(), files.rejected

    def _one(self, kind: str, entry: Entry, files: _Files) -> None:
        opened = self._opener.open(entry)
        record: Record | None = opened.letter or opened.record
        if kind == "documents" and entry.value is None:
            with suppress(UndecodableError):
                record = self._removal(entry)
        if not isinstance(record, RECORDS[kind]):
            files.reject(opened)
            return
        for key, digest in prompts.named_by(record):
            self._named[key] = digest or self._named.get(key, "")
        files.add((_place(entry), record))

    def _removal(self, entry: Entry) -> Document:
        headers = [(name, value) for name, value in entry.headers if value is not None]
        return removal_of(entry.key, headers, partition=entry.partition, offset=entry.offset, lane=self._wanted.lane)

    def _prompts(self, folder: Path) -> Part | None:
        """The file of the prompts that were named; ``None`` where there are none."""
        found, self.missing = prompts.stored_prompts(self._settings, self._named, every=self._wanted.all_prompts)
        if not found:
            return None
        file = prompts.write_prompts(folder, found)
        size = file.stat().st_size
        return Part(kind=prompts.KIND, path=prompts.FILE, records=len(found), bytes=size, sha256=sha256_of(file))

    def _manifest(
        self,
        stretches: Mapping[str, Mapping[Place, Stretch]],
        written: Mapping[str, tuple[Sequence[Part], int]],
    ) -> Manifest:
        wanted = self._wanted
        return Manifest(
            lane=wanted.lane,
            format=wanted.format,
            since=iso(wanted.since) if wanted.since else None,
            until=iso(wanted.until) if wanted.until else None,
            exported_at=iso(datetime.now(UTC)),
            records={kind: sum(part.records for part in parts) for kind, (parts, _) in written.items()},
            rejected={kind: rejected for kind, (_, rejected) in written.items() if rejected},
            stretches={
                f"{topic}-{number}": (one.start, one.end)
                for found in stretches.values()
                for (topic, number), one in found.items()
            },
            parts=tuple(part for parts, _ in written.values() for part in parts),
        )


class _Files:
    """The files of one kind: a new one every 100,000 records, and one of what could not be read."""

    def __init__(self, kind: str, name: str, folder: Path) -> None:
        self._kind, self._format, self._folder = kind, name, folder
        self._rows: list[Row] = []
        self._writer: Writer | None = None
        self._counts: list[int] = []
        self.rejected = 0

    def add(self, row: Row) -> None:
        self._rows.append(row)
        if len(self._rows) >= PORTION:
            self._write()

    def reject(self, opened: Opened) -> None:
        entry = opened.entry
        self.rejected += 1
        line = {
            "topic": entry.topic,
            "partition": entry.partition,
            "offset": entry.offset,
            "time": iso(entry.time),
            "key": _base64(entry.key),
            "headers": [[name, _base64(value)] for name, value in entry.headers],
            "value": _base64(entry.value),
            "fault": opened.fault or f"it is a {opened.name}, which does not belong on this topic",
        }
        with (self._folder / f"{self._kind}.rejected.jsonl").open("ab") as file:
            file.write(orjson.dumps(line) + b"\n")

    def close(self) -> None:
        if self._rows:
            self._write()
        self._end()

    def parts(self) -> list[Part]:
        """What was written; reads every file once more, for its digest."""
        return [self._part(number, count) for number, count in enumerate(self._counts)]

    def _write(self) -> None:
        if self._writer is None or self._counts[-1] >= ROLL:
            self._end()
            self._counts.append(0)
            self._folder_of_kind()
            self._writer = writer_of(
                self._format, RECORDS[self._kind], self._folder / self._path(len(self._counts) - 1)
            )
        self._writer.write(self._rows)
        self._counts[-1] += len(self._rows)
        self._rows = []

    def _end(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _folder_of_kind(self) -> None:
        (self._folder / self._kind).mkdir(exist_ok=True)

    def _path(self, number: int) -> str:
        return f"{self._kind}/part-{number:05d}{suffix(self._format)}"

    def _part(self, number: int, count: int) -> Part:
        path = self._path(number)
        file = self._folder / path
        return Part(kind=self._kind, path=path, records=count, bytes=file.stat().st_size, sha256=sha256_of(file))


@contextmanager
def whole(folder: Path) -> Iterator[Path]:
    """A folder beside this one, which takes its place when the block ends well and is removed when it does not."""
    target = folder.absolute()
    try:
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise ConfigurationError(f"--to: {folder} is there already and not empty; name another folder")
        target.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent))
    except OSError as error:
        raise ConfigurationError(f"--to: {folder} can't be written: {error.strerror}") from None
    try:
        yield beside
        for path in (beside, *beside.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
        # Over an empty folder this is one step.
        beside.replace(target)
    except OSError as error:
        raise ConfigurationError(f"--to: {folder} can't be written: {error.strerror}") from None
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _place(entry: Entry) -> dict[str, object]:
    return {
        "_topic": entry.topic,
        "_partition": entry.partition,
        "_offset": entry.offset,
        "_time": entry.time,
        "_key": entry.key,
        "_headers": entry.headers,
    }


def _base64(data: bytes | None) -> str | None:
    return None if data is None else b64encode(data).decode("ascii")
