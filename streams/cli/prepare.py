"""What a stack needs before workers start: a migrated database, topics, registered schemas, a default prompt."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from infra.migrate import apply as apply_migrations
from schemas.files import event_schemas
from schemas.registry import Registry
from streams.cli.output import print_json, say
from streams.settings import Settings, load_settings
from streams.topics import apply, compare


def prepare(folder: Path, *, lane: str = "live") -> None:
    """Migrate, create topics and register schemas; what is there already is left. Blocks on all three."""
    prepare_all(load_settings(folder=folder), lane=lane)


def prepare_all(settings: Settings, *, lane: str = "live") -> None:
    """As ``prepare``, for settings at hand."""
    migrate_database(settings)
    difference = compare(settings, lane)
    if difference:
        apply(settings, lane, difference)
    registry = Registry(settings.registry.url, options=settings.registry.options)
    asyncio.run(registry.register(event_schemas()))


def migrate_database(settings: Settings) -> list[str]:
    """Apply the migrations that are pending; their names."""
    dsn = settings.postgres.dsn.get_secret_value()
    return apply_migrations(dsn, embedding_dimension=settings.embeddings.dimension)


def migrate(
    folder: Annotated[Path | None, typer.Option(help="The embedded stack's folder.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Bring the database to this version's tables."""
    applied = migrate_database(load_settings(folder=folder))
    if json:
        print_json({"applied": applied})
    else:
        say("applied " + ", ".join(applied) if applied else "the database is up to date")
