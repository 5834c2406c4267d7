"""``headrace ingest``: publish files as documents, and wait for the index if asked to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from schemas.codec import Codec
from schemas.records import Document
from streams import security
from streams.cli.output import console, print_json, say
from streams.ingestion import Awaited, publish_documents, wait_until_indexed
from streams.loading import LoadedFile, Owner, Problem, find_files, load
from streams.reading import TopicReader
from streams.settings import Settings, load_settings
from streams.topics import topic_name

MOST_NAMED = 20


def ingest(
    paths: Annotated[list[Path], typer.Argument(help="Files (.txt, .md, .jsonl) and folders, which are read through.")],
    namespace: Annotated[str, typer.Option(min=1, help="Namespace to search them under.")] = "default",
    tenant: Annotated[str, typer.Option(min=1, help="Tenant that they belong to.")] = "default",
    wait: Annotated[bool, typer.Option("--wait", help="Wait until the index holds them.")] = False,
    timeout: Annotated[float, typer.Option(min=0.1, help="How long to wait at most, in seconds.")] = 600.0,
    lane: Annotated[str, typer.Option(help="Lane to publish in.")] = "live",
    folder: Annotated[Path | None, typer.Option(help="The embedded stack's folder.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Publish files as documents. What can't be read is named, the rest goes on, and the exit code is 1."""
    settings = load_settings(folder=folder)
    codec = _connect(settings, lane)
    run = _Run(settings, codec, Owner(tenant=tenant, namespace=namespace, lane=lane))
    run.publish(paths)
    if wait:
        run.wait(timeout)
    for problem in run.problems[:MOST_NAMED]:
        say(f"headrace: {problem}")
    if len(run.problems) > MOST_NAMED:
        say(f"headrace: and {len(run.problems) - MOST_NAMED} more; --json lists all of them")
    if json:
        print_json(run.report())
    else:
        say(run.summary())
    if run.problems or run.missing:
        raise typer.Exit(1)


class _Run:
    """One call of the command: what was read, published and indexed."""

    def __init__(self, settings: Settings, codec: Codec, owner: Owner) -> None:
        self._settings, self._codec, self._owner = settings, codec, owner
        self._files: dict[str, dict[str, Any]] = {}
        self._sources: dict[str, str] = {}
        self._sent: list[Awaited] = []
        self._waited = False
        self.problems: list[Problem] = []
        self.missing: list[Awaited] = []

    def publish(self, paths: list[Path]) -> None:
        """Read and publish everything. Blocks on files and the broker."""
        sizes = {name: path.stat().st_size if path.is_file() else 0 for path, name in find_files(paths)}
        with _bar("publishing", sum(sizes.values()), "bytes") as advance:
            documents = self._documents(paths, sizes, advance)
            self._sent, failed = publish_documents(self._settings, self._codec, documents, lane=self._owner.lane)
        for document_id, reason in failed.items():
            source = self._sources[document_id]
            problem = Problem(
                file=source, what=f"document {document_id!r} was not published: {reason}", todo="try again"
            )
            self._note(source, problem)
        if not sizes:
            self._note(", ".join(map(str, paths)), _nothing(paths))

    def wait(self, timeout_s: float) -> None:
        """Wait for the index. Blocks on Postgres."""
        self._waited = True
        with _bar("indexing", len(self._sent), "documents") as advance:
            self.missing = wait_until_indexed(self._settings, self._sent, timeout_s=timeout_s, advance=advance)
        if self.missing:
            say(
                f"headrace: {len(self.missing)} documents are not indexed after {timeout_s:g} s, e.g."
                f" {self.missing[0].document_id!r}; see headrace status and headrace doctor"
            )

    def report(self) -> dict[str, Any]:
        """What happened, as JSON."""
        return {
            "tenant": self._owner.tenant,
            "namespace": self._owner.namespace,
            "published": len(self._sent),
            "indexed": len(self._sent) - len(self.missing) if self._waited else None,
            "not_indexed": [awaited.document_id for awaited in self.missing],
            "problems": len(self.problems),
            "files": [{"file": name, **found} for name, found in self._files.items()],
        }

    def summary(self) -> str:
        """What happened, in a line."""
        documents = f"{len(self._sent)} document{'' if len(self._sent) == 1 else 's'}"
        done = f"published {documents} from {len(self._files)} files to {self._owner.tenant}/{self._owner.namespace}"
        if self._waited:
            done += f", {len(self._sent) - len(self.missing)} indexed"
        return done + (f"; {len(self.problems)} problems" if self.problems else "")

    def _documents(
        self, paths: list[Path], sizes: dict[str, int], advance: Callable[[float], None]
    ) -> Iterator[Document]:
        for loaded in load(paths, self._owner):
            self._take(loaded)
            share = sizes.get(loaded.path, 0) / max(1, len(loaded.documents))
            for document in loaded.documents:
                self._sources[document.document_id] = loaded.path
                yield document
                advance(share)

    def _take(self, loaded: LoadedFile) -> None:
        self._files[loaded.path] = {"documents": len(loaded.documents), "problems": []}
        for problem in loaded.problems:
            self._note(loaded.path, problem)

    def _note(self, file: str, problem: Problem) -> None:
        self.problems.append(problem)
        entry = self._files.setdefault(file, {"documents": 0, "problems": []})
        entry["problems"].append({"line": problem.line, "what": problem.what, "todo": problem.todo})


def _nothing(paths: list[Path]) -> Problem:
    named = ", ".join(map(str, paths))
    return Problem(file=named, what="holds no file that is read", todo="give .txt, .md or .jsonl files")


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
