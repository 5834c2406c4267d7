"""Reading files as documents. What can't be read is reported with its file and line; the rest goes on.

A document is whole or not there: a text file that does not decode gives nothing, and a line of a JSONL file stands
for itself.
"""

from __future__ import annotations

import codecs
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from schemas.ids import derive_id, event_id
from schemas.records import Document, Meta, Text

MEDIA_TYPES = {".txt": "text/plain", ".text": "text/plain", ".md": "text/markdown", ".markdown": "text/markdown"}
JSON_LINES = (".jsonl", ".ndjson")
SUPPORTED = (*MEDIA_TYPES, *JSON_LINES)
_BOMS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Why something was not read: where, what, and what to do. ``line`` counts from 1."""

    file: str
    what: str
    todo: str
    line: int | None = None

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}, line {self.line}"
        return f"{place}: {self.what}; {self.todo}"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedFile:
    """What one file gave."""

    path: str
    documents: tuple[Document, ...] = ()
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """To whom the documents belong, and in which lane they are published."""

    tenant: str = "default"
    namespace: str = "default"
    lane: str = "live"


class _ProblemError(Exception):
    def __init__(self, what: str, todo: str, line: int | None = None) -> None:
        super().__init__(what)
        self.what, self.todo, self.line = what, todo, line


def find_files(paths: Iterable[Path]) -> list[tuple[Path, str]]:
    """Every file to read with the name that its documents go by, in a stable order.

    A file in or below the working directory is named relative to it, another one relative to the folder above the
    path given; so the same file has the same name whether it or its folder was named. Blocks on the file system. In
    folders only supported files are taken, hidden ones are passed over and links to folders are not followed.
    """
    found: dict[Path, str] = {}
    for given in paths:
        if given.is_dir():
            for folder, folders, names in os.walk(given):
                folders[:] = sorted(name for name in folders if not name.startswith("."))
                for name in sorted(names):
                    path = Path(folder) / name
                    if not name.startswith(".") and path.suffix.lower() in SUPPORTED:
                        found.setdefault(path.resolve(), _name(path, given))
        else:
            found.setdefault(given.resolve(), _name(given, given))
    return list(found.items())


def load(paths: Iterable[Path], owner: Owner) -> Iterator[LoadedFile]:
    """Read the files one by one, folders recursively. Blocks on the file system; raises nothing for their content.

    A document whose id an earlier one of this call has is a problem: it would replace it.
    """
    seen: dict[str, str] = {}
    for path, name in find_files(paths):
        yield _load_file(path, name, owner, seen)


def load_python_topics(owner: Owner | None = None) -> Iterator[Document]:
    """The Python language reference that CPython carries: 79 topics, 465 kB."""
    from pydoc_data.topics import topics  # noqa: PLC0415 (half a megabyte, for the demo alone)

    for topic in sorted(topics):
        yield build_document(
            owner or Owner(), f"python/{topic}", topics[topic], title=topic, uri=f"python:topic/{topic}"
        )


def build_document(
    owner: Owner,
    document_id: str,
    body: str,
    *,
    title: str = "",
    uri: str = "",
    media_type: str = "text/plain",
    metadata: Mapping[str, str] | None = None,
    modified_at: datetime | None = None,
) -> Document:
    """A document's record. The same content gives the same event id."""
    digest = hashlib.sha256(body.encode()).hexdigest()
    labels = json.dumps(dict(metadata or {}), sort_keys=True)
    cause = derive_id("document", owner.namespace, document_id, digest, title, uri, media_type, labels)
    return Document(
        meta=Meta(
            event_id=event_id(tenant=owner.tenant, lane=owner.lane, run="", stage="producer", causation_id=cause),
            request_id="",
            tenant=owner.tenant,
            lane=owner.lane,
            stage="producer",
        ),
        document_id=document_id,
        namespace=owner.namespace,
        title=title,
        uri=uri,
        media_type=media_type,
        body=Text(inline=body),
        digest=digest,
        metadata=dict(metadata or {}),
        modified_at=modified_at,
    )


def _name(path: Path, given: Path) -> str:
    """The path relative to the working directory, else to the folder above what was given; ``/`` on every system."""
    absolute, here = path.resolve(), Path.cwd().resolve()
    base = here if absolute.is_relative_to(here) else given.resolve().parent
    return absolute.relative_to(base).as_posix() if absolute.is_relative_to(base) else absolute.name


def _load_file(path: Path, name: str, owner: Owner, seen: dict[str, str]) -> LoadedFile:
    documents: list[Document] = []
    problems: list[Problem] = []
    try:
        text, modified_at = _read(path)
        numbered = list(_documents(path, name, text, modified_at, owner))
    except _ProblemError as error:
        return LoadedFile(path=name, problems=(_problem(name, error),))
    for line, found in numbered:
        try:
            if isinstance(found, _ProblemError):
                raise found
            if found.document_id in seen:
                raise _ProblemError(
                    f"the id {found.document_id!r} was used before, in {seen[found.document_id]}",
                    "give every document an id of its own",
                )
        except _ProblemError as error:
            problems.append(_problem(name, error, line))
            continue
        seen[found.document_id] = name if line is None else f"{name}, line {line}"
        documents.append(found)
    return LoadedFile(path=name, documents=tuple(documents), problems=tuple(problems))


