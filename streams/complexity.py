"""A route's classes: what has to hold between them and other settings, and as the complete stage takes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from processors.complete.policies import ComplexityPolicy
from processors.complete.routes import Deployment, Route
from streams.route_settings import ROUTE_PREFIX, TAG_PREFIX, DeploymentSettings, FieldError, RouteSettings, class_names

Routes = Mapping[str, RouteSettings]
Deployments = Mapping[str, DeploymentSettings]
Path = tuple[str, ...]


def check_complexity(routes: Routes, deployments: Deployments) -> None:
    """Raises ``FieldError``, which names the field."""
    for name, route in routes.items():
        for one, targets in () if route.complexity is None else route.complexity.targets().items():
            path = ("routes", name, "complexity", one)
            if any(target.startswith(ROUTE_PREFIX) for target in targets):
                _check_route(path, name, targets, routes)
            else:
                _check_deployments(path, route, targets, routes, deployments)
            _check_windows(path, route, class_names(targets, routes, deployments), deployments)


def complexity_policy(
    settings: RouteSettings, made: Mapping[str, Route], deployments: Mapping[str, Deployment], *, name: str
) -> ComplexityPolicy | None:
    """The rules of the route ``name`` and the route of each class. ``made`` are all routes without their classes."""
    ours = settings.complexity
    if ours is None:
        return None
    routes: dict[str, Route] = {}
    for one, targets in ours.targets().items():
        if targets[0].startswith(ROUTE_PREFIX):
            # Booked and counted under the name that was asked for.
            routes[one] = replace(made[targets[0].removeprefix(ROUTE_PREFIX)], name=name)
        else:
            first, *others = (deployments[each] for each in class_names(targets, {}, deployments))
            routes[one] = replace(made[name], deployment=first, others=tuple(others))
    return ComplexityPolicy(
        routes=routes,
        targets={one: ",".join(targets) for one, targets in ours.targets().items()},
        simple_tokens=ours.simple_tokens,
        complex_tokens=ours.complex_tokens,
        balanced_spread=ours.balanced_spread,
        complex_spread=ours.complex_spread,
        efforts=ours.all_efforts(),
        questions=ours.all_questions(),
        words={kind: words for kind, words in ours.words.items()},  # noqa: C416
    )


def _check_route(path: Path, name: str, targets: tuple[str, ...], routes: Routes) -> None:
    if len(targets) > 1:
        raise FieldError(path, "names a route and something else; a class goes to one route, or to deployments")
    target = targets[0].removeprefix(ROUTE_PREFIX)
    if target not in routes:
        raise FieldError(path, f"names {targets[0]!r}, which is no route")
    if target == name:
        raise FieldError(path, "names the route itself; leave the class out, and it stays there")
    if routes[target].complexity is not None:
        raise FieldError(path, f"names {targets[0]!r}, which has classes of its own; name a route without")
    cache = routes[name].cache
    if routes[target].fan_out is not None and (cache.exact or cache.waits):
        raise FieldError(path, f"names {targets[0]!r}, which has a fan_out, but {name} has a cache: leave one out")


def _check_deployments(
    path: Path, route: RouteSettings, targets: tuple[str, ...], routes: Routes, deployments: Deployments
) -> None:
    for target in targets:
        if not class_names((target,), routes, deployments):
            hint = f"; write {ROUTE_PREFIX}{target} for the route" if target in routes else ""
            what = "which no deployment has" if target.startswith(TAG_PREFIX) else "which is no deployment"
            raise FieldError(path, f"names {target!r}, {what}{hint}")
    names = class_names(targets, routes, deployments)
    if not sum(deployments[one].weight for one in names):
        raise FieldError(path, "the weights of its deployments sum to zero; give one of them more")
    stronger = set() if route.cascade is None else set(class_names(route.cascade.to, routes, deployments))
    again = sorted(stronger & set(names))
    if again:
        raise FieldError(path, f"comes to {again[0]}, which the cascade asks too; give the class a route of its own")
    mute = [one for one in names if deployments[one].reconcile_url is None]
    if route.unknown_policy == "reconcile" and mute:
        raise FieldError(path, f"needs deployments.{mute[0]}.reconcile_url")


def _check_windows(path: Path, route: RouteSettings, names: tuple[str, ...], deployments: Deployments) -> None:
    """Prompts are cut to what the route's own deployments take: all of the class have to take that, too.

    What is left for them depends on the answer's length: the one that a request asks for, or a deployment's own.
    """
    ours = [deployments[one] for one in route.names(deployments)]
    window = min(one.context_tokens for one in ours)
    short = [one for one in names if deployments[one].context_tokens < window]
    if short:
        tokens = deployments[short[0]].context_tokens
        raise FieldError(
            path, f"comes to {short[0]}, which takes {tokens} tokens, but prompts of the route may have {window}"
        )
    room = window - max(one.default_max_tokens for one in ours)
    rooms = {one: deployments[one].context_tokens - deployments[one].default_max_tokens for one in names}
    tight = [one for one in names if rooms[one] < room]
    if tight:
        raise FieldError(
            path,
            f"comes to {tight[0]}, whose default_max_tokens leave {max(0, rooms[tight[0]])} of its tokens to a prompt, "
            f"but prompts of the route may have {room}",
        )
