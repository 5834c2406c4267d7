"""Which events of its range a replay takes: by id, offset, sample or expression; and the files that name them."""

from __future__ import annotations

import asyncio
import math
import re
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson

from processors.evaluate.sampling import position
from processors.event import Incoming
from processors.postgres import Database
from schemas.errors import ConfigurationError
from streams.reading import Entry, Place
from streams.replay.run import RunConfig
from streams.replay.where import Subject, Where, check_fields, parse

_SPACE = 2**64
MOST_LINES = 100_000
_OFFSETS = re.compile(r"(\S+)\s+(\d{1,9})\s+(\d{1,18})(?:-(\d{1,18}))?")


class Selection:
    """What a run takes. Asks the database for a batch's statuses and scores where the expression needs them."""

    def __init__(self, config: RunConfig, database: Database | None, *, source_lane: str, run: str = "") -> None:
        """``run``: whose own revisions change nothing of what it takes, so that it can be resumed.

        Raises ``ConfigurationError`` for an expression that can't be read.
        """
        self._ids = frozenset(config.ids)
        self._share, self._salt = int(config.sample * _SPACE), config.salt
        self._offsets = Offsets(config.offsets)
        self._where: Where | None = parse(config.where) if config.where else None
        self._database, self._lane, self._run = database, source_lane, run

    def key(self, key: bytes | None) -> bool:
        """Whether an event with this key may be taken at all; costs no decoding."""
        return not self._ids or (key or b"").decode("utf-8", "replace") in self._ids

    async def takes(self, batch: Sequence[tuple[Entry, Incoming[Any]]]) -> list[bool]:
        """For each event whether it is taken. Blocks on Postgres only for ``status`` and ``score``."""
        sampled = [self._sampled(entry, incoming) for entry, incoming in batch]
        if self._where is None:
            return sampled
        statuses, scores = await self._known([one for one, yes in zip(batch, sampled, strict=True) if yes])
        taken = []
        for (entry, incoming), yes in zip(batch, sampled, strict=True):
            key = (incoming.meta.tenant, incoming.meta.request_id)
            subject = Subject(
                record=incoming.record,
                meta=incoming.meta,
                time=entry.time,
                headers={name: (value or b"").decode("utf-8", "replace") for name, value in entry.headers},
                status=statuses.get(key) or getattr(incoming.record, "status", None),
                scores=scores.get(key, {}),
            )
            taken.append(yes and self._where.test(subject))
        return taken

    def _sampled(self, entry: Entry, incoming: Incoming[Any]) -> bool:
        meta = incoming.meta
        if entry not in self._offsets:
            return False
        if self._ids and meta.request_id not in self._ids:
            return False
        return self._share >= _SPACE or position(self._salt, meta.request_id) < self._share

    async def _known(
        self, batch: Sequence[tuple[Entry, Incoming[Any]]]
    ) -> tuple[dict[tuple[str, str], str], dict[tuple[str, str], Mapping[str, float]]]:
        needs = self._where.needs if self._where else frozenset()
        if self._database is None or not batch or not needs:
            return {}, {}
        parameters = {
            "lane": self._lane,
            "run": self._run,
            "tenants": [incoming.meta.tenant for _, incoming in batch],
            "ids": [incoming.meta.request_id for _, incoming in batch],
        }
        ask = self._database.execute
        statuses, scores = await asyncio.gather(
            ask(_STATUS, parameters) if "status" in needs else _nothing(),
            ask(_SCORES, parameters) if "score" in needs else _nothing(),
        )
        by_request: dict[tuple[str, str], dict[str, float]] = {}
        for tenant, request_id, found, own in scores:
            if own:
                continue
            named = by_request.setdefault((tenant, request_id), {})
            named.update({one["name"]: one["value"] for one in found if one.get("value") is not None})
        before = {(tenant, request_id): status for tenant, request_id, status, own in statuses if not own}
        return before, dict(by_request)


async def check_known(where: str, database: Database, *, lane: str, stage: str) -> None:
    """Raise ``ConfigurationError`` for an expression over what is known of no event that the run's first stage reads.

    It would take nothing, or everything, in silence: of what the events never have, or what this database has of no
    request of the lane, for an import leaves final answers and scores behind. Blocks on Postgres.
    """
    if not where:
        return
    asked = parse(where)
    check_fields(asked, stage)
    needs = set(asked.needs)
    if stage == "evaluate":
        # An answer says its own.
        needs.discard("status")
    for name, what, statement in _KNOWN:
        if name in needs and not await database.execute(statement, {"lane": lane}):
            raise ConfigurationError(
                f"--where: this database has no {what} of the lane {lane}, so {name} would hold for no event; "
                "an import leaves them behind: choose by what the events themselves say"
            )