def _problem(name: str, error: _ProblemError, line: int | None = None) -> Problem:
    return Problem(file=name, what=error.what, todo=error.todo, line=error.line or line)


def _read(path: Path) -> tuple[str, datetime]:
    if path.suffix.lower() not in SUPPORTED:
        raise _ProblemError("files of this kind are not read", f"give one of {', '.join(SUPPORTED)}")
    try:
        data, modified = path.read_bytes(), path.stat().st_mtime
    except OSError as error:
        raise _ProblemError(f"can't be read: {error.strerror}", "check the path and its permissions") from None
    encoding = next((name for mark, name in _BOMS if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise _ProblemError(f"is not {encoding} at byte {error.start}", "save it as UTF-8", line) from None
    if not text.strip():
        raise _ProblemError("is empty", "remove it or write something")
    return text, datetime.fromtimestamp(modified, UTC)


Found = tuple[int | None, "Document | _ProblemError"]


def _documents(path: Path, name: str, text: str, modified_at: datetime, owner: Owner) -> Iterator[Found]:
    if path.suffix.lower() in JSON_LINES:
        # Only these end a line: a JSON text may hold the other separators that splitlines knows.
        for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), start=1):
            if line.strip():
                yield number, _from_line(line, f"{name}#{number}", modified_at, owner)
        return
    nul = text.find("\x00")
    if nul >= 0:
        line_number = text.count("\n", 0, nul) + 1
        raise _ProblemError("holds a NUL character", "remove it, or give a text file", line_number)
    media_type = MEDIA_TYPES[path.suffix.lower()]
    title = _heading(text) if media_type == "text/markdown" else ""
    yield (
        None,
        build_document(
            owner,
            name,
            text,
            title=title or path.stem,
            uri=f"file:{name}",
            media_type=media_type,
            modified_at=modified_at,
        ),
    )


def _heading(text: str) -> str:
    for line in text.splitlines()[:50]:
        if line.startswith("# "):
            return line[2:].strip()[:200]
    return ""


def _from_line(line: str, fallback_id: str, modified_at: datetime, owner: Owner) -> Document | _ProblemError:
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        return _ProblemError(f"is not JSON at column {error.colno}: {error.msg}", "write one JSON object a line")
    except RecursionError:
        return _ProblemError("is nested too deeply", "write one flat JSON object a line")
    if not isinstance(value, dict):
        return _ProblemError(f"is a JSON {type(value).__name__}", "write one JSON object a line")
    try:
        return build_document(
            owner,
            _identifier(value) or fallback_id,
            _field(value, ("text", "body"), required=True),
            title=_field(value, ("title",)),
            uri=_field(value, ("uri", "url")),
            media_type=_field(value, ("media_type",)) or "text/plain",
            metadata=_metadata(value),
            modified_at=modified_at,
        )
    except _ProblemError as error:
        return error


def _identifier(value: Mapping[str, Any]) -> str:
    for key in ("document_id", "id", "_id"):
        given = value.get(key)
        if isinstance(given, int) and not isinstance(given, bool):
            return str(given)
        if given is not None:
            return _field(value, (key,), required=True)
    return ""


def _field(value: Mapping[str, Any], keys: tuple[str, ...], *, required: bool = False) -> str:
    """The first of these fields that is there, as text."""
    key = next((key for key in keys if value.get(key) is not None), None)
    if key is None:
        if required:
            raise _ProblemError(f"has no {' or '.join(keys)}", f"add the field {keys[0]}")
        return ""
    text = value[key]
    if not isinstance(text, str):
        raise _ProblemError(f"{key} is a JSON {type(text).__name__}", f"make {key} a string")
    if required and not text.strip():
        raise _ProblemError(f"{key} is empty", f"fill {key} or remove the line")
    return _storable(text, key)


def _metadata(value: Mapping[str, Any]) -> dict[str, str]:
    given = value.get("metadata")
    if given is None:
        return {}
    if not isinstance(given, dict):
        raise _ProblemError(f"metadata is a JSON {type(given).__name__}", "make metadata an object")
    labels = {}
    for key, label in given.items():
        if isinstance(label, (dict, list)) or label is None:
            raise _ProblemError(f"metadata.{key} is no plain value", "make it a string, number or boolean")
        labels[_storable(key, "metadata")] = _storable(label if isinstance(label, str) else json.dumps(label), key)
    return labels


def _storable(text: str, key: str) -> str:
    if "\x00" in text:
        raise _ProblemError(f"{key} holds a NUL character", "remove it")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise _ProblemError(f"{key} holds half a surrogate pair", "write the whole character") from None
    return text
