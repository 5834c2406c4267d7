"""How long things are kept: the rules between topics and tables, and that nothing is left out."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from infra.migrate import load
from streams.retention import (
    FOREVER,
    GO_WITH,
    KEPT_FOREVER,
    REQUEST_PATH,
    TABLES,
    TOPIC_DAYS,
    Retention,
    Table,
    say_days,
)
from streams.settings import RetentionSettings
from streams.topics import TOPICS

DOCS = Path(__file__).parents[3] / "docs"
TOPIC_ROWS = [f"| {kind} | {say_days(days)} |" for kind, days in TOPIC_DAYS.items()]


def retention(topics: dict[str, float] | None = None, tables: dict[str, float] | None = None) -> Retention:
    return Retention.of(topics or {}, tables or {}, 7.0)


def tables_of_migrations() -> set[str]:
    """Every table that is there once all migrations are applied."""
    tables = {"schema_migrations"}
    for migration in load():
        text = re.sub(r"--.*", "", migration.up)
        tables |= set(re.findall(r"CREATE (?:UNLOGGED )?TABLE (?:IF NOT EXISTS )?(\w+)", text, re.IGNORECASE))
        tables -= set(re.findall(r"DROP TABLE (?:IF EXISTS )?(\w+)", text, re.IGNORECASE))
    return tables


def test_every_table_is_purged_or_kept_for_a_reason() -> None:
    declared = [table.name for table in TABLES] + list(GO_WITH) + list(KEPT_FOREVER)
    assert len(declared) == len(set(declared))
    assert set(declared) == tables_of_migrations()
    assert set(GO_WITH.values()) <= {table.name for table in TABLES}


def test_every_topic_has_its_days() -> None:
    assert [topic.kind for topic in TOPICS] == list(TOPIC_DAYS)


def test_the_page_says_what_the_code_does() -> None:
    page = (DOCS / "retention.md").read_text().splitlines()
    for row in TOPIC_ROWS:
        assert row in page
    for table in TABLES:
        assert f"| {table.name} | {say_days(table.days)} | {table.why} |" in page
    for name, owner in GO_WITH.items():
        assert f"| {name} | with {owner} | |" in page
    for name, why in KEPT_FOREVER.items():
        assert f"| {name} | for ever | {why} |" in page
    # Rows of tables that are gone from the code.
    rows = [line for line in page if line.startswith("| ") and not line.startswith(("| topic", "| table"))]
    assert len(rows) == len(TOPIC_DAYS) + len(TABLES) + len(GO_WITH) + len(KEPT_FOREVER)


def test_the_defaults_keep_their_own_rules() -> None:
    defaults = retention()
    assert defaults.horizon == timedelta(days=37)
    assert defaults.topic_ms("answers") == 30 * 86_400_000
    assert defaults.topic_ms("control") == -1


@pytest.mark.parametrize("table", [table for table in TABLES if table.outlives], ids=lambda table: table.name)
def test_a_row_that_would_not_outlive_the_events_is_refused(table: Table) -> None:
    least = max(TOPIC_DAYS[kind] for kind in table.outlives) + 7 + 1
    with pytest.raises(ValueError, match=rf"retention.tables.{table.name} is .* set it to {least} days or more"):
        retention(tables={table.name: least - 1})
    assert retention(tables={table.name: least}).tables[table.name] == least <= table.days


@pytest.mark.parametrize("kind", REQUEST_PATH)
def test_a_topic_that_outlives_its_rows_is_refused(kind: str) -> None:
    with pytest.raises(ValueError, match=rf"outlive topic retention \({re.escape(kind)}: 40 days\)"):
        retention(topics={kind: 40})
    rows: dict[str, float] = {table.name: 48 for table in TABLES if kind in table.outlives and table.days < 48}
    assert retention(topics={kind: 40}, tables=rows).horizon == timedelta(days=47)


def test_for_ever_has_no_horizon_and_asks_for_rows_that_stay() -> None:
    with pytest.raises(ValueError, match="set it to for ever"):
        retention(topics={"completions": FOREVER})
    rows = dict.fromkeys((table.name for table in TABLES if "completions" in table.outlives), FOREVER)
    assert retention(topics={"completions": FOREVER}, tables=rows).horizon is None


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"topics": {"answer": 3}}, "retention.topics knows no 'answer'"),
        ({"tables": {"passages": 3}}, "retention.tables knows no 'passages'"),
        ({"topics": {"control": 30}}, "control is kept for ever"),
        ({"topics": {"answers": 0}}, "greater than or equal to"),
        ({"topics": {"answers": -1}}, "greater than or equal to"),
        ({"topics": {"answers": "always"}}, "forever"),
        ({"offsets_days": 20}, "outlive topic retention"),
        ({"purge_batch": 0}, "greater than or equal to"),
    ],
)
def test_settings_that_break_a_rule_are_refused_by_name(given: dict[str, Any], named: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(named)):
        RetentionSettings(**given)


def test_settings_change_what_they_name_alone() -> None:
    settings = RetentionSettings(topics={"answers": 2, "control": "forever"}, tables={"calls": "forever"})
    resolved = settings.resolved()
    assert resolved.topics == {**TOPIC_DAYS, "answers": 2}
    assert (resolved.tables["calls"], resolved.tables["finals"]) == (FOREVER, 45)


def test_deleted_runs_are_known_as_long_as_what_they_paid_for() -> None:
    assert Retention.of({}, {}, 7).tables["deleted_runs"] == 45
    assert Retention.of({}, {"calls": 120}, 7).tables["deleted_runs"] == 120
    assert Retention.of({}, {"calls": 120, "deleted_runs": 60}, 7).tables["deleted_runs"] == 60
