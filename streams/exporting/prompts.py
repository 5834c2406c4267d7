"""Prompts in an export: the templates that its events name, so that another cluster can replay with them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import orjson

from processors.enrich import Renderer
from processors.postgres import Database
from processors.prompts import PgPrompts, StoredPrompt, digest_of, parse_reference
from schemas.errors import ConfigurationError
from schemas.record import Record
from schemas.records import Control, PromptRef, Request
from streams.opened import iso
from streams.settings import Settings

T = TypeVar("T")
KIND = "prompts"
FILE = "prompts.jsonl"
# By name and version, the digest that events say; empty where they say none.
Named = Mapping[tuple[str, int], str]


def named_by(record: Record) -> Iterator[tuple[tuple[str, int], str]]:
    """The prompts that a record names, each with its digest or an empty text."""
    if isinstance(record, Control):
        if record.kind == "prompt" and (key := _key(record.name, record.version)):
            yield key, record.digest
        return
    # An event carries what was rendered (grounding), and what was asked for (request).
    grounding = getattr(record, "grounding", None) or record
    if key := _referenced(getattr(grounding, "prompt_version", "")):
        yield key, getattr(grounding, "prompt_digest", "")
    request = record if isinstance(record, Request) else getattr(record, "request", None)
    asked: PromptRef | None = getattr(request, "prompt", None)
    if asked is not None and (key := _key(asked.name, asked.version or "")):
        yield key, ""


def _referenced(reference: str) -> tuple[str, int] | None:
    try:
        name, version = parse_reference(reference)
    except ConfigurationError:
        return None
    return None if version is None else (name, version)


def _key(name: str, version: str) -> tuple[str, int] | None:
    # Control records and requests say the number alone; some say the whole reference.
    return _referenced(version if "@" in version else f"{name}@{version}") if version else None


def stored_prompts(settings: Settings, named: Named, *, every: bool) -> tuple[list[StoredPrompt], list[str]]:
    """The prompts of these names (``every``: all there are), and the references that can't be had.

    A version whose text is not the one that events name is none of theirs. Blocks on Postgres; raises
    ``DependencyDownError``.
    """

    async def work(store: PgPrompts) -> tuple[list[StoredPrompt], list[str]]:
        found, missing = {(one.name, one.version): one for one in await store.list()} if every else {}, []
        for (name, version), digest in sorted(named.items()):
            prompt = await store.get(name, version)
            if prompt is None or (digest and prompt.digest != digest):
                missing.append(f"{name}@{version}")
            else:
                found[name, version] = prompt
        return [found[key] for key in sorted(found)], missing

    return _with_store(settings, work) if named or every else ([], [])


def load_prompts(settings: Settings, prompts: Sequence[StoredPrompt]) -> int:
    """Store prompts as they were exported; how many were not there. Blocks on Postgres; raises as ``PromptStore``."""
    return _with_store(settings, lambda store: store.load(prompts)) if prompts else 0


def write_prompts(folder: Path, prompts: Iterable[StoredPrompt]) -> Path:
    """Write them into an export's folder, one a line."""
    file = folder / FILE
    with file.open("wb") as lines:
        for one in prompts:
            created = None if one.created_at is None else iso(one.created_at)
            view = {"name": one.name, "version": one.version, "digest": one.digest, "created_at": created}
            lines.write(orjson.dumps({**view, "template": one.text}) + b"\n")
    return file


def read_prompts(file: Path) -> list[StoredPrompt]:
    """What ``write_prompts`` wrote. Raises ``ConfigurationError`` that names the line, for what is no template too."""
    renderer, found = Renderer(), []
    try:
        lines = file.read_bytes().splitlines()
    except OSError as error:
        raise ConfigurationError(f"{file} can't be read ({error.strerror}); export again") from None
    for number, line in enumerate(lines, 1):
        where = f"{file}, line {number}"
        try:
            said = orjson.loads(line)
            text, created = str(said["template"]), said["created_at"]
            prompt = StoredPrompt(
                name=str(said["name"]),
                version=int(said["version"]),
                digest=str(said["digest"]),
                text=text,
                created_at=None if created is None else datetime.fromisoformat(created).astimezone(UTC),
            )
        except (ValueError, KeyError, TypeError):
            raise ConfigurationError(f"{where}, is no exported prompt; export again") from None
        if prompt.digest != digest_of(text) or prompt.version < 1 or _referenced(prompt.reference) is None:
            raise ConfigurationError(f"{where}: {prompt.reference} is not what its digest says; export again")
        renderer.check(text, name=f"{where} ({prompt.reference})")
        found.append(prompt)
    return found


def _with_store(settings: Settings, work: Callable[[PgPrompts], Awaitable[T]]) -> T:
    async def run() -> T:
        dsn = settings.postgres.dsn.get_secret_value()
        database = await Database.open(dsn, max_size=1, application_name="headrace export")
        try:
            return await work(PgPrompts(database))
        finally:
            await database.close()

    return asyncio.run(run())
