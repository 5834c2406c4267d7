"""``headrace schemas check`` and the way ``register`` fails."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from schemas import compat
from schemas.files import event_schemas
from schemas.house import Finding
from streams.cli.schemas import app

RUN = CliRunner()


def test_check_says_that_all_is_well() -> None:
    result = RUN.invoke(app, ["check", "--json"])

    assert result.exit_code == 0
    assert json.loads(result.stdout)["ok"] is True
    assert json.loads(result.stdout)["findings"] == []


def test_check_exits_1_with_what_it_found(monkeypatch: pytest.MonkeyPatch) -> None:
    finding = Finding("headrace.Delta", "Delta", "attempt", "type_mismatch", "0.1.0 read today: int and long")
    monkeypatch.setattr("streams.cli.schemas.check_today", lambda: [finding])

    shown = RUN.invoke(app, ["check"])
    assert shown.exit_code == 1
    assert shown.stdout == "headrace.Delta: Delta.attempt: type_mismatch: 0.1.0 read today: int and long\n"
    parsed = json.loads(RUN.invoke(app, ["check", "--json"]).stdout)
    assert parsed["ok"] is False
    assert parsed["findings"][0]["field"] == "attempt"


def test_check_compares_with_what_is_released(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    kind = '"name": "kind", "type": '
    alert = event_schemas()["headrace.Alert"].replace(f'{kind}"string"', f'{kind}"int"')
    released = {**event_schemas(), "headrace.Alert": alert}
    monkeypatch.setattr(compat, "released_versions", lambda: {"9.9.9": tmp_path})
    monkeypatch.setattr(compat, "event_schemas", lambda folder=None: released if folder else event_schemas())

    assert {(finding.field, finding.rule) for finding in compat.check_today()} == {("kind", "type_mismatch")}
