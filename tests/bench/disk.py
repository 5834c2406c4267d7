"""How much disk a million requests take: topics and tables, from a few thousand requests through the whole stream.

``make bench ARGS="disk [--requests 3000] [--passages]"``. A topic's bytes are those of its log files on the broker, all
compression included, once; a replica doubles them. A table's are those of its pages, indexes and out-of-line values.
What a stack holds before the first request is taken off.
"""

from __future__ import annotations

import argparse
import secrets
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import psycopg

from streams.retention import GO_WITH, TABLES, TOPIC_DAYS, Retention, say_days
from tests.bench.flow import Ask, flowing
from tests.bench.machine import confine, described, fresh_stack, show, table, tell
from tests.support.stack import TestStack

# Many at a time would wait for each other; this is as many as go through in time.
IN_FLIGHT = 32
QUESTION = "How does the with statement work in Python, and when should it be used? This is question {}."
LEAST_BYTES = 50


def topics_bytes(data: Path, lane: str) -> dict[str, int]:
    """Bytes of each kind of topic of a lane, from the broker's folder."""
    found: defaultdict[str, int] = defaultdict(int)
    for folder in data.glob(f"{lane}.*-*"):
        kind = folder.name.rpartition("-")[0].removeprefix(f"{lane}.")
        found[kind] += sum(one.stat().st_size for one in folder.glob("*.log"))
    return dict(found)


def tables_bytes(dsn: str) -> dict[str, int]:
    """Bytes of each table with its indexes."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("CHECKPOINT")
        rows = connection.execute(
            "SELECT relname, pg_total_relation_size(oid) FROM pg_class"
            " WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
        ).fetchall()
    return {str(name): int(size) for name, size in rows}


def grown(before: Mapping[str, int], after: Mapping[str, int], requests: int) -> dict[str, float]:
    """Bytes a request, of what grew by more than nothing to speak of."""
    each = {name: (size - before.get(name, 0)) / requests for name, size in after.items()}
    return {name: size for name, size in sorted(each.items(), key=lambda one: -one[1]) if size >= LEAST_BYTES}


def rows(each: Mapping[str, float], days: Mapping[str, float]) -> list[tuple[object, ...]]:
    """A line for each, and their sum. ``steady``: what is there when a million come a day, once the first ones go."""
    # A byte a request is a megabyte a million of them.
    lines: list[tuple[object, ...]] = [
        (name, round(size), f"{size / 1e3:.2f}", say_days(days[name]), f"{size / 1e3 * days[name]:,.0f}")
        for name, size in each.items()
    ]
    whole, steady = sum(each.values()), sum(size * days[name] for name, size in each.items())
    return [*lines, ("together", round(whole), f"{whole / 1e3:.2f}", "", f"{steady / 1e3:,.0f}")]


def run(stack: TestStack, folder: Path, *, requests: int, passages: bool) -> tuple[dict[str, float], dict[str, float]]:
    """Bytes a request of topics, and of tables."""
    lane, data = f"d{secrets.token_hex(3)}", stack.folder / "kafka" / "data"
    with flowing(stack, folder / lane, lane, latency_ms=5.0, documents=passages) as running:
        before = topics_bytes(data, lane), tables_bytes(stack.postgres_dsn)
        tell(f"{requests} requests")
        ask = Ask(QUESTION.format, search=passages)
        found = running.flow.counted("disk", ask, requests=requests, in_flight=IN_FLIGHT)
        assert not found.lost and not found.not_answered(), f"{found.lost} lost, {found.not_answered()} not answered"
    # The workers have ended: what they had open is published and committed.
    return (
        grown(before[0], topics_bytes(data, lane), requests),
        grown(before[1], tables_bytes(stack.postgres_dsn), requests),
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="disk", description=__doc__)
    parser.add_argument("--requests", type=int, default=3_000)
    parser.add_argument("--passages", action="store_true", help="search passages, and show them to the model")
    options = parser.parse_args()
    confine()
    with fresh_stack() as (folder, stack):
        topics, tables = run(stack, folder, requests=options.requests, passages=options.passages)
        about = described(stack, requests=str(options.requests), passages="yes" if options.passages else "no")
    kept = Retention.of({}, {}, 7.0)
    days = {one.name: kept.tables[one.name] for one in TABLES}
    days |= {name: days[owner] for name, owner in GO_WITH.items() if owner in days}
    show(
        table(heads("topic"), rows(topics, {name: TOPIC_DAYS.get(name, 0.0) for name in topics})),
        table(heads("table"), rows(tables, {name: days.get(name, 0.0) for name in tables})),
        about,
    )


def heads(what: str) -> Sequence[str]:
    """The heads of a table."""
    return (what, "bytes a request", "GB a million", "kept", "GB, a million a day")


if __name__ == "__main__":
    main()
