"""What has to hold between a route's cascade or fan-out and the rest of the settings."""

from __future__ import annotations

from collections.abc import Mapping

from streams.route_settings import ROUTE_PREFIX, DeploymentSettings, FieldError, RouteSettings


def check_several(routes: Mapping[str, RouteSettings], deployments: Mapping[str, DeploymentSettings]) -> None:
    """Raises ``FieldError``, which names the field."""
    for name, route in routes.items():
        if route.cascade is not None:
            _check_cascade(name, route, routes, deployments)
        if route.fan_out is not None:
            _check_fan_out(name, route, deployments)


def stronger(
    name: str, routes: Mapping[str, RouteSettings], deployments: Mapping[str, DeploymentSettings]
) -> tuple[tuple[tuple[str, ...], str], ...]:
    """The deployments of a route's cascade, in order, each group with its strategy."""
    cascade, groups = routes[name].cascade, []
    for target in () if cascade is None else cascade.to:
        route = routes.get(target.removeprefix(ROUTE_PREFIX)) if target.startswith(ROUTE_PREFIX) else None
        groups.append(((target,), "weighted") if route is None else (route.names(deployments), route.strategy))
    return tuple(groups)


def _check_cascade(
    name: str,
    route: RouteSettings,
    routes: Mapping[str, RouteSettings],
    deployments: Mapping[str, DeploymentSettings],
) -> None:
    assert route.cascade is not None
    path = ("routes", name, "cascade", "to")
    for target in route.cascade.to:
        if target.startswith(ROUTE_PREFIX):
            if target.removeprefix(ROUTE_PREFIX) not in routes:
                raise FieldError(path, f"names {target!r}, which is no route")
        elif target not in deployments:
            hint = f"; write {ROUTE_PREFIX}{target} for the route" if target in routes else ""
            raise FieldError(path, f"names {target!r}, which is no deployment{hint}")
    seen = set(route.names(deployments))
    for names, _ in stronger(name, routes, deployments):
        again = sorted(seen & set(names))
        if again:
            raise FieldError(path, f"comes to {again[0]} a second time; every step needs deployments of its own")
        seen |= set(names)
    _check_whole(name, route, "cascade")


def _check_fan_out(name: str, route: RouteSettings, deployments: Mapping[str, DeploymentSettings]) -> None:
    assert route.fan_out is not None
    own = route.names(deployments)
    for one in route.fan_out.deployments:
        if one not in own:
            raise FieldError(
                ("routes", name, "fan_out", "deployments"),
                f"names {one!r}, which is none of the route's own deployments",
            )
    if route.fan_out.deployments and route.complexity is not None:
        path = ("routes", name, "fan_out", "deployments")
        raise FieldError(path, "and complexity, by which others are asked: set samples in place of deployments")
    if route.cascade is not None:
        raise FieldError(("routes", name, "fan_out"), "and cascade: a route has one of them")
    if route.cache.exact or route.cache.waits:
        raise FieldError(("routes", name, "cache"), "is for routes without fan_out: leave one of them out")
    _check_whole(name, route, "fan_out")


def _check_whole(name: str, route: RouteSettings, why: str) -> None:
    if "stream" in route.model_fields_set and route.stream:
        raise FieldError(
            ("routes", name, "stream"),
            f"is true, but {why} needs whole texts: set it to false, and streams get the whole answer in pieces",
        )
