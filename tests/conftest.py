"""Fixtures that all tests share."""

from __future__ import annotations

import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.embedded import stack as embedded
from tests.support.secure import SecureBroker
from tests.support.stack import TestStack

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def stack() -> Iterator[TestStack]:
    """The embedded stack, started for the first test that needs it and stopped at the end of the run."""
    # Short and open to others: a socket's path is limited, and Postgres may run as another user.
    folder = Path(tempfile.mkdtemp(prefix="hr-"))
    folder.chmod(0o755)
    try:
        started = TestStack(folder)
    except BaseException:
        embedded.down(folder)
        shutil.rmtree(folder, ignore_errors=True)
        raise
    yield started
    started.close()


@pytest.fixture(scope="session")
def secure_broker() -> Iterator[SecureBroker]:
    """A broker of its own that asks who one is, started for the first test that needs it."""
    started = SecureBroker()
    yield started
    started.close()


@pytest.fixture
def lane() -> str:
    """A lane of the test's own: its topics and rows are nobody else's."""
    return f"t{secrets.token_hex(4)}"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of shared test data beside the checkout; the test is skipped where there is none."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"needs the shared test data, which is not at {SHARED_DATA}")
    return SHARED_DATA
