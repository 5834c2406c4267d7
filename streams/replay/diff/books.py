"""What the books say of the requests that a replay of ``account`` copied: the one comparison without topics."""

from __future__ import annotations

from typing import Any

from processors.postgres import Database
from streams.replay.diff.said import Said, pico
from streams.replay.diff.store import Pairs, Side

ASKED = 2_000


async def booked(database: Database, pairs: Pairs, base_lane: str, run_lane: str) -> None:
    """Put what both lanes' books say of the wanted requests. Blocks on Postgres; raises ``DependencyDownError``."""
    for asked in pairs.wanted(ASKED):
        parameters = {
            "lanes": [base_lane, run_lane],
            "tenants": [tenant for tenant, _ in asked],
            "ids": [request_id for _, request_id in asked],
        }
        for row in await database.execute(_BOOKED, parameters):
            pairs.put(Side.RUN if row[0] == run_lane else Side.BASE, _said(row))


def _said(row: tuple[Any, ...]) -> Said:
    lane, tenant, request_id, paid, avoided, prompt, completion, attempts, feature, template, route, model = row
    return Said(
        tenant=tenant,
        request_id=request_id,
        event_id=f"{lane}/{request_id}",
        status="booked",
        text=attempts,
        price_pico=pico(paid + avoided),
        paid_pico=pico(paid),
        prompt_tokens=int(prompt),
        completion_tokens=int(completion),
        feature=feature,
        prompt=template,
        route=route,
        model=model,
    )


_BOOKED = """
    SELECT lane, tenant, request_id, sum(amount_usd), sum(avoided_cost_usd), sum(prompt_tokens),
        sum(completion_tokens),
        string_agg(purpose || ' ' || ordinal || ' ' || state || ' ' || deployment || ' ' || amount_usd, E'\n'
            ORDER BY purpose, ordinal, deployment),
        max(feature), max(prompt_version), max(route), max(model)
    FROM ledger JOIN unnest(%(tenants)s::text[], %(ids)s::text[]) AS asked (tenant, request_id)
        USING (tenant, request_id)
    WHERE lane = ANY(%(lanes)s) GROUP BY lane, tenant, request_id
"""
