"""Settings of budgets."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from decimal import Decimal
from typing import Literal

from pydantic import Field, model_validator

from processors.budgets.rule import DIMENSIONS, EACH, Budget
from streams.credentials import Section

_MOST = 10**15


class BudgetSettings(Section):
    """So much money in a UTC day or month, for what is named: a value, or ``*`` for each value by itself.

    A budget that names nothing counts everything. Amounts in US dollars.
    """

    period: Literal["day", "month"]
    tenant: str | None = Field(default=None, min_length=1)
    team: str | None = Field(default=None, min_length=1)
    user: str | None = Field(default=None, min_length=1)
    feature: str | None = Field(default=None, min_length=1)
    # Never passed: a call that might is refused.
    hard_usd: Decimal | None = Field(default=None, gt=0, le=_MOST)
    # Told when it is passed.
    soft_usd: Decimal | None = Field(default=None, gt=0, le=_MOST)
    # The share of the hard limit (of the soft one, where there is no hard one) that is told when it is passed.
    alert_at: Decimal = Field(default=Decimal("0.8"), gt=0, le=1)

    @model_validator(mode="after")
    def _cross_check(self) -> BudgetSettings:
        if self.hard_usd is None and self.soft_usd is None:
            raise ValueError("a budget needs hard_usd, soft_usd or both")
        if self.hard_usd is not None and self.soft_usd is not None and self.soft_usd >= self.hard_usd:
            raise ValueError("soft_usd has to be less than hard_usd: it would never be passed")
        return self

    def budget(self, name: str) -> Budget:
        """As the stages take it."""
        given = {dimension: getattr(self, dimension) for dimension in DIMENSIONS}
        return Budget(
            name=name,
            period=self.period,
            only={dimension: value for dimension, value in given.items() if value is not None},
            hard_usd=self.hard_usd,
            soft_usd=self.soft_usd,
            alert_at=self.alert_at,
        )


def budgets_of(settings: Mapping[str, BudgetSettings]) -> tuple[Budget, ...]:
    """The budgets of the settings, by name."""
    return tuple(one.budget(name) for name, one in sorted(settings.items()))


def check_budgets(settings: Mapping[str, BudgetSettings], tenants: Collection[str]) -> None:
    """Raises ``ValueError`` for a budget of a tenant that is none of ``tenants``; with none of them, any will do."""
    for name, one in settings.items():
        if tenants and one.tenant not in (None, EACH, *tenants):
            raise ValueError(f"budgets.{name}.tenant is {one.tenant!r}, which is none of tenants")
