"""What a call costs that goes by batch: a share of the deployment's price."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from processors.prices.tariff import UNPRICED, Tariff, money
from schemas.records import Usage

# As ``BatchPrice.source`` ends.
_SHARE = re.compile(r" x ([0-9]+(?:\.[0-9]+)?) \(batch\)\Z")


@dataclass(frozen=True, slots=True)
class BatchPrice:
    """A ``Tariff`` at ``factor`` of another one; its source says both."""

    whole: Tariff
    factor: Decimal

    @property
    def source(self) -> str:
        return UNPRICED if self.whole.source == UNPRICED else f"{self.whole.source} x {self.factor:f} (batch)"

    def amount(self, usage: Usage, at: datetime) -> Decimal:
        return money(self.whole.amount(usage, at) * self.factor)

    def most(self, prompt_tokens: int, completion_tokens: int, at: datetime, *, mixed: bool = False) -> Decimal:
        return money(self.whole.most(prompt_tokens, completion_tokens, at, mixed=mixed) * self.factor)


def batch_factor(source: str) -> Decimal | None:
    """The factor that a ``BatchPrice`` wrote into its source; ``None`` for that of any other tariff, also unpriced."""
    found = _SHARE.search(source)
    return None if found is None else Decimal(found[1])