def within(theirs: RunConfig, ours: RunConfig) -> RunConfig:
    """What of another run's selection is ours, too. Raises ``ConfigurationError`` where both can't be kept."""
    if ours.offsets:
        raise ConfigurationError("--offsets don't go with --run, which says what is read; take --where or --ids")
    ids = theirs.ids or ours.ids
    if theirs.ids and ours.ids:
        wanted = frozenset(ours.ids)
        ids = tuple(one for one in theirs.ids if one in wanted)
        if not ids:
            raise ConfigurationError("--ids: the run of --run took none of these requests")
    drawn = [one for one in (theirs, ours) if one.sample < 1]
    if len({one.salt for one in drawn}) > 1:
        raise ConfigurationError(
            f"--sample is drawn by another --salt than the sample of --run ({theirs.salt}): take the same"
        )
    both = [one.where for one in (theirs, ours) if one.where]
    where = both[0] if len(both) == 1 else " and ".join(f"({one})" for one in both)
    if where:
        parse(where)
    salt = drawn[0].salt if drawn else ours.salt
    sample = min(theirs.sample, ours.sample)
    return replace(ours, ids=ids, offsets=theirs.offsets, where=where, sample=sample, salt=salt)


async def _nothing() -> list[tuple[Any, ...]]:
    return []


_KNOWN = (
    ("status", "final answers", "SELECT 1 FROM finals WHERE lane = %(lane)s LIMIT 1"),
    ("score", "scores", "SELECT 1 FROM evaluations WHERE lane = %(lane)s LIMIT 1"),
)
# ``own``: the run's own revision of the answer, and what came after it. What the run takes was decided before these.
_ASKED = """
    JOIN unnest(%(tenants)s::text[], %(ids)s::text[]) AS asked (tenant, request_id)
      USING (tenant, request_id)
    LEFT JOIN (
        SELECT tenant, lane, request_id, revision AS own FROM replay_answers
        WHERE run = %(run)s AND outcome = 'revised'
    ) AS done USING (tenant, lane, request_id)
"""
_STATUS = f"""
    SELECT tenant, request_id, status, coalesce(revision >= own, false) FROM finals {_ASKED}
    WHERE lane = %(lane)s ORDER BY tenant, request_id, revision
"""
_SCORES = f"""
    SELECT tenant, request_id, scores, coalesce(revision >= own, false) FROM evaluations {_ASKED}
    LEFT JOIN (
        SELECT tenant, lane, request_id, event_id AS answer_event_id, revision FROM finals
    ) AS scored USING (tenant, lane, request_id, answer_event_id)
    WHERE lane = %(lane)s AND scores IS NOT NULL ORDER BY done_at
"""


# Topic, partition, first and last offset.
Named = tuple[str, int, int, int]


def read_ids(path: Path) -> tuple[str, ...]:
    """Request ids, one a line; blank lines and what follows ``#`` are passed over.

    Raises ``ConfigurationError`` naming the file and line.
    """
    return tuple(dict.fromkeys(text for _, text in _lines(path, "request ids, one a line")))


def read_offsets(path: Path) -> tuple[Named, ...]:
    """Offsets, ``TOPIC PARTITION OFFSET`` or ``TOPIC PARTITION FIRST-LAST`` a line, or the same as JSON objects.

    Raises ``ConfigurationError`` naming the file and line.
    """
    return tuple(_named(path, number, text) for number, text in _lines(path, "TOPIC PARTITION FIRST-LAST a line"))


def _named(path: Path, number: int, text: str) -> Named:
    match = _OFFSETS.fullmatch(text)
    if match is not None:
        first = int(match[3])
        named = (match[1], int(match[2]), first, int(match[4]) if match[4] else first)
    else:
        try:
            found = orjson.loads(text)
            first = found.get("first", found.get("offset"))
            named = (str(found["topic"]), int(found["partition"]), int(first), int(found.get("last", first)))
        except (orjson.JSONDecodeError, AttributeError, KeyError, TypeError, ValueError):
            raise ConfigurationError(
                f"{path}, line {number}: write TOPIC PARTITION FIRST-LAST, or JSON with topic, partition and offset"
            ) from None
    if named[3] < named[2] or named[2] < 0:
        raise ConfigurationError(f"{path}, line {number}: {named[2]}-{named[3]} is no stretch of offsets")
    return named


def _lines(path: Path, what: str) -> list[tuple[int, str]]:
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} can't be read ({type(error).__name__}); it has to hold {what}") from None
    numbered = ((number, line.partition("#")[0].strip()) for number, line in enumerate(text.splitlines(), start=1))
    found = [(number, line) for number, line in numbered if line]
    if not found:
        raise ConfigurationError(f"{path} names nothing; it has to hold {what}")
    if len(found) > MOST_LINES:
        raise ConfigurationError(f"{path} has {len(found)} lines; at most {MOST_LINES} are taken: use --since, --where")
    return found


class Offsets:
    """Whether an offset is among those that were named; all are where none was."""

    def __init__(self, named: Iterable[Named]) -> None:
        self._parts: dict[Place, list[tuple[int, int]]] = {}
        for topic, partition, first, last in sorted(named):
            parts = self._parts.setdefault((topic, partition), [])
            if parts and first <= parts[-1][1] + 1:
                parts[-1] = (parts[-1][0], max(parts[-1][1], last))
            else:
                parts.append((first, last))

    def __contains__(self, entry: Entry) -> bool:
        if not self._parts:
            return True
        parts = self._parts.get((entry.topic, entry.partition), [])
        found = bisect_right(parts, (entry.offset, math.inf)) - 1
        return found >= 0 and parts[found][0] <= entry.offset <= parts[found][1]

    def stretches(self) -> dict[Place, tuple[int, int]]:
        """First and one past the last offset of each partition."""
        return {place: (parts[0][0], parts[-1][1] + 1) for place, parts in self._parts.items()}
