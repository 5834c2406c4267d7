"""Bodies that are too large for a topic, by tenant and digest."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Protocol

from processors.claimcheck import PREFIX
from processors.postgres import Database
from schemas.errors import DependencyDownError


class Bodies(Protocol):
    """Keeps bodies for as long as retention says after they were last put. A tenant sees its own alone."""

    async def put(self, tenant: str, bodies: Mapping[str, bytes]) -> None:
        """Store bodies by their references; those that are there are sent no second time. Durable when it returns.

        Raises ``DependencyDownError``.
        """
        ...

    async def get(self, tenant: str, refs: Collection[str]) -> dict[str, bytes]:
        """The bodies of these references; those that are not there are left out. Raises ``DependencyDownError``."""
        ...


# One that is used again counts as new, to a day: so that a body in use is not written for every event.
KNOWN = """
WITH touched AS (
    UPDATE bodies SET stored_at = clock_timestamp()
    WHERE tenant = %(tenant)s AND digest = ANY(%(digests)s) AND stored_at < clock_timestamp() - interval '1 day'
)
SELECT digest FROM bodies WHERE tenant = %(tenant)s AND digest = ANY(%(digests)s)
"""
INSERT = """
WITH durable AS (SELECT set_config('synchronous_commit', 'on', true))
INSERT INTO bodies (tenant, digest, body) SELECT %(tenant)s, %(digest)s, %(body)s FROM durable
ON CONFLICT (tenant, digest) DO UPDATE SET stored_at = excluded.stored_at
"""
SELECT = "SELECT digest, body FROM bodies WHERE tenant = %(tenant)s AND digest = ANY(%(digests)s)"


class PostgresBodies:
    """``Bodies`` in the table ``bodies``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def put(self, tenant: str, bodies: Mapping[str, bytes]) -> None:
        digests = [digest for ref in bodies if (digest := digest_of(ref)) is not None]
        rows = await self._database.execute(KNOWN, {"tenant": tenant, "digests": digests})
        known = {bytes(row[0]) for row in rows}
        for ref, body in bodies.items():
            digest = digest_of(ref)
            if digest is not None and digest not in known:
                await self._database.execute(INSERT, {"tenant": tenant, "digest": digest, "body": body})

    async def get(self, tenant: str, refs: Collection[str]) -> dict[str, bytes]:
        digests = [digest for ref in refs if (digest := digest_of(ref)) is not None]
        rows = await self._database.execute(SELECT, {"tenant": tenant, "digests": digests})
        return {PREFIX + bytes(digest).hex(): bytes(body) for digest, body in rows}


class FakeBodies:
    """Bodies that a test looks at. ``down`` makes every call fail as if Postgres were away."""

    def __init__(self) -> None:
        self.kept: dict[tuple[str, str], bytes] = {}
        self.down = False

    async def put(self, tenant: str, bodies: Mapping[str, bytes]) -> None:
        self._reach()
        self.kept |= {(tenant, ref): body for ref, body in bodies.items()}

    async def get(self, tenant: str, refs: Collection[str]) -> dict[str, bytes]:
        self._reach()
        return {ref: self.kept[tenant, ref] for ref in refs if (tenant, ref) in self.kept}

    def _reach(self) -> None:
        if self.down:
            raise DependencyDownError("postgres", "the test took it away")


def digest_of(ref: str) -> bytes | None:
    """The digest that a reference names; ``None`` for one of another form."""
    try:
        digest = bytes.fromhex(ref.removeprefix(PREFIX)) if ref.startswith(PREFIX) else b""
    except ValueError:
        return None
    return digest if len(digest) == 32 else None
