"""Fail points: which specifications are taken, and that only the chosen pass kills."""

from __future__ import annotations

import subprocess
import sys

import pytest

from processors.failpoints import NAMES, Unarmed, failpoints
from schemas.errors import ConfigurationError


@pytest.mark.parametrize("specification", ["nowhere", "after_claim:0", "after_claim:x", "after_claim:-1", ":2"])
def test_a_specification_that_names_nothing_is_refused(specification: str) -> None:
    with pytest.raises(ConfigurationError, match="failpoint"):
        failpoints(specification)


@pytest.mark.parametrize("specification", [None, ""])
def test_without_a_specification_nothing_happens(specification: str | None) -> None:
    unarmed = failpoints(specification)
    assert isinstance(unarmed, Unarmed)
    for name in NAMES:
        unarmed.hit(name)


def test_the_nth_pass_of_the_named_place_kills_and_no_other() -> None:
    code = (
        "from processors.failpoints import failpoints\n"
        "armed = failpoints('after_reply:3')\n"
        "for n in range(9):\n"
        "    armed.hit('after_claim')\n"
        "    print(n, flush=True)\n"
        "    armed.hit('after_reply')\n"
    )
    killed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False)
    assert (killed.returncode, killed.stdout.split()) == (-9, ["0", "1", "2"])
