"""Publishing what files gave, taking back parts that a file no longer has, and waiting until the index stage has it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import psycopg

from schemas.codec import Codec
from schemas.errors import DependencyDownError, OversizedError
from schemas.record import Record
from schemas.records import Document
from streams.loading import LoadedFile, Owner, Problem, build_removal
from streams.loading.parts import PART_OF
from streams.outputs import check_size
from streams.publish import Publisher
from streams.settings import Settings

POLL_S = 0.25
CONNECT_TIMEOUT_S = 5
_BATCH = 500
# How many parts beyond a text's last are looked for at a time.
_LOOK_AHEAD = 16
T = TypeVar("T")
_AGAIN = "run the command again: what is there already is not indexed twice"


@dataclass(frozen=True, slots=True, kw_only=True)
class Awaited:
    """What the index has to say of a document before it counts as there, or as gone: little, to hold thousands."""

    tenant: str
    namespace: str
    document_id: str
    digest: str
    deleted: bool = False

    @classmethod
    def of(cls, document: Document) -> Awaited:
        """What to wait for after publishing the document."""
        return cls(
            tenant=document.meta.tenant,
            namespace=document.namespace,
            document_id=document.document_id,
            digest=document.digest,
            deleted=document.deleted,
        )


@dataclass(slots=True, kw_only=True)
class FileReport:
    """What came of one file or page."""

    file: str
    documents: int = 0
    whole: bool = False
    # What the broker acknowledged: documents, and removals of parts that the file no longer has.
    sent: list[Awaited] = field(default_factory=list)
    removed: list[Awaited] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    # What is not in the index yet; None where nobody waited.
    missing: list[Awaited] | None = None

    @property
    def status(self) -> str:
        """``failed`` (nothing was published), ``partial``, ``not_indexed`` (in time), ``indexed`` or ``published``."""
        if self.problems:
            return "partial" if self.sent else "failed"
        if self.missing is None:
            return "published"
        return "not_indexed" if self.missing else "indexed"

    def note(self, what: str, todo: str) -> None:
        """Add a problem of the whole file."""
        self.problems.append(Problem(file=self.file, what=what, todo=todo))


class Ingestion:
    """Publishes files one after the other. Nothing of a file is published unless all of it was read."""

    def __init__(self, settings: Settings, codec: Codec, owner: Owner) -> None:
        self._settings, self._codec, self._owner = settings, codec, owner
        self._publisher = Publisher(settings, codec, lane=owner.lane)
        self.reports: dict[str, FileReport] = {}

    def publish(self, files: Iterable[LoadedFile], *, advance: Callable[[str], None] = lambda _: None) -> None:
        """Publish the files, then remove the parts that they no longer have.

        Blocks on the broker, on whatever ``files`` reads and, for texts, on Postgres. ``advance`` hears of each file
        that was handed over.
        """
        for loaded in files:
            report = self.reports.setdefault(loaded.path, FileReport(file=loaded.path, whole=loaded.whole))
            report.documents += len(loaded.documents)
            report.problems += loaded.problems
            self._publish(loaded, report)
            advance(loaded.path)
        self._flush()
        self._remove_surplus()

    def wait(self, timeout_s: float, *, advance: Callable[[int], None] = lambda _: None) -> None:
        """Wait until the index has what was published. Blocks on Postgres; raises ``DependencyDownError``."""
        awaited = [each for report in self.reports.values() for each in (*report.sent, *report.removed)]
        left = set(wait_until_indexed(self._settings, awaited, timeout_s=timeout_s, advance=advance))
        for report in self.reports.values():
            report.missing = [each for each in (*report.sent, *report.removed) if each in left]

    def _publish(self, loaded: LoadedFile, report: FileReport) -> None:
        try:
            if len(loaded.documents) > 1 and loaded.whole:
                # Before the first part goes: a later one that is refused would leave the text in two versions.
                for document in loaded.documents:
                    check_size(self._codec.encode(document), type(document).__name__)
            for document in loaded.documents:
                self._send(document, report, report.sent)
        except OversizedError as error:
            report.note(f"was not published: {error}", "shorten its title and labels, or split it")

    def _send(self, document: Document, report: FileReport, sent: list[Awaited]) -> None:
        def settled(record: Record, reason: str | None) -> None:
            assert isinstance(record, Document)
            if reason is None:
                sent.append(Awaited.of(record))
            else:
                report.note(f"document {record.document_id!r} was not published: {reason}", _AGAIN)

        try:
            self._publisher.publish("documents", document, document.document_id, delivered=settled)
        except OversizedError as error:
            if report.whole:
                raise
            report.note(f"document {document.document_id!r} was not published: {error}", "shorten or split it")

    def _flush(self) -> None:
        try:
            self._publisher.flush()
        except DependencyDownError as error:
            for report in self.reports.values():
                left = report.documents - len(report.sent)
                if left and not report.problems:
                    report.note(f"{left} of {report.documents} documents are not acknowledged: {error}", _AGAIN)

    def _remove_surplus(self) -> None:
        """Remove parts of earlier, longer versions, of the files whose new version is there as a whole."""
        complete = {name: report for name, report in self.reports.items() if report.whole and not report.problems}
        try:
            surplus = list(self._surplus(complete))
        except psycopg.OperationalError:
            # What was published stays published; the command ends with exit code 1 all the same.
            for report in complete.values():
                report.note("is published, but Postgres was not asked for parts of longer versions before", _AGAIN)
            return
        for name, document_id in surplus:
            report = complete[name]
            cause = "\n".join(sorted(each.digest for each in report.sent))
            self._send(build_removal(self._owner, document_id, cause), report, report.removed)
        if surplus:
            self._flush()

    def _surplus(self, complete: dict[str, FileReport]) -> Iterator[tuple[str, str]]:
        """Names of texts, and ids of parts beyond their last one that the index still has."""
        dsn = self._settings.postgres.dsn.get_secret_value()
        for names in _batches(list(complete)):
            with psycopg.connect(dsn, autocommit=True, connect_timeout=CONNECT_TIMEOUT_S) as connection:
                first = {name: len(complete[name].sent) + 1 for name in names}
                while first:
                    found = self._parts(connection, first)
                    yield from found
                    # A gap that an earlier, broken off removal left is no end.
                    first = {name: first[name] + _LOOK_AHEAD for name in {name for name, _ in found}}

    def _parts(self, connection: psycopg.Connection, first: Mapping[str, int]) -> list[tuple[str, str]]:
        """Which of the parts from ``first`` on are there: each is looked up by the primary key."""
        asked = [(name, f"{name}#{number + step}") for name, number in first.items() for step in range(_LOOK_AHEAD)]
        rows = connection.execute(
            "SELECT w.name, w.document_id FROM unnest(%s::text[], %s::text[]) AS w(name, document_id)"
            " WHERE EXISTS (SELECT FROM passages p WHERE p.tenant = %s AND p.namespace = %s"
            " AND p.document_id = w.document_id AND p.metadata ->> %s = w.name)",
            ([n for n, _ in asked], [i for _, i in asked], self._owner.tenant, self._owner.namespace, PART_OF),
        )
        return [(name, document_id) for name, document_id in rows]


def wait_until_indexed(
    settings: Settings,
    awaited: Sequence[Awaited],
    *,
    timeout_s: float,
    advance: Callable[[int], None] = lambda _: None,
) -> list[Awaited]:
    """Poll Postgres until the index holds these documents as they were published, or the time is over.

    Returns those that are still missing. Raises ``DependencyDownError`` when Postgres is away at the end.
    """
    deadline = time.monotonic() + timeout_s
    missing = list(awaited)
    while missing:
        left = len(missing)
        try:
            missing = _missing(settings, missing)
        except psycopg.OperationalError as error:
            if time.monotonic() >= deadline:
                raise DependencyDownError("postgres", str(error).strip().splitlines()[0]) from None
        advance(left - len(missing))
        if not missing or time.monotonic() >= deadline:
            break
        time.sleep(POLL_S)
    return missing


def _missing(settings: Settings, awaited: Sequence[Awaited]) -> list[Awaited]:
    dsn = settings.postgres.dsn.get_secret_value()
    there: dict[tuple[str, str, str], str] = {}
    with psycopg.connect(dsn, autocommit=True, connect_timeout=CONNECT_TIMEOUT_S) as connection:
        for batch in _batches(awaited):
            rows = connection.execute(
                "SELECT d.tenant, d.namespace, d.document_id, d.digest FROM documents d"
                " JOIN unnest(%s::text[], %s::text[], %s::text[]) AS w(tenant, namespace, document_id)"
                " USING (tenant, namespace, document_id) WHERE NOT d.deleted",
                ([a.tenant for a in batch], [a.namespace for a in batch], [a.document_id for a in batch]),
            )
            there |= {(tenant, namespace, document_id): digest for tenant, namespace, document_id, digest in rows}
    wanted = ((a, None if a.deleted else a.digest) for a in awaited)
    return [a for a, digest in wanted if there.get((a.tenant, a.namespace, a.document_id)) != digest]


def _batches(items: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), _BATCH):
        yield items[start : start + _BATCH]
