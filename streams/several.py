"""A route's cascade and fan-out, as the complete stage takes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from processors.complete.policies import CascadePolicy, FanOutPolicy
from processors.complete.routes import Deployment, Group, Route, Strategy
from streams.settings import Settings
from streams.several_checks import stronger


def cascade_policy(name: str, settings: Settings, deployments: Mapping[str, Deployment]) -> CascadePolicy | None:
    """The route's cascade, where it has one."""
    ours = settings.routes[name].cascade
    if ours is None:
        return None
    groups = tuple(
        Group(deployments=tuple(deployments[one] for one in names), strategy=cast("Strategy", strategy))
        for names, strategy in stronger(name, settings.routes, settings.deployments)
    )
    return CascadePolicy(
        groups=groups,
        least_groundedness=ours.groundedness,
        **ours.model_dump(exclude={"to", "groundedness"}),
    )


def fan_out_policy(name: str, settings: Settings, deployments: Mapping[str, Deployment]) -> FanOutPolicy | None:
    """The route's fan-out, where it has one."""
    ours = settings.routes[name].fan_out
    if ours is None:
        return None
    return FanOutPolicy(
        samples=ours.samples or 0,
        members=tuple(deployments[one] for one in ours.deployments),
        as_json=ours.join_as == "json",
        **ours.model_dump(exclude={"samples", "deployments", "join_as"}),
    )


def scores_replies(route: Route) -> bool:
    """Whether the route decides by scores of replies, for which texts are embedded."""
    cascade, fan_out = route.cascade, route.fan_out
    return (cascade is not None and cascade.least_groundedness is not None) or (
        fan_out is not None and fan_out.aggregate == "best"
    )
