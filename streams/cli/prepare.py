"""What a stack needs before workers start: a migrated database, topics, registered schemas, a default prompt."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, TypeVar

import psycopg
import typer

from infra.migrate import MigrationError, above
from infra.migrate import apply as apply_migrations
from infra.migrate import revert as revert_migrations
from schemas.errors import ConfigurationError, DependencyDownError
from schemas.files import event_schemas
from streams import security
from streams.cli.output import print_json, say
from streams.settings import Settings, load_settings
from streams.topics import apply, compare

RETRY_PAUSE_S = 1.0
T = TypeVar("T")


def prepare(folder: Path, *, lane: str = "live") -> None:
    """Migrate, create topics and register schemas; what is there already is left. Blocks on all three."""
    prepare_all(load_settings(folder=folder), lane=lane)


def prepare_all(settings: Settings, *, lane: str = "live") -> None:
    """As ``prepare``, for settings at hand."""
    migrate_database(settings)
    difference = compare(settings, lane)
    if difference:
        apply(settings, lane, difference)
    register_schemas(settings)


def register_schemas(settings: Settings) -> None:
    """Register this version's schemas; those that are there are left. Blocks on the registry."""
    registry = security.registry(settings.registry)
    asyncio.run(registry.register(event_schemas()))


def migrate_database(settings: Settings) -> list[str]:
    """Apply the migrations that are pending; their names. Raises ``DependencyDownError`` when Postgres is away."""
    with _as_ours():
        dsn = settings.postgres.dsn.get_secret_value()
        return apply_migrations(dsn, embedding_dimension=settings.embeddings.dimension)


@contextmanager
def _as_ours() -> Iterator[None]:
    """Turn what the migration runner raises into errors of ours."""
    try:
        yield
    except MigrationError as error:
        raise ConfigurationError(str(error)) from None
    except psycopg.OperationalError as error:
        raise DependencyDownError("postgres", type(error).__name__) from None


def migrate(
    to: Annotated[int | None, typer.Option(min=0, help="Go back to this version: later tables are dropped.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Drop them without asking.")] = False,
    folder: Annotated[Path | None, typer.Option(help="The embedded stack's folder.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Bring the database to this version's tables, or with --to back to those of an earlier one."""
    settings = load_settings(folder=folder)
    if to is not None:
        reverted = _back(settings, to, yes=yes)
        if json:
            print_json({"reverted": reverted})
        else:
            say("reverted " + ", ".join(reverted) if reverted else f"nothing is above version {to}")
        return
    applied = migrate_database(settings)
    if json:
        print_json({"applied": applied})
    else:
        say("applied " + ", ".join(applied) if applied else "the database is up to date")


def _back(settings: Settings, to: int, *, yes: bool) -> list[str]:
    """Take migrations back, once the operator said so: what is in their tables goes with them."""
    with _as_ours():
        dsn = settings.postgres.dsn.get_secret_value()
        going = above(dsn, to)
        if going and not yes:
            say(f"{', '.join(going)} would be taken back, with everything in their tables; stop every worker first")
            if not typer.confirm("go on?", err=True):
                raise typer.Exit(1)
        return revert_migrations(dsn, to, embedding_dimension=settings.embeddings.dimension)


def prepare_stack(
    lane: Annotated[str, typer.Option(help="Lane whose topics are made.")] = "live",
    wait: Annotated[float, typer.Option(min=0, help="Seconds to wait for what does not answer yet.")] = 0.0,
    folder: Annotated[Path | None, typer.Option(help="The embedded stack's folder.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Migrate the database, create the lane's topics and register the schemas: all that workers need."""
    settings, deadline = load_settings(folder=folder), time.monotonic() + wait
    applied = _patiently(lambda: migrate_database(settings), deadline)
    difference = _patiently(lambda: compare(settings, lane), deadline)
    apply(settings, lane, difference)
    _patiently(lambda: register_schemas(settings), deadline)
    if json:
        print_json({"migrations": applied, "topics": list(difference.create), "lane": lane})
    else:
        say(f"{len(applied)} migration(s) applied, {len(difference.create)} topic(s) of {lane} created, schemas there")


def _patiently(work: Callable[[], T], deadline: float) -> T:
    """Call until the dependency answers or the time is up."""
    while True:
        try:
            return work()
        except DependencyDownError as error:
            if time.monotonic() >= deadline:
                raise
            say(f"waiting: {error}")
            time.sleep(RETRY_PAUSE_S)
