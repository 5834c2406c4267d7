"""Named places between durable steps where a test can have the worker killed.

Armed by one specification, ``name`` or ``name:n``, that settings pass in; without one ``hit`` does nothing.
"""

from __future__ import annotations

import os
import signal
from typing import Protocol

from schemas.errors import ConfigurationError

NAMES = (
    "after_claim",  # the claim is committed, nothing was sent
    "before_call",  # the next thing is the call
    "after_delta",  # a piece of the text is acknowledged, the call is still open
    "after_abort",  # it is acknowledged that an attempt broke off, no other one is open
    "after_reply",  # the reply is here, the journal does not know
    "after_finish",  # the journal has the result, nothing was published
    "after_cost_produced",  # the costs are acknowledged, the completion is not
    "after_produce",  # every output is acknowledged
    "after_final_claim",  # the finality row is committed, the answer was not published
    "after_deferral",  # the event is set aside, its offset is not acknowledged
    "after_deferred_taken",  # an event that was set aside may go on, nothing was produced
    "after_deferred_produced",  # it is on its topic again, its row is still there
    "before_ack",  # all is done but the offset
)
# The same for cascades.
CASCADE_NAMES = ("after_kept",)  # a reply is kept, no stronger model was asked
# The same for requests that are fanned out.
FAN_OUT_NAMES = ("after_samples",)  # all calls of a request have ended, nothing was made of them
# The same for what embeddings cost.
SPEND_NAMES = ("after_spends_taken",)  # cost events are about to be published, they are not yet
# The same for calls that go by batch.
BATCH_NAMES = (
    "after_batch_item",  # a call is stored for a batch, its event is not set aside
    "after_batch_follow",  # it is noted whose batch a request waits for, its event is not set aside
    "after_batch_begun",  # a batch has its items, none is claimed
    "after_batch_claims",  # calls of a batch are claimed, their items don't know
    "after_batch_upload",  # the file is uploaded, nobody noted that
    "before_batch_create",  # it is noted that the batch may be made, the next thing is to make it
    "after_batch_create",  # the batch is made, its id is not stored
    "after_batch_replies",  # some replies of a batch are stored
    "after_batch_results",  # all are, the batch is not over
    "after_batch_withdrawal",  # a cancelled item is given up, its call is open
    "after_batch_adoption",  # a call with a stored reply is this worker's, nothing is booked
)


class Failpoints(Protocol):
    """Places that code passes; most of the time nothing happens there."""

    def hit(self, name: str) -> None:
        """Pass the place ``name``. Does not return when it is armed and its turn has come."""
        ...


class Unarmed:
    """Fail points of a worker that nobody tests."""

    def hit(self, name: str) -> None:
        """Nothing happens."""


class Armed:
    """Kills this process with SIGKILL at the ``turn``-th pass of one place."""

    def __init__(self, name: str, turn: int = 1) -> None:
        self._name = name
        self._left = turn

    def hit(self, name: str) -> None:
        """Count the pass; at the chosen one the process is gone."""
        if name == self._name:
            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)


def failpoints(specification: str | None) -> Failpoints:
    """The fail points for ``name`` or ``name:n``; raises ``ConfigurationError`` for any other specification."""
    if not specification:
        return Unarmed()
    name, _, turn = specification.partition(":")
    known = (*NAMES, *CASCADE_NAMES, *FAN_OUT_NAMES, *SPEND_NAMES, *BATCH_NAMES)
    if name not in known or (turn and not (turn.isascii() and turn.isdigit() and int(turn) > 0)):
        raise ConfigurationError(f"failpoint {specification!r}: use one of {', '.join(known)}, or name:n with n > 0")
    return Armed(name, int(turn or 1))
