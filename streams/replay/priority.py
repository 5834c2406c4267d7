"""A replay gives way on the processor, too: workers of the same machine go first."""

from __future__ import annotations

import os

# A process of this niceness gets a tenth of a core that a worker of niceness 0 wants, and all of an idle one.
NICENESS = 10


def step_aside() -> None:
    """Let others have the processor first, for good: this thread, and those and the processes that it begins.

    Call it before a client of the broker is made, which works in threads of its own.
    """
    before = os.getpriority(os.PRIO_PROCESS, 0)
    if before < NICENESS:
        os.setpriority(os.PRIO_PROCESS, 0, NICENESS)
