"""Events that are too large for their topic: their largest texts are stored, and the event carries references.

Stages and commands see whole events: what is too large is parted when it is published and made whole when it is read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import psycopg

from processors.bodies import INSERT, KNOWN, SELECT, Bodies, digest_of
from processors.claimcheck import MARK, PREFIX, part, refs_of, whole
from processors.postgres import away
from schemas.codec import Codec
from schemas.errors import DependencyDownError, OversizedError
from schemas.record import Record, RecordT
from schemas.records import Meta
from streams.settings import Settings

# Names the largest text that is elsewhere (CloudEvents' extension for the claim check).
DATAREF = "ce_dataref"
CONNECT_TIMEOUT_S = 5

Parts = tuple[Record, bytes, Mapping[str, bytes]]


class Claims:
    """Parts the events of a worker and makes them whole. ``most_bytes`` bounds a whole event."""

    def __init__(self, bodies: Bodies, codec: Codec, *, most_bytes: int) -> None:
        self._bodies, self._codec, self._most_bytes = bodies, codec, most_bytes

    def parted(self, record: Record, value: bytes, limit: int) -> Parts:
        """The event, its bytes, and the bodies that have to be stored before it is sent.

        The same event gives the same bytes. Raises ``OversizedError`` for one that is over ``most_bytes``.
        """
        return _parted(record, value, limit, codec=self._codec, most_bytes=self._most_bytes)

    async def store(self, tenant: str, bodies: Mapping[str, bytes]) -> None:
        """Store bodies. Blocks on Postgres; raises ``DependencyDownError``."""
        await self._bodies.put(tenant, bodies)

    async def whole(self, record: RecordT, value: bytes, tenant: str) -> RecordT:
        """The event with its texts; references to what is not stored stay, and so do all where it would be too large.

        Asks nobody where there is no reference. Raises ``DependencyDownError``.
        """
        refs = _refs(record, value)
        return _rejoined(record, refs, await self._bodies.get(tenant, refs), self._most_bytes) if refs else record


class BlockingClaims:
    """The same for commands, which have no event loop. Connects for each event that needs it, and for no other."""

    def __init__(self, settings: Settings, codec: Codec) -> None:
        self._dsn, self._codec = settings.postgres.dsn.get_secret_value(), codec
        self._most_bytes = settings.bodies.max_bytes

    def check(self, record: Record, value: bytes, limit: int) -> bytes:
        """The bytes that would be sent for an event; nothing is stored. Raises ``OversizedError``."""
        return _parted(record, value, limit, codec=self._codec, most_bytes=self._most_bytes)[1]

    def store(self, record: Record, value: bytes, limit: int) -> tuple[bytes, list[str]]:
        """The bytes to send for an event, once what they refer to is stored, and these references, largest text first.

        Raises ``OversizedError``, and ``DependencyDownError`` where Postgres is needed and away.
        """
        _, sent, bodies = _parted(record, value, limit, codec=self._codec, most_bytes=self._most_bytes)
        if bodies:
            meta: Meta = record.meta  # type: ignore[attr-defined]
            digests = [digest_of(ref) for ref in bodies]
            with self._connected() as connection:
                rows = connection.execute(KNOWN, {"tenant": meta.tenant, "digests": digests}).fetchall()
                known = {bytes(row[0]) for row in rows}
                for ref, body in bodies.items():
                    if (digest := digest_of(ref)) not in known:
                        connection.execute(INSERT, {"tenant": meta.tenant, "digest": digest, "body": body})
        return sent, list(bodies)

    def whole(self, record: RecordT, value: bytes) -> RecordT:
        """As ``Claims.whole``, for the tenant that the event says."""
        refs = _refs(record, value)
        if not refs:
            return record
        meta: Meta = record.meta  # type: ignore[attr-defined]
        digests = [digest for ref in refs if (digest := digest_of(ref)) is not None]
        with self._connected() as connection:
            rows = connection.execute(SELECT, {"tenant": meta.tenant, "digests": digests}).fetchall()
        bodies = {PREFIX + bytes(digest).hex(): bytes(body) for digest, body in rows}
        return _rejoined(record, refs, bodies, self._most_bytes)

    @contextmanager
    def _connected(self) -> Iterator[psycopg.Connection[Any]]:
        try:
            with psycopg.connect(self._dsn, autocommit=True, connect_timeout=CONNECT_TIMEOUT_S) as connection:
                yield connection
        except psycopg.Error as error:
            if away(error):
                raise DependencyDownError("postgres", "it holds texts that are too large for a topic") from error
            raise


def _parted(record: Record, value: bytes, limit: int, *, codec: Codec, most_bytes: int) -> Parts:
    if len(value) <= limit:
        return record, value, {}
    if len(value) > most_bytes:
        name = type(record).__name__
        raise OversizedError(
            f"{name} is {len(value)} bytes; an event may have {max(limit, most_bytes)}: shorten it"
            + (", or raise bodies.max_bytes" if most_bytes > limit else "")
        )
    found = part(record, len(value) - limit)
    return found.record, codec.encode(found.record), found.bodies


def _refs(record: Record, value: bytes) -> Counter[str]:
    return refs_of(record) if MARK in value else Counter()


def _rejoined(record: RecordT, refs: Counter[str], bodies: Mapping[str, bytes], most_bytes: int) -> RecordT:
    if sum(times * len(bodies.get(ref, b"")) for ref, times in refs.items()) > most_bytes:
        return record
    return whole(record, bodies)
