"""Prompt templates by name and version. A version is never changed: its text is found by its digest."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

from processors.postgres import Connection, Database
from schemas.errors import ConfigurationError

# What the package ships. Each is version 1 of its name for good: an improved one ships under another name, because
# a deployment may have pushed a version 2 of its own.
SHIPPED: Mapping[str, str] = {
    path.stem: path.read_text(encoding="utf-8")
    for path in sorted((Path(__file__).parent / "enrich" / "prompts").glob("*.j2"))
}


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredPrompt:
    """One version of a template. ``created_at`` is ``None`` for what the package ships."""

    name: str
    version: int
    digest: str
    text: str
    created_at: datetime | None = None

    @property
    def reference(self) -> str:
        """How events name it: ``name@n``."""
        return f"{self.name}@{self.version}"


class PromptStore(Protocol):
    """Blocks on the store and raises ``DependencyDownError`` when it is away."""

    async def get(self, name: str, version: int) -> StoredPrompt | None:
        """This version; ``None`` when there is none. Asked once: what was found is kept in the process."""
        ...

    async def push(self, name: str, text: str) -> int:
        """Store the text as the name's next version; the version that has it already, if there is one."""
        ...

    async def load(self, prompts: Sequence[StoredPrompt]) -> int:
        """Store versions as another store has them, all or none; how many were not there yet.

        Nothing is overwritten. Raises ``ConfigurationError`` that names every version that has another text here, and
        every text that is another version here.
        """
        ...

    async def list(self) -> tuple[StoredPrompt, ...]:
        """Every version, by name and version."""
        ...

    async def show(self, name: str, version: int | None = None) -> StoredPrompt | None:
        """This version, or the latest."""
        ...


def digest_of(text: str) -> str:
    """sha256 of a template, as hex."""
    return hashlib.sha256(text.encode()).hexdigest()


def parse_reference(reference: str) -> tuple[str, int | None]:
    """Name and version of ``name@n`` or ``name``. Raises ``ConfigurationError``."""
    name, at, version = reference.partition("@")
    if not name or (at and not (version.isascii() and version.isdigit())):
        raise ConfigurationError(f"{reference!r} is no prompt; write NAME or NAME@N, e.g. answer@1")
    return name, int(version) if at else None


def check_loadable(prompts: Sequence[StoredPrompt], known: Mapping[tuple[str, int], str]) -> list[StoredPrompt]:
    """Those of the prompts that are not there. ``known``: digests by name and version.

    Raises ``ConfigurationError`` as ``PromptStore.load``.
    """
    versions = {(name, digest): version for (name, version), digest in known.items()}
    missing, wrong = [], []
    for prompt in prompts:
        here = known.get((prompt.name, prompt.version))
        if here is None and (prompt.name, prompt.digest) not in versions:
            missing.append(prompt)
        elif here is None:
            wrong.append(f"{prompt.reference} is {prompt.name}@{versions[prompt.name, prompt.digest]} here")
        elif here != prompt.digest:
            wrong.append(f"{prompt.reference} has another text here")
    if wrong:
        raise ConfigurationError(
            f"prompts can't be loaded, and none was: {'; '.join(wrong)}. A version keeps its text for good: "
            "load them where these names are free, or load without prompts"
        )
    return missing


def _shipped(name: str, version: int = 1) -> StoredPrompt | None:
    text = SHIPPED.get(name)
    if text is None or version != 1:
        return None
    return StoredPrompt(name=name, version=1, digest=digest_of(text), text=text)


