"""Whether the ledger agrees with the cost events and with the journal."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from decimal import Decimal

from schemas.records import Cost
from tests.faults.evidence import Evidence

# As many examples as a fault names.
EXAMPLES = 5


def ledger_faults(evidence: Evidence, costs: Sequence[Cost]) -> list[str]:
    """Every attempt has one row, whose amount is that of its distinct cost events and of the journal.

    ``costs`` holds every event once.
    """
    charged: defaultdict[str, Decimal] = defaultdict(Decimal)
    for cost in costs:
        charged[cost.attempt_id] += cost.amount_usd
    booked = {row.attempt_id: row for row in evidence.ledger}
    journal = {row.attempt_id: row for row in evidence.attempts}
    both = booked.keys() & charged.keys()
    rows = Counter(row.attempt_id for row in evidence.ledger)
    found = {
        "cost events are not in the ledger": charged.keys() - booked.keys(),
        "rows of the ledger have no cost event": booked.keys() - charged.keys(),
        "attempts have several rows": [name for name, count in rows.items() if count > 1],
        "rows have another amount than their events": [n for n in both if booked[n].amount_usd != charged[n]],
        "rows have another amount or state than the journal": [
            name
            for name in both & journal.keys()
            if (booked[name].amount_usd, booked[name].state) != (journal[name].cost_usd, journal[name].state)
        ],
        "rows saw events that contradict each other": [row.attempt_id for row in evidence.ledger if row.conflicts],
    }
    return [
        f"ledger: {len(names)} {what}: {', '.join(sorted(names)[:EXAMPLES])}" for what, names in found.items() if names
    ]
