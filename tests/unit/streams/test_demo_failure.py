"""A demonstration that fails names what tells why."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from infra.embedded.state import ChildState, StackState
from streams.demo import failure as told
from streams.overview.snapshot import Snapshot
from tests.support.settings import bare_settings


def seeing(letters: int | None) -> type:
    class Seeing:
        def __init__(self, *_: Any) -> None: ...

        def __enter__(self) -> Seeing:
            return self

        def __exit__(self, *_: object) -> None: ...

        def look(self) -> Snapshot:
            return Snapshot(at=datetime.now(UTC), open_letters=letters)

    return Seeing


@pytest.mark.parametrize(
    ("letters", "says"),
    [(None, ""), (0, ""), (1, "1 dead letter is open; "), (3, "3 dead letters are open; what failed and why: ")],
)
def test_open_dead_letters_are_named_with_the_command_that_shows_them(
    letters: int | None, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(told, "Lookout", seeing(letters))
    line = told.dead_letters(bare_settings(), lane="live")
    assert line.startswith(says) and bool(line) == bool(letters) == ("headrace dlq list --lane live" in line)


def test_dead_letters_come_before_the_logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "complete.log"
    log.write_text("the end\n", encoding="utf-8")
    child = ChildState("complete", "worker", "ready", log=str(log))
    monkeypatch.setattr(told, "status", lambda folder: StackState(str(folder), running=True, components=(child,)))
    error = told.failure(tmp_path, "no answer", suspects=("complete",), letters="3 dead letters are open")
    assert str(error).splitlines()[:2] == ["no answer; complete is ready", "3 dead letters are open"]
    assert str(error).endswith("the end")
