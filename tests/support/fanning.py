"""The complete stage with a route that has a fan-out, on the shipped fakes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from processors.complete.policies import FanOutPolicy
from processors.model.port import ModelReply
from schemas.records import Cost
from tests.support.cascading import Said, deployment, reply


class Fanned(Said):
    """A route whose samples say ``says`` in order, or whose members each say their own."""

    def __init__(
        self,
        says: Sequence[ModelReply | Exception] | dict[str, list[ModelReply | Exception]],
        aggregate: Any = "vote",
        *,
        route: dict[str, Any] | None = None,
        **policy: Any,
    ) -> None:
        super().__init__(says if isinstance(says, dict) else {"one": list(says)})
        first, *others = (deployment(name) for name in self.says)
        if isinstance(says, dict):
            policy["members"] = (first, *others)
        else:
            policy.setdefault("samples", len(says))
        fan_out = FanOutPolicy(aggregate=aggregate, **policy)
        changes = {"max_attempts": 1, **(route or {})}
        self.route = replace(self.route, deployment=first, others=tuple(others), fan_out=fan_out, **changes)


def texts(*said: str) -> list[ModelReply | Exception]:
    return [reply(text) for text in said]


def costs(outputs: Any) -> list[Cost]:
    return [one for one in outputs if isinstance(one, Cost)]
