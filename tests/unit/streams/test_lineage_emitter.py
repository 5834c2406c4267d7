"""Events go over HTTP or to a file, in order; a catalogue that is away fails nothing, slows nobody, is noted once."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from schemas.errors import ConfigurationError
from streams.lineage.code import head_of
from streams.lineage.emitter import Emitter, open_lineage
from streams.lineage.happening import Happening, Lineage, NoLineage, Phase
from streams.lineage.moving import telling
from tests.support.catalogue import Catalogue, catalogue, checked
from tests.support.settings import bare_settings

KEY = "s3cret-key"


@pytest.fixture
def there() -> Iterator[Catalogue]:
    with catalogue() as found:
        yield found


def opened(notes: list[str] | None = None, **lineage: Any) -> Lineage:
    # A busy machine is not away.
    section = {"timeout_s": 60, **lineage} if lineage else {}
    return open_lineage(bare_settings(lineage=section), note=(notes if notes is not None else []).append)


def happening(phase: Phase = "START", **changes: Any) -> Happening:
    told = Happening(phase=phase, at=datetime.now(UTC), run_id=uuid4(), job="live.export", family="export")
    return replace(told, facts={"lane": "live"}, **changes)


def test_nothing_is_told_unless_somebody_is_named() -> None:
    assert isinstance(opened(), NoLineage)


def test_events_come_over_http_in_order_with_the_key(there: Catalogue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LINEAGE_KEY", KEY)
    notes: list[str] = []
    lineage = opened(notes, url=f"{there.url}/behind/a/proxy", api_key_env="LINEAGE_KEY", namespace="team")
    begun = happening()
    with telling(lineage, begun) as done:
        done(replace(begun, phase="COMPLETE"))
    assert [checked(body)["eventType"] for body in there.bodies] == ["START", "COMPLETE"]
    assert there.paths == ["/behind/a/proxy/api/v1/lineage"] * 2
    assert {headers["Authorization"] for headers in there.headers} == {f"Bearer {KEY}"}
    assert there.bodies[0]["job"]["namespace"] == "team"
    assert (lineage.close().taken, lineage.close().lost, notes) == (2, 0, [])
    assert KEY not in json.dumps(there.bodies)


def test_what_ends_in_an_error_says_so_and_raises_it(there: Catalogue) -> None:
    with pytest.raises(ConfigurationError), telling(opened(url=there.url), happening()):
        raise ConfigurationError("the folder is full")
    with pytest.raises(RuntimeError), telling(opened(url=there.url), happening()):
        raise RuntimeError("what the user asked")
    failed = [body["run"]["facets"]["errorMessage"]["message"] for body in there.bodies if body["eventType"] == "FAIL"]
    assert failed[0] == "the folder is full"
    assert "RuntimeError" in failed[1] and "what the user asked" not in failed[1]


def test_a_file_gets_a_line_each(tmp_path: Path) -> None:
    for _ in range(2):
        lineage = opened(file=tmp_path / "lineage.jsonl")
        lineage.tell(happening())
        assert lineage.close().taken == 1
    lines = (tmp_path / "lineage.jsonl").read_text().splitlines()
    assert [checked(json.loads(line))["eventType"] for line in lines] == ["START", "START"]
    with pytest.raises(ConfigurationError, match=r"lineage\.file"):
        opened(file=tmp_path / "nowhere" / "lineage.jsonl")


def test_a_refusal_is_noted_once_and_counted_without_the_address_s_path(there: Catalogue) -> None:
    there.status, notes = 403, list[str]()
    lineage = opened(notes, url=f"{there.url}/token-in-path")
    for _ in range(3):
        lineage.tell(happening())
    sums = lineage.close()
    assert (sums.taken, sums.lost, sums.reason) == (0, 3, "HTTP 403")
    assert len(notes) == 1 and there.url in notes[0] and "token-in-path" not in notes[0]


def test_a_catalogue_that_is_not_there_is_counted() -> None:
    with socket.socket() as bound:
        # Bound and not listening: refused for as long as the socket is open.
        bound.bind(("127.0.0.1", 0))
        notes: list[str] = []
        lineage = opened(notes, url=f"http://127.0.0.1:{bound.getsockname()[1]}", timeout_s=60)
        lineage.tell(happening())
        assert lineage.close().lost == 1
    assert len(notes) == 1


def test_nobody_waits_for_a_catalogue_that_does_not_answer(there: Catalogue) -> None:
    there.hold()
    lineage = opened(url=there.url, timeout_s=0.2)
    begun = time.monotonic()
    for _ in range(100):
        lineage.tell(happening())
    # Handed over, not sent: one attempt alone would take 0.2 s.
    assert time.monotonic() - begun < 20
    sums = lineage.close()
    assert (sums.taken, sums.lost) == (0, 100)
    # 100 events, each three attempts of 0.2 s: whoever waits for all of them waits for longer than a minute.
    assert time.monotonic() - begun < 40


def test_what_waits_is_bounded_and_a_transport_may_raise_anything() -> None:
    class Broken:
        closed = 0

        def emit(self, event: Any) -> None:
            raise KeyError(event)

        def close(self) -> None:
            self.closed += 1

    broken = Broken()
    notes: list[str] = []
    lineage = Emitter(broken, lambda told: told, timeout_s=60, where="x", note=notes.append)
    lineage.tell(happening())
    lineage.miss("no rows")
    assert lineage.close().lost == 2
    lineage.tell(happening())
    assert (lineage.close().lost, len(notes), broken.closed) == (2, 1, 1)


def test_what_goes_on_is_not_told_again_and_again_to_whom_is_away(there: Catalogue) -> None:
    there.status = 400
    lineage = opened(url=there.url)
    lineage.miss("the first")
    for _ in range(5):
        lineage.tell(happening("RUNNING"))
    lineage.tell(happening("COMPLETE"))
    assert lineage.close().lost == 2


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"url": "http://a", "file": "b"}, "set one of them"),
        ({"url": "ftp://a"}, "http or https"),
        ({"url": "http://user:hunter2@a"}, "no login"),
        ({"url": "http://a?key=hunter2"}, "no query"),
        ({"api_key_env": "X"}, "goes with url"),
        ({"url": "http://a", "parent": "just-a-job"}, "NAMESPACE/JOB/RUN-ID"),
    ],
)
def test_settings_that_can_not_be_meant_are_refused_without_what_is_secret(section: dict[str, str], said: str) -> None:
    with pytest.raises(ValueError, match=said) as refused:
        bare_settings(lineage=section)
    assert "hunter2" not in str(refused.value.errors(include_input=False))  # type: ignore[attr-defined]


def test_a_key_that_is_not_set_is_named_before_anything_is_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LINEAGE_KEY", raising=False)
    with pytest.raises(ConfigurationError, match=r"lineage\.api_key_env names LINEAGE_KEY"):
        opened(url="http://127.0.0.1:9", api_key_env="LINEAGE_KEY")


def test_the_commit_of_a_checkout_is_found_however_it_is_kept(tmp_path: Path) -> None:
    assert head_of(tmp_path) == ""
    git, one, other = tmp_path / ".git", "a" * 40, "b" * 40
    (git / "refs" / "heads").mkdir(parents=True)
    (git / "HEAD").write_text(f"{one}\n")
    assert head_of(tmp_path) == one
    (git / "HEAD").write_text("ref: refs/heads/main\n")
    assert head_of(tmp_path) == ""
    (git / "packed-refs").write_text(f"# pack-refs\n{one} refs/heads/other\n{other} refs/heads/main\n")
    assert head_of(tmp_path) == other
    (git / "refs" / "heads" / "main").write_text(f"{one}\n")
    assert head_of(tmp_path) == one
