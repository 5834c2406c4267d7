"""How much time a call has left, in its stage and before its request expires."""

from __future__ import annotations

import math
import time

from processors.clock import Clock
from processors.complete.routes import Deployment
from processors.complete.task import Left, Task
from schemas.errors import TransientProviderError

# A call is not begun with less time than this: it would only be paid and cut off.
SHORTEST_CALL_S = 1.0


def latest_of(task: Task) -> float:
    """The monotonic time after which no attempt is begun."""
    return task.ends - SHORTEST_CALL_S


def left_of(task: Task, clock: Clock) -> Left:
    """How long another attempt may be waited for."""
    left_s = latest_of(task) - time.monotonic()
    expires_at = task.stored.record.admission.expires_at
    ttl_s = math.inf if expires_at is None else (expires_at - clock.now()).total_seconds()
    return Left(min(left_s, ttl_s), ttl_s)


def deadline_of(deployment: Deployment, task: Task) -> float:
    """How many seconds a call there may take. Raises ``TransientProviderError`` where there is no time for it."""
    deadline_s = min(deployment.total_timeout_s, task.ends - time.monotonic())
    if deadline_s < min(SHORTEST_CALL_S, deployment.total_timeout_s):
        raise TransientProviderError("no_time_left", "the stage's attempt ended before the call could be sent")
    return deadline_s
