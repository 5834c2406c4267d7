"""``headrace topics acls``: who may do what on the broker, printed or applied."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from schemas.errors import ConfigurationError
from streams.acls import (
    DEFAULT_PREFIX,
    Comparison,
    Grant,
    commands,
    compare_grants,
    create_grants,
    remove_grants,
    wanted_grants,
)
from streams.cli.output import print_json, say
from streams.settings import load_settings


def acls(
    lane: Annotated[str, typer.Option(help="Lane whose topics and groups are granted.")] = "live",
    principal_prefix: Annotated[
        str, typer.Option(help="Put before a stage's or role's name, where kafka.principals has no user for it.")
    ] = DEFAULT_PREFIX,
    form: Annotated[
        Literal["commands", "json"], typer.Option("--format", help="Calls of kafka-acls.sh, or one JSON object.")
    ] = "commands",
    apply: Annotated[bool, typer.Option("--apply", help="Create what the broker lacks.")] = False,
    prune: Annotated[
        bool, typer.Option("--prune", help="With --apply: remove what these principals have and do not need.")
    ] = False,
    idempotent_write: Annotated[
        bool, typer.Option("--idempotent-write", help="Grant IdempotentWrite, which brokers before 2.8 want.")
    ] = False,
    folder: Annotated[Path | None, typer.Option(help="The embedded stack's folder.")] = None,
    json: Annotated[bool, typer.Option("--json", help="As --format json.")] = False,
) -> None:
    """The least that each stage, producer, consumer and operator needs, read off the declarations.

    Prints it, without asking the broker. With --apply it is compared with the broker, which takes a super user: what
    is missing is created, what is there and not wanted is listed, and removed only with --prune.
    """
    if prune and not apply:
        raise ConfigurationError("--prune goes with --apply")
    if ":" not in principal_prefix:
        raise ConfigurationError(
            f"--principal-prefix {principal_prefix!r} names no kind; write User:{principal_prefix}"
        )
    settings = load_settings(folder=folder)
    wanted = wanted_grants(settings, lane, prefix=principal_prefix, idempotent_write=idempotent_write)
    as_json = json or form == "json"
    if not apply:
        _show_wanted(wanted, settings.kafka.bootstrap, as_json=as_json)
        return
    found = compare_grants(settings, lane, wanted)
    create_grants(settings, found.missing)
    if prune:
        remove_grants(settings, found.extra)
    if as_json:
        print_json(_compared(found, pruned=prune))
    else:
        _show_compared(found, len(wanted), pruned=prune)


def _show_wanted(wanted: tuple[Grant, ...], bootstrap: str, *, as_json: bool) -> None:
    if as_json:
        print_json({"acls": [_view(grant) for grant in wanted]})
        return
    for line in commands(wanted, bootstrap=bootstrap):
        typer.echo(line)


def _compared(found: Comparison, *, pruned: bool) -> dict[str, Any]:
    return {
        "created": [_view(grant) for grant in found.missing],
        "unwanted": [_view(grant) for grant in found.extra],
        "pruned": pruned,
        "foreign": [_view(grant) for grant in found.foreign],
    }


def _show_compared(found: Comparison, wanted: int, *, pruned: bool) -> None:
    for grant in found.missing:
        say(f"created  {_line(grant)}")
    for grant in found.extra:
        say(f"removed  {_line(grant)}" if pruned else f"unwanted {_line(grant)} (left; add --prune to remove it)")
    for grant in found.foreign:
        say(f"foreign  {_line(grant)} (left: not one of these principals', or a denial)")
    say(f"{wanted} ACLs wanted, {len(found.missing)} created, {len(found.extra) if pruned else 0} removed")


def _view(grant: Grant) -> dict[str, Any]:
    need = grant.need
    return {
        "principal": grant.principal,
        "host": grant.host,
        "permission": "DENY" if grant.deny else "ALLOW",
        "operation": need.operation,
        "resource": need.resource,
        "name": need.name,
        "pattern": "PREFIXED" if need.prefixed else "LITERAL",
    }


def _line(grant: Grant) -> str:
    need = grant.need
    verb = "may not" if grant.deny else "may"
    name = f"{need.name}*" if need.prefixed else need.name
    host = "" if grant.host == "*" else f" from {grant.host}"
    return f"{grant.principal} {verb} {need.operation} {need.resource} {name}{host}"
