"""``headrace schemas``: register the contracts, and check them against every released version."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import asdict
from typing import Annotated, Any

import orjson
import typer

from schemas.compat import check_today
from schemas.files import event_schemas, released_versions

app = typer.Typer(help="The contracts: register them, and check that old and new can read each other.")

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]


@app.command()
def register(*, as_json: AsJson = False) -> None:
    """Register every schema in the registry, FULL_TRANSITIVE; the same schemas again change nothing."""
    from streams import security  # noqa: PLC0415
    from streams.settings import load_settings  # noqa: PLC0415 - `check` works without settings

    settings = load_settings()
    registry = security.registry(settings.registry)
    done = asyncio.run(registry.register(event_schemas()))
    created = sum(one.created for one in done)
    if as_json:
        _print({"registered": [asdict(one) for one in done], "created": created, "unchanged": len(done) - created})
        return
    for one in done:
        sys.stdout.write(
            f"{one.subject:22} id {one.schema_id:<5} version {one.version:<3} {'new' if one.created else 'unchanged'}\n"
        )
    _say(f"{created} registered, {len(done) - created} there already")


@app.command()
def check(*, as_json: AsJson = False) -> None:
    """Check the schemas against every released version and the house rules, without a registry; exit 1 on findings."""
    findings, versions = check_today(), list(released_versions())
    if as_json:
        _print({"ok": not findings, "released": versions, "findings": [asdict(finding) for finding in findings]})
    else:
        for finding in findings:
            sys.stdout.write(f"{finding}\n")
        against = ", ".join(versions) or "no released version yet"
        _say(f"{len(event_schemas())} schemas against {against}: {len(findings) or 'no'} findings")
    if findings:
        raise typer.Exit(1)


def _print(found: dict[str, Any]) -> None:
    sys.stdout.write(orjson.dumps(found).decode() + "\n")


def _say(message: str) -> None:
    sys.stderr.write(message + "\n")
