"""One attempt: where it goes, what it sends there, and the most that it can cost."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from processors.complete import STAGE, VERSION
from processors.complete.payload import Payload, build_payload, payload_hash, token_limit
from processors.complete.pricing import upper_bound
from processors.complete.routes import Deployment, Route
from processors.event import Incoming
from processors.journal import CallFailure, CallKey, Offer, Target
from schemas.errors import ConfigurationError, PermanentProviderError
from schemas.records import Enrichment, Sampling


def target_of(
    route: str, deployment: Deployment, payload: Payload, sampling: Sampling, *, control_offset: int, at: datetime
) -> Target:
    """What the journal books of an attempt that sends ``payload`` to ``deployment``."""
    return Target(
        route=route,
        deployment=deployment.name,
        provider=deployment.provider,
        model=deployment.model,
        price_source=deployment.price.source,
        account=deployment.account,
        stage_version=VERSION,
        control_offset=control_offset,
        bound=upper_bound(payload, deployment, token_limit(sampling, deployment), at=at),
    )


def offer_of(
    incoming: Incoming[Enrichment], key: CallKey, route: Route, *, if_lost: CallFailure | None, at: datetime
) -> Offer:
    """The wish to make the call, with its first attempt at the route's first deployment.

    Its hash is of what would be sent there, whatever deployment it comes to: the same input has the same hash.
    """
    deployment, record = route.deployment, incoming.record
    payload = build_payload(record, deployment)
    sampling, offset = record.request.sampling, incoming.control_offset
    return Offer(
        key=key,
        input_hash=payload_hash(payload, deployment),
        input=incoming.raw,
        target=target_of(route.name, deployment, payload, sampling, control_offset=offset, at=at),
        max_attempts=route.most_attempts,
        unknown_policy=route.unknown_policy,
        if_lost=if_lost,
        stands=route.cascade is not None,
        expires_at=record.admission.expires_at,
    )


def offer_at(offer: Offer, deployment: Deployment, incoming: Incoming[Enrichment], *, at: datetime) -> Offer:
    """The offer with its first attempt at this deployment."""
    target = offer.target
    if deployment.name == target.deployment:
        return offer
    payload, sampling = build_payload(incoming.record, deployment), incoming.record.request.sampling
    placed = target_of(target.route, deployment, payload, sampling, control_offset=target.control_offset, at=at)
    return replace(offer, target=placed)


def readdressed(payload: Payload, enrichment: Enrichment, deployment: Deployment) -> Payload:
    """What ``payload`` is at another deployment: the same messages, with its model and its limit on tokens."""
    body = build_payload(enrichment, deployment)
    return {**body, "messages": payload["messages"]}


def narrowed(route: Route, model: str | None) -> Route:
    """The route with those of its deployments alone that serve the model which was asked for.

    Raises ``PermanentProviderError`` when none of its own does.
    """
    if model is None or all(one.model == model for one in route.deployments):
        return route
    own = tuple(one for one in route.own.deployments if one.model == model)
    if not own:
        raise PermanentProviderError("unknown_model", f"route {route.name!r} does not offer the model asked for")
    fallbacks = {}
    for cause, groups in route.fallbacks.items():
        same = (tuple(one for one in group.deployments if one.model == model) for group in groups)
        kept = (replace(group, deployments=left) for group, left in zip(groups, list(same), strict=True) if left)
        fallbacks[cause] = tuple(kept)
    cascade, fan_out = route.cascade, route.fan_out
    if cascade is not None:
        stronger = (tuple(one for one in group.deployments if one.model == model) for group in cascade.groups)
        groups = tuple(replace(old, deployments=new) for old, new in zip(cascade.groups, stronger, strict=True) if new)
        cascade = replace(cascade, groups=groups) if groups else None
    if fan_out is not None and fan_out.members:
        members = tuple(one for one in fan_out.members if one.model == model)
        fan_out = replace(fan_out, members=members, needed=min(fan_out.needed, len(members))) if members else None
    return replace(route, deployment=own[0], others=own[1:], fallbacks=fallbacks, cascade=cascade, fan_out=fan_out)


def route_of_sample(route: Route, number: int) -> Route:
    """The route as one call of its fan-out takes it: at its own deployment, where each has one.

    The last resort is for the request, and never one sample's answer; nor are its texts published as they come.
    """
    members = () if route.fan_out is None else route.fan_out.members
    sample = replace(route, fan_out=None, last_resort=None, stream=False)
    # Settings may name fewer of them than when the call was begun.
    return replace(sample, deployment=members[number % len(members)], others=()) if members else sample


def check_time(deployment: Deployment, lease_s: float, timeout_s: float, *, booking_s: float) -> None:
    """Raises ``ConfigurationError`` when the stage's time is shorter than a lease, a call and its booking."""
    needed = lease_s + deployment.total_timeout_s + booking_s
    if timeout_s < needed:
        raise ConfigurationError(
            f"{STAGE}: the stage's timeout of {timeout_s:g} s is shorter than a lease and a call at deployment "
            f"{deployment.name} ({needed:g} s); lower total_timeout_s or raise the timeout"
        )
