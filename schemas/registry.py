"""The schema registry: registering and looking up our schemas, and fetching those of old or foreign writers.

Subjects are the records' full names (RecordNameStrategy), because a record flows in the topics of many lanes.
Nothing here is called on the hot path.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from confluent_kafka.schema_registry import AsyncSchemaRegistryClient, Schema
from confluent_kafka.schema_registry.error import SchemaRegistryError

from schemas.errors import ConfigurationError, DependencyDownError, HeadraceError, UnknownSchemaError

COMPATIBILITY = "FULL_TRANSITIVE"
# Short, because whoever waits for the registry waits between attempts and asks again.
_LIMITS: dict[str, Any] = {"timeout": 10, "max.retries": 1, "retries.wait.ms": 100, "retries.max.wait.ms": 500}
_NUMBERS = ("timeout", "max.retries", "retries.wait.ms", "retries.max.wait.ms", "cache.capacity")
_REFUSALS = (400, 401, 403, 405, 409, 422)
# Confluent's codes for: subject, version, schema not found.
_NOT_THERE = (40401, 40402, 40403)


@dataclass(frozen=True, slots=True)
class RegisteredSchema:
    """A schema as the registry holds it."""

    schema_id: int
    schema: str


class SchemaSource(Protocol):
    """Where a schema that the codec does not hold comes from."""

    async def fetch(self, schema_id: int) -> str:
        """The schema's JSON. Raises ``DependencyDownError`` (away) or ``UnknownSchemaError`` (denied)."""
        ...


class FakeSource:
    """A source that holds what a test puts in; ``away`` makes it unreachable."""

    def __init__(self, schemas: Mapping[int, str] | None = None) -> None:
        self.schemas = dict(schemas or {})
        self.away = False
        self.asked: list[int] = []

    async def fetch(self, schema_id: int) -> str:
        self.asked.append(schema_id)
        if self.away:
            raise DependencyDownError("registry", "switched off by the test")
        if schema_id not in self.schemas:
            raise UnknownSchemaError(schema_id)
        return self.schemas[schema_id]


@dataclass(frozen=True, slots=True)
class Holding:
    """What the registry holds of one subject: the id of the schema asked about, and every version, oldest first."""

    schema_id: int | None
    versions: tuple[RegisteredSchema, ...]


@dataclass(frozen=True, slots=True)
class Registration:
    """What registering one schema came to."""

    subject: str
    schema_id: int
    version: int
    created: bool


class Registry:
    """A Confluent-compatible registry. Every method blocks on it; raises ``DependencyDownError`` while it is away.

    Each call opens a client of its own, so that there is nothing to close and no loop to stay on.
    """

    def __init__(self, url: str, *, options: Mapping[str, str] | None = None) -> None:
        """``options`` go to confluent-kafka's client as they are: basic auth, OAuth, TLS, timeouts."""
        self._settings = {"url": url, **_LIMITS, **{key: _typed(key, value) for key, value in (options or {}).items()}}

    async def fetch(self, schema_id: int) -> str:
        """The JSON of the schema under this id. Raises ``UnknownSchemaError`` when the registry denies it.

        A refused credential counts as away here: it is not the event's fault, so the event waits.
        """
        async with self._open(asked=False) as client:
            try:
                found = await client.get_schema(schema_id)
            except SchemaRegistryError as error:
                if not _denied(error):
                    raise
                raise UnknownSchemaError(schema_id) from None
            return str(found.schema_str)

    async def holdings(self, schemas: Mapping[str, str]) -> dict[str, Holding]:
        """What the registry holds of each subject. Two calls a subject and one a version, all at once."""
        async with self._open() as client:
            found = await asyncio.gather(*(_holding(client, subject, text) for subject, text in schemas.items()))
        return dict(zip(schemas, found, strict=True))

    async def register(self, schemas: Mapping[str, str]) -> list[Registration]:
        """Register each subject's schema and set the subject to FULL_TRANSITIVE; the same schema again is no change.

        Raises ``ConfigurationError`` when the registry refuses one, which says why.
        """
        async with self._open() as client:
            return [await _register(client, subject, text) for subject, text in schemas.items()]

    @asynccontextmanager
    async def _open(self, *, asked: bool = True) -> AsyncIterator[AsyncSchemaRegistryClient]:
        """A client for one call. ``asked``: somebody at a prompt or a start waits, who can mend a refusal."""
        try:
            # Loading the trusted certificates takes tens of milliseconds, which the loop must not stand still for.
            client = await asyncio.to_thread(AsyncSchemaRegistryClient, self._settings)
        except (ValueError, TypeError, OSError) as error:
            raise ConfigurationError(f"the registry's url or options are not right: {error}") from None
        try:
            async with client:
                yield client
        except HeadraceError:
            raise
        except SchemaRegistryError as error:
            if asked and error.http_status_code in _REFUSALS:
                raise ConfigurationError(f"the schema registry refused: {error}") from None
            raise DependencyDownError("registry", f"HTTP {error.http_status_code}") from None
        except Exception as error:  # the client's own HTTP errors come from whichever of httpx and httpx2 it found
            raise DependencyDownError("registry", type(error).__name__) from error


async def _holding(client: AsyncSchemaRegistryClient, subject: str, text: str) -> Holding:
    try:
        numbers = await client.get_versions(subject)
    except SchemaRegistryError as error:
        if not _denied(error):
            raise
        return Holding(None, ())
    versions = [await client.get_version(subject, number) for number in numbers]
    known = tuple(RegisteredSchema(one.schema_id, str(one.schema.schema_str)) for one in versions if one.schema_id)
    return Holding(await _lookup(client, subject, text), known)


async def _lookup(client: AsyncSchemaRegistryClient, subject: str, text: str) -> int | None:
    try:
        return (await client.lookup_schema(subject, Schema(text, "AVRO"))).schema_id
    except SchemaRegistryError as error:
        if not _denied(error):
            raise
        return None


async def _register(client: AsyncSchemaRegistryClient, subject: str, text: str) -> Registration:
    known = await _lookup(client, subject, text)
    schema_id = known if known is not None else await _create(client, subject, text)
    await client.set_compatibility(subject, COMPATIBILITY)
    version = (await client.lookup_schema(subject, Schema(text, "AVRO"))).version
    return Registration(subject, schema_id, version or 0, created=known is None)


async def _create(client: AsyncSchemaRegistryClient, subject: str, text: str) -> int:
    try:
        return int(await client.register_schema(subject, Schema(text, "AVRO")))
    except SchemaRegistryError as error:
        # Somebody else registered it at the same moment; a schema that does not fit is a 409 too, and is not there.
        there = await _lookup(client, subject, text) if error.http_status_code == 409 else None
        if there is None:
            raise
        return there


def _denied(error: SchemaRegistryError) -> bool:
    """The registry itself said that there is no such subject, version or id; a proxy's 404 has no code of its own."""
    return error.http_status_code == 404 and error.error_code in _NOT_THERE


def _typed(key: str, value: str) -> str | int | float:
    if key not in _NUMBERS:
        return value
    try:
        return float(value) if "." in value else int(value)
    except ValueError:
        raise ConfigurationError(f"registry option {key} must be a number, not {value!r}") from None
