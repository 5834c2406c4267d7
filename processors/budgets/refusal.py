"""Whose money a request spends, and how one is refused that has none left."""

from __future__ import annotations

from collections.abc import Mapping

from schemas.errors import RefusedError
from schemas.records import Request

BUDGET_EXCEEDED = "budget_exceeded"


def who_pays(request: Request, tenant: str) -> Mapping[str, str]:
    """On whose behalf a request spends, by the dimensions of budgets."""
    return {"tenant": tenant, "team": request.team, "user": request.user, "feature": request.feature}


def over_budget(budget: str, left_s: float) -> RefusedError:
    """The refusal of a request whose budget is used up for another ``left_s`` seconds."""
    message = f"the budget {budget} has not enough left for this request; its period ends in retry_after_s"
    return RefusedError(BUDGET_EXCEEDED, message, retry_after_s=round(max(0.0, left_s), 3))
