"""What reading gives: documents, or a problem that says what to do."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from schemas.ids import derive_id, event_id
from schemas.records import Document, Meta, Text


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


class UnreadableError(Exception):
    """A file, a page or a line can't become a document. Caught in this package."""

    def __init__(self, what: str, todo: str, line: int | None = None) -> None:
        super().__init__(what)
        self.what, self.todo, self.line = what, todo, line

    def at(self, file: str, line: int | None = None) -> Problem:
        """The problem, with its place."""
        return Problem(file=file, what=self.what, todo=self.todo, line=self.line or line)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedFile:
    """What one file or page gave.

    ``whole``: the documents are the parts of one text, which stand or fall together; else each stands for itself.
    """

    path: str
    documents: tuple[Document, ...] = ()
    problems: tuple[Problem, ...] = ()
    whole: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """To whom the documents belong, and in which lane they are published."""

    tenant: str = "default"
    namespace: str = "default"
    lane: str = "live"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """A text as it was read or converted, before it is cut into documents."""

    text: str
    title: str = ""
    uri: str = ""
    media_type: str = "text/plain"
    language: str = ""
    metadata: Mapping[str, str] | None = None
    modified_at: datetime | None = None


def build_document(
    owner: Owner,
    document_id: str,
    body: str,
    *,
    title: str = "",
    uri: str = "",
    media_type: str = "text/plain",
    language: str = "",
    metadata: Mapping[str, str] | None = None,
    modified_at: datetime | None = None,
) -> Document:
    """A document's record. The same content gives the same event id."""
    digest = hashlib.sha256(body.encode()).hexdigest()
    labels = json.dumps(dict(metadata or {}), sort_keys=True)
    parts = (document_id, digest, title, uri, media_type, labels, *((language,) if language else ()))
    return Document(
        meta=_meta(owner, derive_id("document", owner.namespace, *parts)),
        document_id=document_id,
        namespace=owner.namespace,
        title=title,
        uri=uri,
        media_type=media_type,
        body=Text(inline=body),
        digest=digest,
        language=language,
        metadata=dict(metadata or {}),
        modified_at=modified_at,
    )


def build_removal(owner: Owner, document_id: str, cause: str) -> Document:
    """The record that removes a document. ``cause`` tells one removal from another: what made it superfluous."""
    return Document(
        meta=_meta(owner, derive_id("removal", owner.namespace, document_id, cause)),
        document_id=document_id,
        namespace=owner.namespace,
        deleted=True,
    )


def _meta(owner: Owner, cause: str) -> Meta:
    return Meta(
        event_id=event_id(tenant=owner.tenant, lane=owner.lane, run="", stage="producer", causation_id=cause),
        request_id="",
        tenant=owner.tenant,
        lane=owner.lane,
        stage="producer",
    )
