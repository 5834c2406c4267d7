"""What was erased stays erased: it is not exported any more, and an export of before does not bring it back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

import orjson
import psycopg

from processors.postgres import away
from schemas.errors import ConfigurationError, DependencyDownError
from schemas.records import Document
from streams.auditing.seals import leaf_of
from streams.auditing.seals_pg import CONNECT_TIMEOUT_S, PostgresSeals
from streams.reading import Entry
from streams.settings import Settings

AT_ONCE = 1_000
# Tenant, namespace and id.
Key = tuple[str, str, str]


@dataclass(slots=True)
class Erased:
    """Tombstones by topic, partition and offset: the record's hash, and its key as text."""

    stones: dict[tuple[str, int, int], tuple[bytes, str]] = field(default_factory=dict)

    def is_entry(self, entry: Entry) -> bool:
        """Whether this record was erased. Of a topic that was made again another record has its place."""
        stone = self.stones.get((entry.topic, entry.partition, entry.offset))
        return stone is not None and stone[0] == leaf_of(entry)

    def is_row(self, place: Mapping[str, Any]) -> bool:
        """Whether this row of an export was erased where it lay."""
        stone = self.stones.get((place["_topic"], place["_partition"], place["_offset"]))
        return stone is not None and stone[1] == (place["_key"] or b"").decode("utf-8", "replace")


def erased_here(settings: Settings) -> Erased:
    """The tombstones of this cluster. Blocks on Postgres; raises ``DependencyDownError``."""
    with PostgresSeals(settings.postgres.dsn.get_secret_value()) as seals:
        return Erased(
            {(one.topic, one.partition, one.offset): (one.leaf, one.request_id) for one in seals.tombstones()}
        )


def add_exported(erased: Erased, file: Path) -> None:
    """Add the tombstones of another cluster, as ``headrace audit seals export`` prints them.

    Raises ``ConfigurationError`` that names the line that is none.
    """
    try:
        lines = file.read_bytes().splitlines()
    except OSError as error:
        raise ConfigurationError(f"--erased: {file} can't be read: {error.strerror}; check the path") from None
    for number, line in enumerate(lines, 1):
        try:
            one = orjson.loads(line)
            if one["kind"] != "tombstone":
                continue
            place = (str(one["topic"]), int(one["partition"]), int(one["offset"]))
            erased.stones[place] = (bytes.fromhex(one["leaf"]), str(one["request_id"]))
        except (ValueError, KeyError, TypeError):
            raise ConfigurationError(
                f"--erased: {file}, line {number}, is no tombstone; write it with `headrace audit seals export`"
            ) from None


class Removed:
    """Documents that were removed, in the export itself or here, after what the export has of them was written."""

    def __init__(self) -> None:
        # The number of the last row that removes it; when it was removed here.
        self._last: dict[Key, int] = {}
        self._here: dict[Key, datetime] = {}

    def learn(self, rows: Iterable[tuple[int, Document]], settings: Settings) -> None:
        """Take in every row of the documents, with its number. Blocks on Postgres; holds the documents' ids."""
        keys: dict[Key, None] = {}
        for number, document in rows:
            keys[_key(document)] = None
            if _removes(document):
                self._last[_key(document)] = number
        with _connected(settings) as connection:
            for portion in _portions(keys):
                tenants, namespaces, ids = zip(*portion, strict=True)
                found = connection.execute(
                    _REMOVED, {"tenants": list(tenants), "namespaces": list(namespaces), "ids": list(ids)}
                )
                self._here.update({(row[0], row[1], row[2]): row[3] for row in found})

    def covers(self, number: int, place: Mapping[str, Any], document: Document) -> bool:
        """Whether this row was removed later. What removes is loaded: it may be there already."""
        if _removes(document):
            return False
        key = _key(document)
        here = self._here.get(key)
        return number < self._last.get(key, 0) or (here is not None and place["_time"] <= here)


def _removes(document: Document) -> bool:
    return document.deleted or document.body is None


def _key(document: Document) -> Key:
    return document.meta.tenant, document.namespace, document.document_id


def _portions(keys: Iterable[Key]) -> Iterator[list[Key]]:
    left = iter(keys)
    while portion := list(islice(left, AT_ONCE)):
        yield portion


def _connected(settings: Settings) -> psycopg.Connection[Any]:
    dsn = settings.postgres.dsn.get_secret_value()
    try:
        return psycopg.connect(dsn, autocommit=True, connect_timeout=CONNECT_TIMEOUT_S)
    except psycopg.Error as error:
        if away(error):
            raise DependencyDownError("postgres", "it says which documents were removed") from error
        raise


_REMOVED = """
    SELECT tenant, namespace, document_id, appended_at FROM documents
    JOIN unnest(%(tenants)s::text[], %(namespaces)s::text[], %(ids)s::text[]) AS asked (tenant, namespace, document_id)
      USING (tenant, namespace, document_id)
    WHERE deleted
"""
