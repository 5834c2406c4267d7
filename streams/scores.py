"""Mean scores, and how many answers were to be scored and are: asked of the table ``evaluations``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, LiteralString

from processors.postgres import Database
from streams.moments import moment

# What the report may be grouped by. ``scorer``: not at all, every report has a line for each scorer.
GROUPS: dict[str, LiteralString] = {
    "scorer": "''",
    "route": "route",
    "model": "model",
    "prompt": "prompt_version",
    "tenant": "tenant",
}


@dataclass(frozen=True, slots=True)
class ScoreLine:
    """One scorer's figures in a group. ``unscored``: how many have no value, by the reason's code."""

    name: str
    scorer: str
    version: str
    count: int
    unscored: dict[str, int]
    mean: float | None
    p10: float | None
    median: float | None
    least: float | None


@dataclass(slots=True)
class Group:
    """The answers of a group. ``expected``: chosen by the sample; ``done``: of these, scored."""

    name: str
    expected: int = 0
    done: int = 0
    # Of what is expected and not done: since when the oldest is.
    oldest_expected_at: datetime | None = None
    scores: list[ScoreLine] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Report:
    """The groups by name, and how much feedback waits for its answer."""

    groups: Sequence[Group]
    feedback_waiting: int

    def view(self) -> dict[str, Any]:
        """The report as JSON."""
        return {"groups": [asdict(group) for group in self.groups], "feedback_waiting": self.feedback_waiting}


async def report(dsn: str, *, lane: str, by: str, since: str | None, tenant: str | None) -> Report:
    """Ask the database. ``since``: a time, or so long ago, by the database's clock; a day where it is left out.

    Blocks on three queries over the rows since then. Raises ``DependencyDownError``, and ``ConfigurationError`` for
    what is no time.
    """
    database = await Database.open(dsn, max_size=1, application_name="headrace-eval")
    try:
        now = (await database.now()).astimezone(UTC)
        start = moment(since, now=now) if since else now - timedelta(days=1)
        parameters = {"lane": lane, "since": start, "tenant": tenant}
        expected = await database.execute(_expected(GROUPS[by]), parameters)
        scores = await database.execute(_scores(GROUPS[by]), parameters)
        [(waiting,)] = await database.execute(_WAITING, parameters)
    finally:
        await database.close()
    groups: dict[str, Group] = {}
    for name, chosen, done, oldest in expected:
        groups[name] = Group(name, chosen, done, oldest)
    for name, score, scorer, version, count, unscored, *figures in scores:
        line = ScoreLine(score, scorer, version, count, unscored or {}, *(_figure(one) for one in figures))
        groups.setdefault(name, Group(name)).scores.append(line)
    return Report([groups[name] for name in sorted(groups)], waiting)


def _figure(value: Any) -> float | None:
    return None if value is None else round(float(value), 4)


def _expected(group: LiteralString) -> LiteralString:
    return (
        "SELECT "
        + group
        + """, count(*), count(done_at), min(expected_at) FILTER (WHERE done_at IS NULL)
        FROM evaluations
        WHERE lane = %(lane)s AND expected_at >= %(since)s AND source = 'sample'
          AND (%(tenant)s::text IS NULL OR tenant = %(tenant)s::text)
        GROUP BY 1"""
    )


def _scores(group: LiteralString) -> LiteralString:
    return (
        """
        WITH each AS (
            SELECT """
        + group
        + """ AS grouped, score ->> 'name' AS name, score ->> 'scorer' AS scorer,
                   score ->> 'version' AS version, (score ->> 'value')::double precision AS value,
                   score ->> 'failure_code' AS code
            FROM evaluations, jsonb_array_elements(scores) AS score
            WHERE lane = %(lane)s AND expected_at >= %(since)s AND done_at IS NOT NULL
              AND (%(tenant)s::text IS NULL OR tenant = %(tenant)s::text)),
        why AS (
            SELECT grouped, name, scorer, version, jsonb_object_agg(code, many) AS codes FROM (
                SELECT grouped, name, scorer, version, coalesce(code, 'none') AS code, count(*) AS many
                FROM each WHERE value IS NULL GROUP BY 1, 2, 3, 4, 5) AS coded
            GROUP BY 1, 2, 3, 4)
        SELECT grouped, name, scorer, version, count(value), max(codes::text)::jsonb, avg(value),
               percentile_cont(0.1) WITHIN GROUP (ORDER BY value), percentile_cont(0.5) WITHIN GROUP (ORDER BY value),
               min(value)
        FROM each LEFT JOIN why USING (grouped, name, scorer, version)
        GROUP BY 1, 2, 3, 4
        ORDER BY 1, 2, 3, 4"""
    )


_WAITING = """
    SELECT count(*) FROM feedback
    WHERE lane = %(lane)s AND answer_event_id IS NULL AND (%(tenant)s::text IS NULL OR tenant = %(tenant)s::text)
"""
