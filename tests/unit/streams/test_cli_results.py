"""The result of a command is data: without ``--json``, too, it goes to stdout, where a pager or a pipe finds it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from infra.embedded.state import ChildState, StackState
from streams.cli import components, purge
from streams.purging import Purged
from tests.support.commands import run_headrace


def nowhere(folder: Path) -> dict[str, str]:
    return {"HEADRACE_CONFIG": str(folder / "headrace.toml")}


def test_status_of_no_stack_is_on_stdout(tmp_path: Path) -> None:
    ran = run_headrace("status", "--folder", str(tmp_path / "none"), environment={})
    assert (ran.code, ran.err) == (1, "")
    assert ran.out.startswith("down: no stack runs in")


def test_what_doctor_finds_is_on_stdout_on_a_line_however_long(tmp_path: Path) -> None:
    (tmp_path / "headrace.toml").write_text('stack = "external"\npartitions = "many"\n', encoding="utf-8")
    ran = run_headrace("doctor", environment=nowhere(tmp_path))
    assert (ran.code, ran.err) == (2, "")
    first, fix = ran.out.splitlines()
    assert first.startswith("FAILED   settings  ") and "partitions" in first and "→ correct" in fix


def test_what_was_purged_is_on_stdout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def purged(*_: Any, **__: Any) -> list[Purged]:
        return [Purged(table="finals", days=45, before=None, outcome="missing")]

    monkeypatch.setattr(purge, "_purge", purged)
    monkeypatch.setattr(purge, "load_settings", lambda **_: None)
    ran = run_headrace("purge", environment=nowhere(tmp_path))
    assert (ran.code, ran.out, ran.err) == (1, "finals: there is no such table yet; run headrace migrate\n", "")


def test_a_table_is_not_folded_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    child = ChildState(name="worker-" + "x" * 90, kind="component", status="failed", port=1, version="v" * 40)
    components.show_components(StackState(folder="f", running=True, components=(child,)))
    shown = capsys.readouterr()
    assert child.name in shown.out and child.version in shown.out and shown.err == ""
