"""What the filters of ``headrace dlq`` take: a name that no letter can have is told, and finds nothing in silence."""

from __future__ import annotations

import pytest

from schemas.errors import ConfigurationError
from streams.cli.dlq_desk import chosen_filter


@pytest.mark.parametrize("error_class", ["poison", "unknown", "permanent", "policy", "transient-provider"])
def test_every_class_of_error_is_taken(error_class: str) -> None:
    assert chosen_filter(error_class, "filter", None, None, None, "open").error_class == error_class


@pytest.mark.parametrize(
    ("error_class", "stage", "said"),
    [
        ("poson", None, "--class poson: no letter has that; take one of permanent, poison, policy, transient-"),
        (None, "fliter", "--stage fliter: no letter has that; take one of account, admit, "),
    ],
)
def test_a_name_that_no_letter_can_have_is_refused(error_class: str | None, stage: str | None, said: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^{said}"):
        chosen_filter(error_class, stage, None, None, None, "open")
