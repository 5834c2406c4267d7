"""Generated from `schemas/avro/document.avsc` by `python -m schemas.generate`; do not edit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import ClassVar

from schemas.record import Record
from schemas.records.asked import Meta, Text


@dataclass(frozen=True, slots=True, kw_only=True)
class Document(Record):
    """A document to index, or its removal."""

    AVRO_NAME: ClassVar[str] = "headrace.Document"

    # Identity and cause
    meta: Meta
    # Id, unique within tenant and namespace
    document_id: str
    # Namespace it is searched under
    namespace: str = "default"
    # Title
    title: str = ""
    # Where it came from
    uri: str = ""
    # IANA media type of the body
    media_type: str = "text/plain"
    # The whole text; null removes the document
    body: Text | None = None
    # sha256 of the body, as hex
    digest: str = ""
    # BCP 47 language tag
    language: str = ""
    # Labels that retrieval can filter on
    metadata: Mapping[str, str] = field(default_factory=dict)
    # When the source last changed (UTC microseconds)
    modified_at: datetime | None = None
    # Remove the document and its passages
    deleted: bool = False
