"""The most that a call can cost, with all of its attempts: what its budgets have to hold while it is open."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal

from processors.complete.payload import build_payload, token_limit
from processors.complete.pricing import mixes, upper_bound
from processors.complete.routes import Deployment, Route
from processors.complete.target import route_of_sample
from schemas.records import Enrichment


def worst_case(enrichment: Enrichment, route: Route, *, at: datetime) -> Decimal:
    """US dollars, at the dearest deployment that the route may come to.

    Every attempt counts with its upper bound, because each may be paid without an outcome; a hedge is one of them. A
    reply that is asked for once more is asked with a longer prompt: as long as its deployment's context.
    """
    if route.fan_out is not None:
        samples = (route_of_sample(route, number) for number in range(route.fan_out.size))
        return sum((worst_case(enrichment, sample, at=at) for sample in samples), Decimal(0))
    return max(_most(enrichment, route, deployment, at) for deployment in route.deployments)


def _most(enrichment: Enrichment, route: Route, deployment: Deployment, at: datetime) -> Decimal:
    request = enrichment.request
    limit = token_limit(request.sampling, deployment)
    payload = build_payload(enrichment, deployment)
    plain = upper_bound(payload, deployment, limit, at=at).usd
    if request.response_format.type == "text":
        return plain * route.most_attempts
    again = deployment.price.most(deployment.context_tokens, limit, at, mixed=mixes(payload))
    return plain * route.most_attempts + again * route.repair_attempts
