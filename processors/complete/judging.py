"""What becomes of a reply that is here and paid for: it answers the call, or another one is asked for, or none will do.

The seam between the core of a call (``attempting``) and whoever can tell a good reply from a wrong one. A reply that is
not accepted is a paid attempt all the same: it is booked ``failed`` with the usage and cost that it really had, so that
ledger and journal have it, and its text is dropped.

After a crash the call begins again **with its first payload**: of a repeat's payload the journal holds nothing, because
it quotes a reply that was thrown away. What limits the repeats are the journal's rows (``judged_wrong``), so a crash
never buys more of them: the rows of earlier workers count. The attempt that was open when the worker was lost is booked
``unknown`` at the bound of the payload that it really sent, a repeat's too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from processors.complete.payload import Payload
from processors.journal import AttemptRow, CallFailure
from processors.journal.protocol import INVALID_OUTPUT
from processors.model.port import ModelReply


@dataclass(frozen=True, slots=True, kw_only=True)
class Accept:
    """The reply is the call's result. ``reply`` is what the completion says: it may differ from what was written."""

    reply: ModelReply


@dataclass(frozen=True, slots=True, kw_only=True)
class AskAgain:
    """The reply is wrong; ask once more, with ``payload``.

    ``otherwise`` ends the call when there is no time for that. Its code is the attempt's.
    """

    payload: Payload
    otherwise: CallFailure


@dataclass(frozen=True, slots=True, kw_only=True)
class Refuse:
    """The reply is wrong and no other one is wanted: the call ends with ``failure``, whose code is the attempt's."""

    failure: CallFailure


Judgement = Accept | AskAgain | Refuse

# Given the reply and all attempts, the one that brought it at the end and still open. Called once for every reply, in
# order, by the worker that has the lease; it may keep what it saw for the next reply of the same task. It must neither
# block for long nor raise: what it can't judge it accepts. The text of a request that streams may be public already: a
# judge that asks again makes consumers see it begin once more.
Judge = Callable[[ModelReply, Sequence[AttemptRow]], Judgement]


def accept_all(reply: ModelReply, _: Sequence[AttemptRow]) -> Judgement:
    """Every reply answers."""
    return Accept(reply=reply)


def judged_wrong(attempts: Sequence[AttemptRow]) -> int:
    """How many of the attempts brought a reply that was not accepted, those of earlier workers included."""
    return sum(row.error_code == INVALID_OUTPUT for row in attempts)
