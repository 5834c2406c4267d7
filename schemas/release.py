"""Freeze today's schemas as a released version: ``python -m schemas.release 0.1.0``.

From then on they are what events on topics are written in, and every later change is checked against them.
"""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

from schemas.compat import check
from schemas.errors import ConfigurationError
from schemas.files import RELEASED, TODAY, event_schemas


def release(version: str, *, today: Path = TODAY, released: Path = RELEASED) -> Path:
    """Copy the schemas to the version's folder. Raises ``ConfigurationError`` rather than change a released one."""
    if not re.fullmatch(r"\d+\.\d+\.\d+", version):
        raise ConfigurationError(f"{version!r} is no version; give three numbers, e.g. 0.1.0")
    folder = released / version
    if folder.exists():
        raise ConfigurationError(f"{version} is released and never changes; release the next version instead")
    older = {path.name: event_schemas(path) for path in released.glob("*") if path.is_dir()}
    if findings := check(event_schemas(today), older):
        raise ConfigurationError("the schemas are not fit to release:\n" + "\n".join(map(str, findings)))
    folder.mkdir(parents=True)
    for path in sorted(today.glob("*.avsc")):
        shutil.copyfile(path, folder / path.name)
    return folder


def main() -> int:
    """Release the version named on the command line."""
    if len(sys.argv) != 2:
        sys.stderr.write("usage: python -m schemas.release VERSION\n")
        return 2
    try:
        folder = release(sys.argv[1])
    except ConfigurationError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stderr.write(f"released {len(event_schemas(folder))} schemas as {folder.name}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
