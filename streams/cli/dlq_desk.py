"""What every ``headrace dlq`` command needs at hand: settings, a reader, the letters and what was done with them."""

from __future__ import annotations

import asyncio
import getpass
import os
import socket
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

import typer

from schemas.errors import ConfigurationError, HeadraceError
from streams import security
from streams.dlq.search import WANTED, Filter, Found, LetterSearch
from streams.dlq.state import LetterStates, letter_states
from streams.moments import moment
from streams.reading import TopicReader
from streams.settings import Settings
from streams.stages import STAGES


@dataclass(frozen=True, slots=True)
class Desk:
    """One command's connections."""

    settings: Settings
    search: LetterSearch
    states: LetterStates


@contextmanager
def desk_of(settings: Settings, lane: str) -> Iterator[Desk]:
    """Connect to broker, registry and Postgres. Raises ``DependencyDownError`` and ``ConfigurationError``."""
    dsn = settings.postgres.dsn.get_secret_value()
    with TopicReader(settings) as reader, letter_states(dsn, lane=lane, actor=_actor()) as states:
        codec = asyncio.run(security.codec(settings.registry))
        yield Desk(settings, LetterSearch(settings, reader, codec, states, lane=lane), states)


def chosen_filter(
    error_class: str | None, stage: str | None, since: str | None, until: str | None, tenant: str | None, state: str
) -> Filter:
    """The options as a filter. Raises ``ConfigurationError`` for one that can't be read."""
    if state not in WANTED:
        raise ConfigurationError(f"--state is {state!r}; take one of {', '.join(WANTED)}")
    # A name that no letter can have would show none, as if nothing had failed.
    _known("--class", error_class, _classes(HeadraceError))
    _known("--stage", stage, STAGES)
    now = datetime.now(UTC)
    return Filter(
        error_class=error_class,
        stage=stage,
        tenant=tenant,
        since=moment(since, now=now) if since else None,
        until=moment(until, now=now) if until else None,
        state=state,
    )


def _known(option: str, given: str | None, there: Collection[str]) -> None:
    if given is not None and given not in there:
        raise ConfigurationError(f"{option} {given}: no letter has that; take one of {', '.join(sorted(there))}")


def _classes(error: type[HeadraceError]) -> set[str]:
    """The classes of an error and all that are derived from it."""
    return {error.error_class}.union(*(_classes(one) for one in error.__subclasses__()))


def choose(desk: Desk, ids: Sequence[str] | None, wanted: Filter, verb: str, *, sure: bool) -> Iterator[Found]:
    """The letters with these ids, or the open ones that pass the filter once a person agreed to their number.

    Ids are all looked up before the first is given out. Raises ``ConfigurationError`` for an id that is none, for ids
    together with filters, and for neither.
    """
    if ids and wanted.narrow:
        raise ConfigurationError("name letters by id or by filters, not by both")
    if ids:
        named: dict[str, Found] = {}
        for one in map(desk.search.one, dict.fromkeys(ids)):
            # Copies of one letter have ids of their own.
            named.setdefault(one.letter.key, one)
        yield from named.values()
        return
    if not wanted.narrow:
        raise ConfigurationError("name letters by id, or by --class, --stage, --tenant, --since or --until")
    # What fails again while this runs is not among them.
    within = desk.search.stretches(wanted)
    if not sure:
        _agree(sum(1 for _ in desk.search.matching(wanted, within)), verb)
    yield from desk.search.matching(wanted, within, opened=True)


def _agree(count: int, verb: str) -> None:
    if not count:
        return
    if not sys.stdin.isatty():
        raise ConfigurationError(f"{count} letters would be affected; say --yes to {verb} them")
    if not typer.confirm(f"{verb} {count} letters?", err=True):
        raise typer.Exit(1)


def _actor() -> str:
    """Who does it: the user and the host, as the system knows them."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):
        # A container's user may have no name.
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"
