"""Pausing, resuming and cancelling from outside: what may be named, what is so already, and the record to publish."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from typing import TypeVar

from processors.control import CANCELLED, Pausable
from processors.control_state import LONGEST_NAME
from processors.finality import PostgresFinality
from processors.postgres import Database
from schemas.errors import ConfigurationError
from schemas.records import Answer, Control, Meta
from streams import security
from streams.paused import Held, read_control, what_is_paused
from streams.publish import publish_control
from streams.reading import TopicReader
from streams.settings import Settings
from streams.stages import STAGES
from streams.topics import topic_name

T = TypeVar("T")

# Names shown in a refusal.
MOST_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Changed:
    """What a pause or a resume led to: what stood there before, and what stands there now."""

    before: Held | None
    after: Held | None


def pause(
    settings: Settings,
    kind: Pausable,
    name: str,
    *,
    lane: str,
    author: str = "",
    reason: str = "",
    unseen: bool = False,
) -> Changed:
    """Pause, unless it is paused. Blocks on broker, registry and Postgres until the record is acknowledged.

    Without Postgres a tenant's name is taken only as ``unseen``, and how much is set aside is not told. Raises
    ``ConfigurationError`` for a name that is not there (``unseen`` takes a tenant that never asked anything) and
    ``DependencyDownError``.
    """
    if not unseen or kind != "tenant":
        check_name(kind, name, known_names(settings, kind), lane=lane)
    before = _held(settings, kind, name, lane)
    if before is None:
        _publish(settings, "pause", f"{kind}/{name}", lane=lane, author=author, reason=reason)
    return Changed(before, before or _held(settings, kind, name, lane))


def resume(settings: Settings, kind: Pausable, name: str, *, lane: str, author: str = "", reason: str = "") -> Changed:
    """Resume, if it is paused: what was set aside is put back by the workers of its stages. Blocks and raises as above.

    A name that left the settings while it was paused can be resumed.
    """
    before = _held(settings, kind, name, lane)
    if before is None:
        check_name(kind, name, known_names(settings, kind), lane=lane)
    else:
        _publish(settings, "pause", f"{kind}/{name}", lane=lane, author=author, reason=reason, removed=True)
    return Changed(before, None)


def known_names(settings: Settings, kind: Pausable) -> list[str]:
    """What there is of a kind; tenants are those of the settings and those that ever asked. May block on Postgres."""
    if kind == "stage":
        return list(STAGES)
    if kind == "route":
        return sorted(settings.routes)
    return sorted({*settings.tenants, *asyncio.run(_with(settings, _tenants))})


def check_name(kind: Pausable, name: str, known: Collection[str], *, lane: str) -> None:
    """Raise ``ConfigurationError`` for a name that is not among those known."""
    if name in known:
        return
    shown = ", ".join(list(known)[:MOST_SHOWN]) + (", …" if len(known) > MOST_SHOWN else "")
    more = "; a tenant that is still to come is taken with --unseen" if kind == "tenant" else ""
    raise ConfigurationError(f"there is no {kind} {name[:100]!r} in lane {lane}; there are {shown}{more}")


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as the database knows it. ``known``: admission has seen it; ``status`` and ``code`` of its answer."""

    tenant: str
    known: bool
    status: str | None = None
    code: str | None = None

    @property
    def cancelled(self) -> bool:
        """Whether it ended because it was cancelled."""
        return self.status == "failed" and self.code == CANCELLED


def look_up(settings: Settings, request_id: str, *, lane: str, tenant: str | None = None) -> Asked:
    """What became of a request. Blocks on Postgres and, for an answer, the registry.

    Without ``tenant`` every tenant is tried that the settings name or that ever asked. Raises ``ConfigurationError``
    where several of them used the id, or none did and there are several; ``DependencyDownError``.
    """
    _check_request(tenant, request_id)
    tenants = [tenant] if tenant else known_names(settings, "tenant")

    async def find(database: Database) -> list[str]:
        rows = await database.execute(_ASKED, {"tenants": tenants, "lane": lane, "request_id": request_id})
        return [row[0] for row in rows]

    found = asyncio.run(_with(settings, find))
    if len(found) > 1 or (not found and len(tenants) > 1):
        which = f"was used by the tenants {', '.join(found)}" if found else "is not known"
        raise ConfigurationError(f"{request_id} {which}; name its tenant with --tenant")
    return final_of(settings, found[0], request_id, lane=lane) if found else Asked(tenants[0], known=False)


