"""The journal of paid calls: a response that reached us is never bought again."""

from processors.journal.entry import (
    AttemptRow,
    Bound,
    Busy,
    CallFailure,
    CallKey,
    Claim,
    Done,
    Ended,
    Expired,
    Granted,
    Lease,
    Offer,
    Settled,
    Target,
    UnknownPolicy,
)
from processors.journal.lease import LeaseKeeper
from processors.journal.memory import MemoryJournal
from processors.journal.port import Journal
from processors.journal.postgres import PostgresJournal

__all__ = [
    "AttemptRow",
    "Bound",
    "Busy",
    "CallFailure",
    "CallKey",
    "Claim",
    "Done",
    "Ended",
    "Expired",
    "Granted",
    "Journal",
    "Lease",
    "LeaseKeeper",
    "MemoryJournal",
    "Offer",
    "PostgresJournal",
    "Settled",
    "Target",
    "UnknownPolicy",
]
