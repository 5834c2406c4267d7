"""The schema registry: registering and looking up our schemas, and fetching those of old or foreign writers.

Subjects are the records' full names (RecordNameStrategy), because a record flows in the topics of many lanes.
Nothing here is called on the hot path.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from confluent_kafka.schema_registry import AsyncSchemaRegistryClient, Schema
from confluent_kafka.schema_registry.error import OAuthTokenError, SchemaRegistryError

from schemas.errors import ConfigurationError, DependencyDownError, UnknownSchemaError

COMPATIBILITY = "FULL_TRANSITIVE"
# Short, because whoever waits for the registry waits between attempts and asks again.
_LIMITS: dict[str, Any] = {"timeout": 10, "max.retries": 1, "retries.wait.ms": 100, "retries.max.wait.ms": 500}
_NUMBERS = ("timeout", "max.retries", "retries.wait.ms", "retries.max.wait.ms", "cache.capacity")

T = TypeVar("T")


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


class Registry:
    """A Confluent-compatible registry. Every method blocks on it; raises ``DependencyDownError`` while it is away."""

    def __init__(self, url: str, *, options: Mapping[str, str] | None = None) -> None:
        """``options`` go to confluent-kafka's client as they are; raises ``ConfigurationError`` for one it refuses."""
        given = {key: _number(value) if key in _NUMBERS else value for key, value in (options or {}).items()}
        try:
            self._client = AsyncSchemaRegistryClient({"url": url, **_LIMITS, **given})
        except (ValueError, TypeError, OSError) as error:
            raise ConfigurationError(f"registry options are not right: {error}") from error

    async def fetch(self, schema_id: int) -> str:
        """The JSON of the schema under this id. Raises ``UnknownSchemaError`` when the registry denies it."""
        try:
            found = await _ask(self._client.get_schema(schema_id))
        except _Denied:
            raise UnknownSchemaError(schema_id) from None
        return str(found.schema_str)

    async def lookup(self, subject: str, schema: str) -> int | None:
        """The id under which the subject holds exactly this schema, or ``None``."""
        try:
            found = await _ask(self._client.lookup_schema(subject, Schema(schema, "AVRO")))
        except _Denied:
            return None
        return found.schema_id

    async def versions(self, subject: str) -> list[RegisteredSchema]:
        """Every version of the subject, oldest first; empty where it is not there."""
        try:
            numbers = await _ask(self._client.get_versions(subject))
        except _Denied:
            return []
        found = [await _ask(self._client.get_version(subject, number)) for number in numbers]
        return [
            RegisteredSchema(one.schema_id, str(one.schema.schema_str)) for one in found if one.schema_id is not None
        ]


class _Denied(Exception):  # noqa: N818 - never leaves this module
    """The registry answered that it has no such subject, version or id."""


async def _ask(call: Awaitable[T]) -> T:
    try:
        return await call
    except SchemaRegistryError as error:
        if error.http_status_code == 404:
            raise _Denied from None
        if error.http_status_code in (400, 401, 403, 405, 409, 422):
            raise ConfigurationError(f"the schema registry refused: {error}") from None
        raise DependencyDownError("registry", f"HTTP {error.http_status_code}") from None
    except OAuthTokenError as error:
        raise DependencyDownError("registry", f"no token: {error}") from None
    except Exception as error:  # httpx or httpx2, whichever the client found: not importable by one name
        raise DependencyDownError("registry", type(error).__name__) from error


def _number(value: str) -> float | int:
    return float(value) if "." in value else int(value)
