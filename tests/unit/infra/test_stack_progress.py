"""What bringing up a stack says of components that run already."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra.embedded import stack
from infra.embedded.progress import Progress
from infra.embedded.state import ChildState, Layout, StackState, write_json


def test_what_runs_already_is_not_said_to_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("postgres", "kafka", "registry")
    write_json(Layout(tmp_path).desired, {"children": [{"name": name, "kind": "component"} for name in names]})
    # The last was restarting when this began.
    looks = iter(["starting"])

    def status(_: Path) -> StackState:
        last = next(looks, "ready")
        states = {"postgres": "ready", "kafka": "ready", "registry": last}
        children = tuple(ChildState(name, "component", states[name]) for name in names)  # type: ignore[arg-type]
        return StackState(str(tmp_path), running=True, components=children)

    monkeypatch.setattr(stack, "is_running", lambda _: True)
    monkeypatch.setattr(stack, "_drop_failed", lambda *_: None)
    monkeypatch.setattr(stack, "status", status)
    seen: list[Progress] = []
    stack.up(tmp_path, components=(), on_progress=seen.append)
    assert [(one.what, one.state) for one in seen] == [("registry", "starting"), ("registry", "ready")]
    seen.clear()
    stack.up(tmp_path, components=(), on_progress=seen.append)
    assert seen == []
