"""Files of JSON lines: each line is a document of its own, and a bad one is named while the others go on."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from schemas.records import Document
from streams.loading.record import Owner, UnreadableError, build_document

Found = tuple[int, "Document | UnreadableError"]


def documents_of_lines(text: str, name: str, modified_at: datetime, owner: Owner) -> Iterator[Found]:
    """Each line that is not blank, with its number from 1."""
    # Only these end a line: a JSON text may hold the other separators that splitlines knows.
    for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), start=1):
        if line.strip():
            yield number, _from_line(line, f"{name}#{number}", modified_at, owner)


def _from_line(line: str, fallback_id: str, modified_at: datetime, owner: Owner) -> Document | UnreadableError:
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        return UnreadableError(f"is not JSON at column {error.colno}: {error.msg}", "write one JSON object a line")
    except RecursionError:
        return UnreadableError("is nested too deeply", "write one flat JSON object a line")
    if not isinstance(value, dict):
        return UnreadableError(f"is a JSON {type(value).__name__}", "write one JSON object a line")
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
    except UnreadableError as error:
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
            raise UnreadableError(f"has no {' or '.join(keys)}", f"add the field {keys[0]}")
        return ""
    text = value[key]
    if not isinstance(text, str):
        raise UnreadableError(f"{key} is a JSON {type(text).__name__}", f"make {key} a string")
    if required and not text.strip():
        raise UnreadableError(f"{key} is empty", f"fill {key} or remove the line")
    return _storable(text, key)


def _metadata(value: Mapping[str, Any]) -> dict[str, str]:
    given = value.get("metadata")
    if given is None:
        return {}
    if not isinstance(given, dict):
        raise UnreadableError(f"metadata is a JSON {type(given).__name__}", "make metadata an object")
    labels = {}
    for key, label in given.items():
        if isinstance(label, (dict, list)) or label is None:
            raise UnreadableError(f"metadata.{key} is no plain value", "make it a string, number or boolean")
        labels[_storable(key, "metadata")] = _storable(label if isinstance(label, str) else json.dumps(label), key)
    return labels


def _storable(text: str, key: str) -> str:
    if "\x00" in text:
        raise UnreadableError(f"{key} holds a NUL character", "remove it")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UnreadableError(f"{key} holds half a surrogate pair", "write the whole character") from None
    return text
