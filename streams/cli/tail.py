"""``headrace tail``: events of a topic as they come."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Collection, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from schemas.errors import ConfigurationError
from streams import security
from streams.claims import BlockingClaims
from streams.cli.lines import line
from streams.cli.output import print_json, quiet_end
from streams.moments import moment
from streams.opened import Opened, Opener, opened_view
from streams.reading import Entry, Place, Stretch, TopicReader
from streams.settings import Settings, load_settings
from streams.topics import KINDS, consumer_topic, input_topics


def tail(
    kind: Annotated[str, typer.Argument(help=f"Kind of topic: {', '.join(KINDS)}.")],
    start: Annotated[
        str, typer.Option("--from", help="earliest, latest, a time (2026-05-01T10:00, UTC) or so long ago (10m, 2h).")
    ] = "latest",
    follow: Annotated[bool, typer.Option(help="Wait for more at the end.")] = True,
    limit: Annotated[int | None, typer.Option(min=1, help="Stop after so many.")] = None,
    tenant: Annotated[str | None, typer.Option(help="Only this tenant's events.")] = None,
    lane: Annotated[str, typer.Option(help="Lane to read.")] = "live",
    folder: Annotated[Path | None, typer.Option(help="The embedded stack's folder.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")] = False,
) -> None:
    """Print a topic's events: in order within a partition, as they come from all.

    What can't be decoded is shown as such. Texts are shown, and may hold personal data. Ctrl-C ends it.
    """
    if kind not in KINDS:
        raise ConfigurationError(f"{kind!r} is no kind of topic; take one of {', '.join(KINDS)}")
    since = None if start in ("earliest", "latest") else moment(start, now=datetime.now(UTC))
    settings = load_settings(folder=folder)
    with quiet_end(), TopicReader(settings) as reader:
        stretches = _stretches(reader, _topics(settings, lane, kind, tenant), start, since)
        codec = asyncio.run(security.codec(settings.registry))
        opener = Opener(codec, prefix=settings.prefix, lane=lane, claims=BlockingClaims(settings, codec))
        opened = map(opener.open, _entries(reader, stretches, follow=follow))
        _print(opened, tenant=tenant, limit=limit, show=_show_json if json else _show_line)


def _topics(settings: Settings, lane: str, kind: str, tenant: str | None) -> tuple[str, ...]:
    """The tenant's own topic, where it has one; all of them for requests, of which there is no shared one then."""
    if tenant is None:
        return input_topics(settings, lane, kind)
    return (consumer_topic(settings, lane, kind, tenant),)


def _stretches(
    reader: TopicReader, topics: Collection[str], start: str, since: datetime | None
) -> dict[Place, Stretch]:
    places = reader.places(topics)
    ends = reader.ends(places)
    if since is not None:
        found = reader.offsets_at(places, since)
        return {place: Stretch(found[place], stretch.end) for place, stretch in ends.items()}
    if start == "latest":
        return {place: Stretch(stretch.end, stretch.end) for place, stretch in ends.items()}
    return ends


def _entries(reader: TopicReader, stretches: dict[Place, Stretch], *, follow: bool) -> Iterator[Entry]:
    if not follow:
        yield from reader.read(stretches)
        return
    reader.start({place: stretch.start for place, stretch in stretches.items()})
    while True:
        yield from reader.poll()


def _print(events: Iterator[Opened], *, tenant: str | None, limit: int | None, show: Callable[[Opened], None]) -> None:
    printed = 0
    for opened in events:
        if tenant is not None and (opened.meta is None or opened.meta.tenant != tenant):
            continue
        show(opened)
        printed += 1
        if printed == limit:
            return


def _show_json(opened: Opened) -> None:
    print_json(opened_view(opened))


def _show_line(opened: Opened) -> None:
    sys.stdout.write(line(opened) + "\n")
    sys.stdout.flush()
