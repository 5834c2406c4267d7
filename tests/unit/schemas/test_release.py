"""A released version is a copy that nothing changes any more."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from schemas.errors import ConfigurationError
from schemas.files import TODAY, event_schemas
from schemas.release import release


def test_a_release_is_a_copy_of_todays_schemas(tmp_path: Path) -> None:
    folder = release("0.1.0", released=tmp_path)

    assert event_schemas(folder) == event_schemas()


def test_a_released_version_is_never_written_again(tmp_path: Path) -> None:
    release("0.1.0", released=tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.avsc")}

    with pytest.raises(ConfigurationError, match=r"0\.1\.0 is released"):
        release("0.1.0", released=tmp_path)

    assert {path: path.read_bytes() for path in tmp_path.rglob("*.avsc")} == before


@pytest.mark.parametrize("version", ["", "1", "v0.1.0", "../0.1.0", "0.1.0-rc1"])
def test_what_is_no_version_is_refused(version: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="is no version"):
        release(version, released=tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_breaking_change_is_not_released(tmp_path: Path) -> None:
    today, released = tmp_path / "today", tmp_path / "released"
    shutil.copytree(TODAY, today)
    release("0.1.0", today=today, released=released)
    path = today / "delta.avsc"
    path.write_text(path.read_text().replace('"attempt", "type": "int"', '"attempt", "type": "long"'))

    with pytest.raises(ConfigurationError, match=r"Delta\.attempt: type_mismatch"):
        release("0.2.0", today=today, released=released)
    assert not (released / "0.2.0").exists()