class PgPrompts:
    """Templates in the table ``prompts``, and what the package ships."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known: dict[tuple[str, int], StoredPrompt] = {}

    async def get(self, name: str, version: int) -> StoredPrompt | None:
        prompt = self._known.get((name, version)) or await self._read(name, version) or _shipped(name, version)
        if prompt is not None:
            self._known[name, version] = prompt
        return prompt

    async def push(self, name: str, text: str) -> int:
        async def work(connection: Connection) -> int:
            # Two that push to a name at once would take the same number.
            await connection.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", (f"prompt:{name}",))
            shipped = _shipped(name)
            if shipped is not None:
                await connection.execute(
                    "INSERT INTO prompts (name, version, digest, template) VALUES (%s, 1, %s, %s)"
                    " ON CONFLICT DO NOTHING",
                    (name, shipped.digest, shipped.text),
                )
            # The same text keeps its version: the conflict on (name, digest) leaves no row to return.
            await connection.execute(
                "INSERT INTO prompts (name, version, digest, template)"
                " SELECT %(name)s, coalesce(max(version), 0) + 1, %(digest)s, %(text)s"
                " FROM prompts WHERE name = %(name)s"
                " ON CONFLICT (name, digest) DO NOTHING",
                {"name": name, "digest": digest_of(text), "text": text},
            )
            cursor = await connection.execute(
                "SELECT version FROM prompts WHERE name = %s AND digest = %s", (name, digest_of(text))
            )
            row = await cursor.fetchone()
            assert row is not None
            return int(row[0])

        return await self._database.run(work)

    async def load(self, prompts: Sequence[StoredPrompt]) -> int:
        names = sorted({prompt.name for prompt in prompts})

        async def work(connection: Connection) -> int:
            # In order of name, so that two that load at once don't wait for each other.
            for name in names:
                await connection.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", (f"prompt:{name}",))
            cursor = await connection.execute(
                "SELECT name, version, digest FROM prompts WHERE name = ANY(%s)", (names,)
            )
            known = {(row[0], row[1]): row[2] for row in await cursor.fetchall()}
            for name in names:
                if (shipped := _shipped(name)) is not None:
                    known.setdefault((name, 1), shipped.digest)
            missing = check_loadable(prompts, known)
            for prompt in missing:
                await connection.execute(
                    "INSERT INTO prompts (name, version, digest, template, created_at)"
                    " VALUES (%s, %s, %s, %s, coalesce(%s, now()))",
                    (prompt.name, prompt.version, prompt.digest, prompt.text, prompt.created_at),
                )
            return len(missing)

        return await self._database.run(work)

    async def list(self) -> tuple[StoredPrompt, ...]:
        rows = await self._database.execute("SELECT name, version, digest, template, created_at FROM prompts")
        found = {(row[0], row[1]): _stored(row) for row in rows}
        for name in SHIPPED:
            shipped = _shipped(name)
            if shipped is not None:
                found.setdefault((name, 1), shipped)
        return tuple(found[key] for key in sorted(found))

    async def show(self, name: str, version: int | None = None) -> StoredPrompt | None:
        if version is not None:
            return await self.get(name, version)
        rows = await self._database.execute(
            "SELECT name, version, digest, template, created_at FROM prompts WHERE name = %s"
            " ORDER BY version DESC LIMIT 1",
            (name,),
        )
        return _stored(rows[0]) if rows else _shipped(name)

    async def _read(self, name: str, version: int) -> StoredPrompt | None:
        rows = await self._database.execute(
            "SELECT name, version, digest, template, created_at FROM prompts WHERE name = %s AND version = %s",
            (name, version),
        )
        return _stored(rows[0]) if rows else None


def _stored(row: tuple[str, int, str, str, datetime]) -> StoredPrompt:
    name, version, digest, text, created_at = row
    return StoredPrompt(name=name, version=version, digest=digest, text=text, created_at=created_at)


class FakePrompts:
    """Templates in memory, with what the package ships."""

    def __init__(self) -> None:
        self.prompts: dict[tuple[str, int], StoredPrompt] = {}
        for name in SHIPPED:
            shipped = _shipped(name)
            if shipped is not None:
                self.prompts[name, 1] = shipped

    async def get(self, name: str, version: int) -> StoredPrompt | None:
        return self.prompts.get((name, version))

    async def push(self, name: str, text: str) -> int:
        versions = [prompt for prompt in self.prompts.values() if prompt.name == name]
        for prompt in versions:
            if prompt.digest == digest_of(text):
                return prompt.version
        version = max((prompt.version for prompt in versions), default=0) + 1
        self.prompts[name, version] = StoredPrompt(name=name, version=version, digest=digest_of(text), text=text)
        return version

    async def load(self, prompts: Sequence[StoredPrompt]) -> int:
        missing = check_loadable(prompts, {key: prompt.digest for key, prompt in self.prompts.items()})
        self.prompts.update({(prompt.name, prompt.version): prompt for prompt in missing})
        return len(missing)

    async def list(self) -> tuple[StoredPrompt, ...]:
        return tuple(self.prompts[key] for key in sorted(self.prompts))

    async def show(self, name: str, version: int | None = None) -> StoredPrompt | None:
        if version is not None:
            return self.prompts.get((name, version))
        latest = [prompt for prompt in await self.list() if prompt.name == name]
        return latest[-1] if latest else None
