"""An entry of a topic, opened for a person: its record if it can be decoded, and why not if it can't."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from math import inf
from typing import Any

from schemas.codec import Codec
from schemas.errors import DependencyDownError, PoisonError, UnknownSchemaError
from schemas.json_view import to_json
from schemas.record import Record
from schemas.records import DeadLetter, Header, Meta
from streams.claims import BlockingClaims
from streams.dead_letters import CONNECT, OURS
from streams.reading import Entry
from streams.topics import kind_of

DEAD_LETTERS = "dead-letters"
# A registry that is away is asked for a schema again after this time.
AGAIN_S = 15.0


@dataclass(frozen=True, slots=True)
class Opened:
    """An entry with what is in it."""

    entry: Entry
    # Kind of the topic.
    kind: str
    record: Record | None
    # Why there is no record.
    fault: str | None
    # The reason of a dead letter; ``record`` is then the event that could not be processed.
    letter: DeadLetter | None = None

    @property
    def meta(self) -> Meta | None:
        """The record's meta."""
        return getattr(self.record, "meta", None)

    @property
    def name(self) -> str | None:
        """The record's full name."""
        return None if self.record is None else self.record.AVRO_NAME


class Opener:
    """Opens entries of one lane. Never raises for what is in them."""

    def __init__(
        self,
        codec: Codec,
        *,
        prefix: str,
        lane: str,
        claims: BlockingClaims | None = None,
        complete: bool = False,
    ) -> None:
        """With ``claims``, texts that were too large for a topic are shown; else the references to them.

        While registry or Postgres is away, less is shown; with ``complete``, ``DependencyDownError`` is raised.
        """
        self._claims, self._complete = claims, complete
        self._codec, self._prefix, self._lane = codec, prefix, lane
        # Schema ids that the registry does not have, and until when it is not asked again: not for every record.
        self._denied: dict[int, float] = {}

    def open(self, entry: Entry) -> Opened:
        """Decode an entry. Blocks on the registry once for a schema id that the codec does not hold."""
        kind = kind_of(entry.topic, self._prefix, self._lane)
        record, fault = self._decode(entry.value)
        letter = dead_letter_of(entry, record) if kind == DEAD_LETTERS else None
        return Opened(entry, kind, record, fault, letter)

    def record_of(self, value: bytes) -> Record | None:
        """The record in these bytes, with its references, if there is one. Blocks and raises as ``open``."""
        return self._read(value)[0]

    def _decode(self, value: bytes | None) -> tuple[Record | None, str | None]:
        if value is None:
            return None, "the value is null"
        record, fault = self._read(value)
        if record is None or self._claims is None:
            return record, fault
        try:
            return self._claims.whole(record, value), None
        except DependencyDownError:
            if self._complete:
                raise
            return record, None

    def _read(self, value: bytes) -> tuple[Record | None, str | None]:
        try:
            try:
                return self._codec.decode_any(value), None
            except UnknownSchemaError as unknown:
                if time.monotonic() < self._denied.get(unknown.schema_id, 0.0):
                    raise
                self._fetch(unknown.schema_id)
                return self._codec.decode_any(value), None
        except PoisonError as error:
            return None, str(error)
        except DependencyDownError as error:
            if self._complete:
                raise
            return None, str(error)

    def _fetch(self, schema_id: int) -> None:
        self._denied[schema_id] = inf
        try:
            asyncio.run(self._codec.fetch(schema_id))
        except DependencyDownError:
            # It denied nothing.
            self._denied[schema_id] = 0.0 if self._complete else time.monotonic() + AGAIN_S
            raise


def dead_letter_of(entry: Entry, record: Record | None) -> DeadLetter:
    """A dead letter as a record: the reason from its headers, the original key, value and headers as they were."""
    headers = {name: (value or b"").decode("utf-8", "replace") for name, value in entry.headers}
    meta: Meta | None = getattr(record, "meta", None)
    if meta is None:
        request_id = (entry.key or b"").decode("utf-8", "replace")
        meta = Meta(
            event_id=headers.get("ce_id", ""), request_id=request_id, tenant="", lane=_of(headers, OURS, "lane")
        )
    original = [(name, value) for name, value in entry.headers if not name.startswith((CONNECT, OURS))]
    return DeadLetter(
        meta=replace(meta, run=meta.run or _of(headers, OURS, "replay")),
        source_topic=_of(headers, CONNECT, "topic"),
        source_partition=_number(_of(headers, CONNECT, "partition")),
        source_offset=_number(_of(headers, CONNECT, "offset")),
        failed_stage=_of(headers, CONNECT, "stage"),
        error_class=_of(headers, OURS, "class"),
        error_type=_of(headers, CONNECT, "exception.class.name"),
        error_message=_of(headers, CONNECT, "exception.message"),
        stacktrace=_of(headers, CONNECT, "exception.stacktrace"),
        attempts=_number(_of(headers, OURS, "attempts")),
        first_failure_at=_moment(_of(headers, OURS, "first_failure")),
        key=entry.key,
        value=entry.value,
        headers=tuple(Header(key=name, value=value) for name, value in original),
    )


def opened_view(opened: Opened) -> dict[str, Any]:
    """An opened entry as JSON. Bytes that are no record are there as base64."""
    entry = opened.entry
    view: dict[str, Any] = {
        "topic": entry.topic,
        "partition": entry.partition,
        "offset": entry.offset,
        "time": iso(entry.time),
        "key": None if entry.key is None else entry.key.decode("utf-8", "replace"),
        "bytes": entry.size,
        "headers": {name: None if value is None else value.decode("utf-8", "replace") for name, value in entry.headers},
        "name": opened.name,
        "record": None if opened.record is None else to_json(opened.record),
    }
    if opened.fault is not None:
        view["undecodable"] = opened.fault
        view["value"] = None if entry.value is None else to_json(Header(key="", value=entry.value))["value"]
    if opened.letter is not None:
        view["dead_letter"] = to_json(opened.letter)
    return view


def iso(moment: datetime) -> str:
    """The broker's time has milliseconds."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _of(headers: Mapping[str, str], family: str, name: str) -> str:
    return headers.get(f"{family}{name}", "")


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() else 0


def _moment(text: str) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