def final_of(settings: Settings, tenant: str, request_id: str, *, lane: str) -> Asked:
    """The request's final answer, if it has one. Blocks and raises as ``look_up``."""

    async def read(database: Database) -> Asked:
        stored = await PostgresFinality(database).get(tenant, lane, request_id)
        if stored is None:
            return Asked(tenant, known=True)
        codec = await security.codec(settings.registry)
        failure = codec.decode(stored.value, Answer).failure
        return Asked(tenant, known=True, status=stored.status, code=failure.code if failure else None)

    return asyncio.run(_with(settings, read))


def cancel(settings: Settings, asked: Asked, request_id: str, *, lane: str, author: str = "", reason: str = "") -> int:
    """Publish the cancel and wait for the broker; the offset of its control record.

    Raises ``ConfigurationError`` for a lane without topics.
    """
    with TopicReader(settings) as reader:
        reader.counts([topic_name(settings.prefix, lane, "control")])
    name = f"{asked.tenant}/{request_id}"
    _publish(settings, "cancel", name, lane=lane, author=author, reason=reason)
    wanted = (asked.tenant, request_id)
    cancels = read_control(settings, lane=lane).cancels()
    return max((found.offset for found in cancels if (found.tenant, found.request_id) == wanted), default=-1)


def _held(settings: Settings, kind: Pausable, name: str, lane: str) -> Held | None:
    paused = what_is_paused(settings, lane=lane)
    return next((held for held in paused if (held.pause.kind, held.pause.name) == (kind, name)), None)


def _publish(
    settings: Settings, kind: str, name: str, *, lane: str, author: str, reason: str, removed: bool = False
) -> None:
    record = Control(
        meta=Meta(event_id="", request_id="", tenant="", lane=lane, stage="producer"),
        kind=kind,
        name=name,
        author=author,
        reason=reason,
        removed=removed,
    )
    asyncio.run(publish_control(settings, record, lane=lane))


def _check_request(tenant: str | None, request_id: str) -> None:
    names = {"REQUEST_ID": request_id, **({"--tenant": tenant} if tenant is not None else {})}
    for option, value in names.items():
        if not value or not value.isprintable() or len(value) > LONGEST_NAME:
            raise ConfigurationError(f"{option} must be 1 to {LONGEST_NAME} printable characters")
    if tenant is not None and "/" in tenant:
        raise ConfigurationError("--tenant must be a tenant's name, which has no slash")


async def _with(settings: Settings, work: Callable[[Database], Awaitable[T]]) -> T:
    database = await Database.open(settings.postgres.dsn.get_secret_value(), max_size=1)
    try:
        return await work(database)
    finally:
        await database.close()


async def _tenants(database: Database) -> list[str]:
    return [row[0] for row in await database.execute(_TENANTS)]


# One step of the primary key's index for each tenant, however many requests it made.
_TENANTS = """
    WITH RECURSIVE found AS (
        (SELECT tenant FROM idempotency ORDER BY tenant LIMIT 1)
        UNION ALL
        SELECT (SELECT tenant FROM idempotency WHERE tenant > found.tenant ORDER BY tenant LIMIT 1)
        FROM found WHERE found.tenant IS NOT NULL)
    SELECT tenant FROM found WHERE tenant IS NOT NULL LIMIT 10000
"""
_ASKED = """
    SELECT tenant FROM idempotency
    WHERE tenant = ANY(%(tenants)s) AND lane = %(lane)s AND scope = 'request' AND key = %(request_id)s
    UNION
    SELECT tenant FROM finals
    WHERE tenant = ANY(%(tenants)s) AND lane = %(lane)s AND request_id = %(request_id)s
    ORDER BY tenant
"""
