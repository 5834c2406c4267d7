"""A headless browser for tests of pages: Chromium, where the machine has one."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome", "headless_shell")


def dump(page: Path, folder: Path) -> str:
    """The page's document as the browser has it after its scripts ran, if any did. Skips where there is no browser."""
    found = os.environ.get("HEADRACE_TEST_BROWSER") or next((name for name in NAMES if shutil.which(name)), None)
    if found is None:
        pytest.skip(f"none of {', '.join(NAMES)} is on PATH; install Debian's chromium, or set HEADRACE_TEST_BROWSER")
    argv = [
        found,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--no-first-run",
        # Whatever the page asked for would not be found.
        "--host-resolver-rules=MAP * ~NOTFOUND",
        f"--user-data-dir={folder / 'browser'}",
        "--dump-dom",
        page.as_uri(),
    ]
    done = subprocess.run(argv, capture_output=True, timeout=120, check=True)
    return done.stdout.decode()
