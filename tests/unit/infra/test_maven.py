"""Downloads into the shared cache, with a resolver of the test's own in place of the network."""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path

import pytest

from infra.embedded import maven
from infra.embedded.errors import ArtifactError
from infra.embedded.maven import Artifact, Report, Resolve
from infra.embedded.progress import Progress

CONTENT = b"the jar's bytes"
COORDINATE = "org.example:thing:1.2:jar"


def serving(*contents: bytes | Exception) -> tuple[Resolve, list[str]]:
    """A resolver that answers with these, one after another, and the list of what it was asked for."""
    asked: list[str] = []
    left = list(contents)

    def resolve(artifact: Artifact, folder: Path, report: Report) -> Path:
        asked.append(artifact.coordinate)
        content = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(content, Exception):
            raise content
        path = folder / "download"
        path.write_bytes(content)
        report(len(content))
        return path

    return resolve, asked


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    path = tmp_path / "maven.lock"
    digest = hashlib.sha256(CONTENT).hexdigest()
    path.write_text(f"# comment\nkafka {COORDINATE} {len(CONTENT)} {digest}\nother org.example:x:1:jar 1 00\n")
    return path


def test_a_file_is_downloaded_once_and_then_taken_from_the_cache(lock: Path, tmp_path: Path) -> None:
    resolve, asked = serving(CONTENT)
    seen: list[Progress] = []
    (path,) = maven.fetch("kafka", root=tmp_path, lock=lock, resolve=resolve, on_progress=seen.append)
    assert path == tmp_path / "maven/org/example/thing/1.2/thing-1.2.jar"
    assert path.read_bytes() == CONTENT
    assert seen[-1] == Progress("kafka", "downloading", len(CONTENT), len(CONTENT))
    assert maven.fetch("kafka", root=tmp_path, lock=lock, resolve=resolve) == [path]
    assert asked == [COORDINATE]


@pytest.mark.parametrize("bad", [CONTENT[:-1], b"x" * len(CONTENT), OSError("connection reset")])
def test_a_failed_truncated_or_altered_download_is_tried_again(
    lock: Path, tmp_path: Path, bad: bytes | Exception
) -> None:
    resolve, asked = serving(bad, CONTENT)
    (path,) = maven.fetch("kafka", root=tmp_path, lock=lock, resolve=resolve)
    assert path.read_bytes() == CONTENT
    assert len(asked) == 2


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (CONTENT[:-1], "14 bytes came instead of 15"),
        (b"x" * len(CONTENT), "its sha256 is"),
        (OSError("connection reset"), "connection reset"),
    ],
)
def test_what_can_not_be_had_is_named_and_leaves_nothing_in_the_cache(
    lock: Path, tmp_path: Path, bad: bytes | Exception, reason: str
) -> None:
    resolve, asked = serving(bad)
    with pytest.raises(ArtifactError, match=reason) as caught:
        maven.fetch("kafka", root=tmp_path, lock=lock, resolve=resolve)
    assert COORDINATE in str(caught.value)
    assert "check the network or put the file at" in str(caught.value)
    assert len(asked) == maven.TRIES
    assert [path for path in (tmp_path / "maven/org").rglob("*") if path.is_file()] == []


def test_a_file_cut_short_in_the_cache_is_downloaded_again(lock: Path, tmp_path: Path) -> None:
    resolve, asked = serving(CONTENT)
    (path,) = maven.fetch("kafka", root=tmp_path, lock=lock, resolve=resolve)
    path.write_bytes(CONTENT[:3])
    maven.fetch("kafka", root=tmp_path, lock=lock, resolve=resolve)
    assert path.read_bytes() == CONTENT
    assert len(asked) == 2


def test_several_at_once_download_a_file_once(lock: Path, tmp_path: Path) -> None:
    resolve, asked = serving(CONTENT)
    threads = [
        threading.Thread(
            target=maven.fetch, args=("kafka",), kwargs={"root": tmp_path, "lock": lock, "resolve": resolve}
        )
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert asked == [COORDINATE]


def test_a_line_that_is_no_pin_is_refused(tmp_path: Path) -> None:
    (tmp_path / "maven.lock").write_text("kafka org.example:thing:1.2:jar\n")
    with pytest.raises(ArtifactError, match="part coordinate size sha256"):
        maven.read_lock(tmp_path / "maven.lock")


def test_the_shipped_lock_pins_every_file_by_size_and_digest() -> None:
    artifacts = maven.read_lock()
    assert {artifact.part for artifact in artifacts} == {"kafka", "registry"}
    assert {maven.KAFKA + ":jar", maven.LOGGING + ":jar", maven.REGISTRY + ":all:tar.gz"} <= {
        artifact.coordinate for artifact in artifacts
    }
    assert all(len(artifact.sha256) == 64 and artifact.size_bytes > 0 for artifact in artifacts)
