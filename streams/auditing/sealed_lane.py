"""Checks the seals of a lane against its topics."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson

from schemas.errors import ConfigurationError
from streams.auditing.sealed import Exported, Partition, SealCheck, SealCounts
from streams.auditing.sealing import topic_ids
from streams.auditing.seals import Seal, Tombstone
from streams.auditing.seals_pg import PostgresSeals
from streams.auditing.seen import Seen
from streams.reading import Entry, Place, Stretch, TopicReader
from streams.retention import FOREVER
from streams.settings import Settings
from streams.topics import kind_of, topic_name

Advance = Callable[[str, int], None]
_HASHES = ("root", "previous", "seal", "leaf", "hash")


def check_lane(
    settings: Settings,
    seen: Seen,
    *,
    lane: str,
    since: datetime,
    until: datetime | None,
    exported: Exported | None,
    advance: Advance,
) -> SealCounts:
    """Leave in ``seen`` what is not as it was sealed. Every chain is checked whole, records of the stretch alone.

    Blocks on the broker and Postgres, partition by partition; holds one seal at a time.
    """
    prefix = topic_name(settings.prefix, lane, "")
    with PostgresSeals(settings.postgres.dsn.get_secret_value()) as seals, TopicReader(settings) as reader:

        def read(place: Place, stretch: Stretch) -> Iterable[Entry]:
            for entry in reader.read({place: stretch}):
                advance("sealed records", 1)
                yield entry

        now = seals.now()
        check = SealCheck(seals, now=now, exported=exported)
        buried, broken = check.buried()
        seen.found(broken)
        known = {(topic, number) for topic, number, _ in (exported or Exported()).seals if topic.startswith(prefix)}
        places = sorted({*seals.places(prefix), *known})
        there = reader.existing({topic for topic, _ in places})
        ids = topic_ids(settings, there)
        for place in places:
            topic, number = place
            found = number < there.get(topic, 0)
            one = Partition(
                place=place,
                topic_id=ids[topic] if found else "",
                log=reader.ends([place])[place] if found else Stretch(0, 0),
                kept_days=kept_days(settings, topic, lane),
            )
            seen.found(check.partition(one, buried, since, until or now, read))
        return check.counts


def kept_days(settings: Settings, topic: str, lane: str) -> float:
    """How long a topic's records are kept."""
    return settings.retention.resolved().topics.get(kind_of(topic, settings.prefix, lane), FOREVER)


def exported_view(one: Seal | Tombstone) -> dict[str, Any]:
    """A seal or a tombstone as a line of an export: all but the leaves."""
    view = {name: value for name, value in asdict(one).items() if name not in ("leaves", "offsets")}
    hashes = {name: value.hex() for name, value in view.items() if name in _HASHES}
    times = {name: value.isoformat() for name, value in view.items() if isinstance(value, datetime)}
    return {"kind": "seal" if isinstance(one, Seal) else "tombstone", **view, **hashes, **times}


def read_exported(file: Path) -> Exported:
    """What an earlier export holds. Raises ``ConfigurationError`` that names the line that is none."""
    seals: dict[tuple[str, int, int], bytes] = {}
    stones: dict[int, bytes] = {}
    try:
        with file.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                try:
                    one = orjson.loads(line)
                    if one["kind"] == "seal":
                        seals[one["topic"], int(one["partition"]), int(one["number"])] = bytes.fromhex(one["seal"])
                    else:
                        stones[int(one["number"])] = bytes.fromhex(one["hash"])
                except (ValueError, KeyError, TypeError):
                    raise ConfigurationError(
                        f"{file}, line {number}, is no exported seal; write it with `headrace audit seals export`"
                    ) from None
    except OSError as error:
        raise ConfigurationError(f"{file} can't be read: {error.strerror}; check the path") from None
    return Exported(seals, stones)
