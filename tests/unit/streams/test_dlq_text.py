"""What is said of a letter that was to be dropped."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest

from streams.cli.dlq_text import dropped_line
from streams.dlq.search import Found
from streams.dlq.state import State, Status


@pytest.mark.parametrize(
    ("state", "outcome", "says"),
    [
        ("open", "dropped", "0-17 dropped"),
        ("dropped", "skipped", "0-17 skipped: it was dropped before"),
        ("retried", "skipped", "0-17 skipped: it was retried before, and stays so"),
        # By another command, between the look and the drop.
        ("open", "skipped", "0-17 skipped: somebody else retried or dropped it meanwhile"),
    ],
)
def test_a_letter_that_is_not_dropped_says_why(state: State, outcome: str, says: str) -> None:
    found = SimpleNamespace(letter=SimpleNamespace(id="0-17"), status=Status(state=state))
    assert dropped_line(cast("Found", found), outcome).startswith(says)
