"""Who pays for a text that is embedded."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypedDict

from schemas.ids import event_id
from schemas.records import Admission, Meta, Request

# Cost events of what a stage buys beside its output are numbered from here on: no other output has these numbers.
FIRST_ORDINAL = 100_000


class Labels(TypedDict):
    """What a cost event says of who asked, and for what."""

    prompt_version: str
    team: str
    user: str
    session: str
    feature: str
    tier: str
    arm: str


def labels(request: Request, admission: Admission, *, prompt_version: str) -> Labels:
    """The labels of a request's cost events."""
    return Labels(
        prompt_version=prompt_version,
        team=request.team,
        user=request.user,
        session=request.session,
        feature=request.feature,
        tier=admission.tier,
        arm=admission.arm,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Payer:
    """An event in one stage, by its meta, and what the cost events of what it buys there say.

    ``keeps``: a redelivery finds the vectors that were bought for it, and buys nothing; where they are kept elsewhere
    it is not needed.
    """

    meta: Meta
    stage: str
    version: str
    keeps: bool = True
    route: str = ""
    prompt_version: str = ""
    team: str = ""
    user: str = ""
    session: str = ""
    feature: str = ""
    tier: str = ""
    arm: str = ""

    def attempt(self, ordinal: int) -> Meta:
        """The meta of the cost event of its ``ordinal``-th attempt, from 0."""
        cause = self.meta
        own = event_id(
            tenant=cause.tenant,
            lane=cause.lane,
            run=cause.run,
            stage=self.stage,
            causation_id=cause.event_id,
            ordinal=FIRST_ORDINAL + ordinal,
        )
        return replace(cause, event_id=own, causation_id=cause.event_id, stage=self.stage, stage_version=self.version)

    @property
    def spender(self) -> str:
        """What its attempts are found by."""
        return self.attempt(0).event_id


def payer_of(
    meta: Meta,
    request: Request,
    admission: Admission,
    *,
    stage: str,
    version: str,
    prompt_version: str = "",
) -> Payer:
    """The payer of what a stage embeds for a request."""
    return Payer(
        meta=meta,
        stage=stage,
        version=version,
        route=admission.route,
        **labels(request, admission, prompt_version=prompt_version),
    )
