"""The complete stage with a cheap deployment and a stronger one, whose replies a test says."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any

from processors.complete.policies import CascadePolicy
from processors.complete.routes import Deployment, Group
from processors.evaluate.replies import FixedScorer
from processors.event import Incoming, Recorded
from processors.model.port import ModelReply, SentCall
from processors.prices.tariff import Price
from schemas.records import Completion, Cost, Enrichment, ResponseFormat
from tests.support.completing import Bench, event

JSON = ResponseFormat(type="json_object")


def deployment(name: str, dollars: str = "1", **changes: Any) -> Deployment:
    """A deployment that costs so many dollars a million tokens."""
    price = Price(prompt=Decimal(dollars), completion=Decimal(dollars))
    values = {"model": f"model-{name}", "price": price, "max_concurrency": 4}
    return Deployment(name=name, base_url=f"http://{name}/v1", **{**values, **changes})


def reply(text: str | None, **changes: Any) -> ModelReply:
    """A reply of 100 and 10 tokens."""
    values: dict[str, Any] = {"finish_reason": "stop", "usage": {"prompt_tokens": 100, "completion_tokens": 10}}
    return ModelReply(text=text, **{**values, **changes})


DECLINED = reply("I'm sorry, but I can't help with that.")


class Said(Bench):
    """A bench whose deployments say what they are told to, in order; the last one is said from then on."""

    def __init__(self, says: dict[str, list[ModelReply | Exception]]) -> None:
        super().__init__()
        self.says, self.scorer = says, FixedScorer()
        self.model.script = self._say

    def worker(self, owner: str = "w1", **options: Any) -> Any:
        return super().worker(owner, scorer=self.scorer, **options)

    @property
    def went(self) -> list[str]:
        return [call.deployment for call in self.model.calls]

    def _say(self, call: SentCall) -> ModelReply | Exception:
        said = self.says[call.deployment]
        return said.pop(0) if len(said) > 1 else said[0]


class Cascading(Said):
    """``cheap`` at a dollar, ``strong`` at ten."""

    def __init__(self, cheap: Sequence[ModelReply | Exception], *strong: ModelReply | Exception, **policy: Any) -> None:
        super().__init__({"cheap": list(cheap), "strong": list(strong) or [reply("the strong one's answer")]})
        route = policy.pop("route", {})
        self.strong = deployment("strong", "10")
        groups = policy.pop("groups", (Group(deployments=(self.strong,)),))
        policy.setdefault("least_time_s", 0.0)
        cascade = CascadePolicy(groups=groups, **policy)
        self.route = replace(self.route, deployment=deployment("cheap"), cascade=cascade, **route)


def completion(outputs: Sequence[Any]) -> Completion:
    """The completion among a stage's outputs."""
    [found] = [one.record for one in outputs if isinstance(one, Recorded) and isinstance(one.record, Completion)]
    return found


def costs(outputs: Sequence[Any]) -> list[Cost]:
    """The costs among a stage's outputs."""
    return [one for one in outputs if isinstance(one, Cost)]


def told(one: Completion) -> tuple[Any, ...]:
    """What a completion tells of its cascade: outcome, reason and steps."""
    assert one.cascade is not None
    steps = [(step.attempt, step.deployment, step.outcome, step.check, step.code) for step in one.cascade.steps]
    return one.cascade.outcome, one.cascade.reason, steps


async def crash_after_escalation(bench: Cascading, asked: Incoming[Enrichment] | None = None, **options: Any) -> None:
    """Lose the worker whose cheap reply failed its check, before it could send the next call."""
    reached, never = asyncio.Event(), asyncio.Event()
    worker = bench.worker(options.pop("owner", "w1"), **options)
    next_attempt = bench.journal.next_attempt

    async def crash(*_: Any) -> Any:
        reached.set()
        await never.wait()

    bench.journal.next_attempt = crash  # type: ignore[method-assign]
    task = asyncio.create_task(worker(asked or event()))
    await reached.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    bench.journal.next_attempt = next_attempt  # type: ignore[method-assign]
    bench.clock.advance(16)
