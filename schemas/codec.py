"""Records to and from Avro frames in the Confluent wire format, with a cache of schemas that is warm at start.

``encode`` and ``decode`` do no I/O and never wait: they run on the event loop, in the middle of a stage. Only ``fetch``
asks the registry: the stage runner calls it after an ``UnknownSchemaError``, and ``decode_fetching`` does by itself.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from typing import Any, cast

from fastavro import parse_schema, schemaless_reader, schemaless_writer
from fastavro.schema import SchemaParseException

from schemas.bounds import unbounded
from schemas.errors import ConfigurationError, UndecodableError, UnencodableError, UnknownSchemaError, WrongRecordError
from schemas.files import event_schemas
from schemas.record import Record, RecordT, from_plain, to_plain
from schemas.records import EVENTS
from schemas.registry import RegisteredSchema, Registry, SchemaSource
from schemas.wire import HEADER_BYTES, header, schema_id_of

_TYPES: dict[str, type[Record]] = {kind.AVRO_NAME: kind for kind in EVENTS}


@dataclass(frozen=True, slots=True)
class _Writer:
    """A schema that frames are read with. ``resolve_to`` is today's schema, or ``None`` where they are the same."""

    schema_id: int
    name: str
    schema: Any
    resolve_to: Any


class Codec:
    """Encodes records under today's schemas and decodes whatever a known schema wrote into today's types.

    Safe to share between stages of a process. Build it with ``connect`` (asks the registry once) or ``offline``.
    """

    def __init__(
        self,
        ids: Mapping[str, int],
        *,
        known: Iterable[RegisteredSchema] = (),
        source: SchemaSource | None = None,
    ) -> None:
        """``ids`` are the ids of today's schemas by full name; ``known`` is everything else that may be read."""
        self._source = source
        self._today = {name: _parse(json.loads(text)) for name, text in event_schemas().items()}
        self._encoders = {name: (header(ids[name]), schema) for name, schema in self._today.items()}
        self._writers = {ids[name]: _Writer(ids[name], name, schema, None) for name, schema in self._today.items()}
        for entry in known:
            if entry.schema_id not in self._writers:
                # One unreadable version of a subject is no reason not to start; its frames stay unknown.
                with suppress(UndecodableError):
                    self._learn(entry)

    @classmethod
    def offline(cls) -> Codec:
        """A codec whose ids are 1 to 14 by name; no registry, so ``fetch`` denies every id. For unit tests."""
        return cls({name: index for index, name in enumerate(sorted(_TYPES), start=1)})

    @classmethod
    async def connect(cls, url: str, *, options: Mapping[str, str] | None = None) -> Codec:
        """A codec with the ids that the registry gave today's schemas, and every older version of them.

        Asks the registry about three times a record type. ``options`` go to confluent-kafka's client as they are
        (``basic.auth.user.info``, ``ssl.ca.location``, ...). Raises ``DependencyDownError`` while the registry is
        away and ``ConfigurationError`` when a schema is not registered there.
        """
        registry = Registry(url, options=options)
        found = await registry.holdings(event_schemas())
        if missing := [name for name, holding in found.items() if holding.schema_id is None]:
            raise ConfigurationError(
                f"the schema registry does not hold today's {', '.join(missing)}; run `headrace schemas register`"
            )
        ids = {name: holding.schema_id for name, holding in found.items() if holding.schema_id is not None}
        return cls(ids, known=[one for holding in found.values() for one in holding.versions], source=registry)

    def encode(self, record: Record) -> bytes:
        """The record as a frame. Does no I/O; raises ``UnencodableError`` for a value that its schema doesn't take."""
        prefix, schema = self._encoders[record.AVRO_NAME]
        out = BytesIO()
        out.write(prefix)
        try:
            schemaless_writer(out, schema, to_plain(record))
        except (ValueError, TypeError, ArithmeticError, AttributeError, KeyError) as error:
            raise UnencodableError(f"{record.AVRO_NAME} does not fit its schema: {type(error).__name__}") from None
        return out.getvalue()

    def schema_id(self, kind: type[Record]) -> int:
        """The id of a record type's schema of today."""
        return schema_id_of(self._encoders[kind.AVRO_NAME][0])

    def decode(self, data: bytes, expected: type[RecordT]) -> RecordT:
        """The record in a frame, read with the schema that wrote it and resolved to today's. Does no I/O.

        Raises ``UndecodableError``, ``UnknownSchemaError`` (``fetch`` the id, then decode again) and
        ``WrongRecordError``. No message holds a value of the record.
        """
        writer = self._writer(data)
        if writer.name != expected.AVRO_NAME:
            raise WrongRecordError(f"expected {expected.AVRO_NAME}, got {writer.name} (schema id {writer.schema_id})")
        return self._read(writer, data, expected)

    async def decode_fetching(self, data: bytes, expected: type[RecordT]) -> RecordT:
        """As ``decode``, with a schema that is not held asked of the registry. Blocks and raises as ``fetch`` then."""
        try:
            return self.decode(data, expected)
        except UnknownSchemaError as unknown:
            await self.fetch(unknown.schema_id)
            return self.decode(data, expected)

    def decode_any(self, data: bytes) -> Record:
        """The record in a frame, whichever of ours it is. Raises as ``decode`` does."""
        writer = self._writer(data)
        kind = _TYPES.get(writer.name)
        if kind is None:
            raise WrongRecordError(f"{writer.name} (schema id {writer.schema_id}) is no record of Headrace")
        return self._read(writer, data, kind)

    def record_name(self, data: bytes) -> str:
        """The full name of the record in a frame, e.g. ``headrace.Answer``; the body is not looked at."""
        return self._writer(data).name

    async def fetch(self, schema_id: int) -> None:
        """Learn a schema from the registry, so that frames under this id decode from now on.

        Blocks on the registry, a few seconds at most. Raises ``DependencyDownError`` while it is away,
        ``UnknownSchemaError`` when it has no such id and ``UndecodableError`` when what it has is no schema to read
        with. Costs nothing when the id is known.
        """
        if schema_id in self._writers:
            return
        if self._source is None:
            raise UnknownSchemaError(schema_id)
        self._learn(RegisteredSchema(schema_id, await self._source.fetch(schema_id)))

    def _writer(self, data: bytes) -> _Writer:
        schema_id = schema_id_of(data)
        writer = self._writers.get(schema_id)
        if writer is None:
            raise UnknownSchemaError(schema_id)
        return writer

    def _read(self, writer: _Writer, data: bytes, kind: type[RecordT]) -> RecordT:
        body = BytesIO(data)
        body.seek(HEADER_BYTES)
        try:
            plain = schemaless_reader(body, writer.schema, writer.resolve_to)
            record = from_plain(kind, cast("dict[str, Any]", plain))
        except Exception as error:  # fastavro lets out whatever its reading of hostile bytes ran into
            raise _undecodable(writer, data, f"the body does not fit ({type(error).__name__})") from None
        if body.tell() != len(data):
            raise _undecodable(writer, data, f"{len(data) - body.tell()} bytes are left over")
        return record

    def _learn(self, entry: RegisteredSchema) -> None:
        """Take in a writer schema; raises ``UndecodableError`` for one that is no Avro schema or not bounded."""
        try:
            schema = _parse(json.loads(entry.schema))
        except (ValueError, TypeError, KeyError, RecursionError, SchemaParseException):
            raise UndecodableError(f"schema id {entry.schema_id} is no valid Avro schema") from None
        if reason := unbounded(schema):
            raise UndecodableError(f"schema id {entry.schema_id} is not read: {reason}")
        name = schema["name"] if isinstance(schema, dict) and "name" in schema else "a schema without a name"
        today = self._today.get(name)
        self._writers[entry.schema_id] = _Writer(entry.schema_id, name, schema, None if schema == today else today)


def _parse(schema: Any) -> Any:
    """The schema as fastavro wants it, parsed once: names are made full, and nothing is parsed on the hot path."""
    return parse_schema(schema, {})


def _undecodable(writer: _Writer, data: bytes, reason: str) -> UndecodableError:
    return UndecodableError(f"{writer.name} (schema id {writer.schema_id}), {len(data)} bytes: {reason}")
