"""Admission with its fakes, and requests to put before it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from processors.admit import Admit, AdmitPolicy
from processors.admit.in_flight import Room
from processors.admit.limiter import Charger, FakeCharger
from processors.admit.limiting import Limiting
from processors.admit.limits import LimitPolicy
from processors.budgets.standings import Standings
from processors.clock import FakeClock
from processors.event import Incoming
from processors.finality import FakeFinality
from processors.idempotency import FakeIdempotency
from schemas.codec import Codec
from schemas.records import (
    Admitted,
    Answer,
    ContentPart,
    Message,
    Meta,
    Request,
    Text,
)

CODEC = Codec.offline()


@dataclass
class Bench:
    """Admission with its fakes."""

    policy: AdmitPolicy = field(default_factory=AdmitPolicy)
    clock: FakeClock = field(default_factory=FakeClock)
    idempotency: FakeIdempotency = field(default_factory=FakeIdempotency)
    finality: FakeFinality = field(default_factory=FakeFinality)
    limits: LimitPolicy = field(default_factory=LimitPolicy)
    charger: Charger = field(default_factory=FakeCharger)
    standings: Standings | None = None
    room: Room | None = None

    async def admit(self, request: Request, *, control_offset: int = 5, late_s: float = 0, run: str = "") -> list[Any]:
        appended_at = self.clock.now()
        self.clock.advance(late_s)
        admit = Admit(
            policy=self.policy,
            clock=self.clock,
            idempotency=self.idempotency,
            finality=self.finality,
            codec=CODEC,
            limiting=self._limiting(),
        )
        incoming = Incoming(
            record=request,
            meta=replace(
                request.meta,
                accepted_at=appended_at,
                run=run or request.meta.run,
                lane=self.policy.lane if run else request.meta.lane,
            ),
            raw=b"",
            appended_at=appended_at,
            control_offset=control_offset,
        )
        outputs = list(await admit(incoming))
        for output in outputs:
            CODEC.encode(output)  # type: ignore[arg-type]
        return outputs

    def _limiting(self) -> Limiting:
        return Limiting(
            self.limits,
            self.charger,
            idempotency=self.idempotency,
            clock=self.clock,
            lane=self.policy.lane,
            standings=self.standings,
            room=self.room,
        )

    async def refusal(self, request: Request, **options: Any) -> Answer:
        (answer,) = await self.admit(request, **options)
        assert isinstance(answer, Answer)
        assert answer.failure is not None
        return answer

    async def admitted(self, request: Request, **options: Any) -> Admitted:
        (admitted,) = await self.admit(request, **options)
        assert isinstance(admitted, Admitted), admitted.failure
        return admitted


def request(**fields: Any) -> Request:
    meta = Meta(event_id=fields.pop("event_id", "made-up"), request_id="r1", tenant="default", lane="live")
    known = {"meta": replace(meta, **fields.pop("meta", {})), "query": Text(inline="What is a stream?")}
    return Request(**{**known, **fields})


def conversation(*messages: Message) -> Request:
    return request(query=None, messages=messages)


def said(text: str, role: str = "user", **fields: Any) -> Message:
    return Message(role=role, content=(ContentPart(type="text", text=Text(inline=text)),), **fields)
