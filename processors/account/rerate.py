"""What an attempt costs under other prices, as one more event of it: nothing that was booked is overwritten."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from processors.account.entry import Said, Spender
from processors.account.rule import RERATE
from processors.prices import PriceTable, Tariff
from processors.prices.batch import BatchPrice, batch_factor
from processors.prices.version import version_of
from schemas.ids import derive_id
from schemas.records import Cost, Meta, Usage

STAGE, VERSION = "rerate", "1"


@dataclass(frozen=True, slots=True)
class Booked:
    """A row of the ledger. ``rerated``: how often its price was changed before."""

    attempt_id: str
    spender: Spender
    said: Said
    rerated: int


@dataclass(frozen=True, slots=True)
class Correction:
    """An attempt's amount before and after, in US dollars, and the event that says the difference."""

    old_usd: Decimal
    new_usd: Decimal
    event: Cost


def priced(row: Booked, table: PriceTable) -> tuple[Decimal, Tariff] | None:
    """What the row's tokens cost by this table; ``None`` where it does not know the model.

    An attempt whose outcome nobody saw is booked at the most that its tokens can cost; one that went by batch at the
    same share of the new price as of the old one.
    """
    price = table.find(row.spender.provider, row.spender.model)
    if price is None:
        return None
    said = row.said
    factor = batch_factor(said.price_source)
    tariff = price if factor is None else BatchPrice(price, factor)
    if said.upper_bound:
        return tariff.most(said.prompt_tokens, said.completion_tokens, said.incurred_at), tariff
    return tariff.amount(usage_of(said), said.incurred_at), tariff


def correct(row: Booked, table: PriceTable, *, now: datetime) -> Correction | None:
    """The correction of a row; ``None`` where the table does not know the model or nothing changes.

    Pure: the same row and table give the same event but for its time. The event's id tells which correction of the
    attempt it is, so that a row that has it never gets it again.
    """
    found = priced(row, table)
    if found is None or found[0] == row.said.amount_usd:
        return None
    new_usd, tariff = found
    return Correction(row.said.amount_usd, new_usd, _event(row, new_usd, tariff, now))


def usage_of(said: Said) -> Usage:
    """The tokens as an event has them."""
    return Usage(
        prompt_tokens=said.prompt_tokens,
        completion_tokens=said.completion_tokens,
        cached_prompt_tokens=said.cached_prompt_tokens,
        cache_write_tokens=said.cache_write_tokens,
        reasoning_tokens=said.reasoning_tokens,
        estimated=said.usage_estimated,
        details=said.usage_details,
    )


def _event(row: Booked, new_usd: Decimal, tariff: Tariff, now: datetime) -> Cost:
    spender, said = row.spender, row.said
    meta = Meta(
        event_id=derive_id(row.attempt_id, RERATE, row.rerated),
        request_id=spender.request_id,
        tenant=spender.tenant,
        lane=spender.lane,
        run=spender.run,
        causation_id=row.attempt_id,
        stage=STAGE,
        stage_version=VERSION,
    )
    return Cost(
        meta=meta,
        attempt_id=row.attempt_id,
        purpose=spender.purpose,
        ordinal=spender.ordinal,
        route=spender.route,
        deployment=spender.deployment,
        provider=spender.provider,
        model=spender.model,
        state=said.state,
        usage=usage_of(said),
        amount_usd=new_usd - said.amount_usd,
        estimated=said.estimated,
        upper_bound=said.upper_bound,
        price_source=tariff.source,
        price_version=version_of(tariff.source),
        error_code=said.error_code,
        correction=RERATE,
        response_id=said.response_id,
        account=spender.account,
        served_by=spender.served_by,
        prompt_version=spender.prompt_version,
        team=spender.team,
        user=spender.user_id,
        session=spender.session,
        feature=spender.feature,
        tier=spender.tier,
        arm=spender.arm,
        incurred_at=now,
    )
