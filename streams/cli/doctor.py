"""``headrace doctor``: is everything there that a worker needs, and what to do where it is not."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from schemas.errors import ConfigurationError
from streams.cli.output import page, print_json
from streams.doctor.checkup import Finding, examine
from streams.doctor.plan import checks
from streams.doctor.redact import redactor
from streams.settings import load_settings

_MARKS = {"ok": "[green]ok     [/]", "failed": "[red]FAILED [/]", "skipped": "[yellow]skipped[/]"}


def doctor(
    folder: Annotated[Path | None, typer.Option(help="The embedded stack's folder.")] = None,
    lane: Annotated[str, typer.Option(help="Lane whose topics to check.")] = "live",
    call: Annotated[
        bool, typer.Option("--call", help="Ask remote models for one token too, which may cost money.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Check settings, connections and contents, and say what to do. Changes nothing.

    Exit 1 if a check fails, 2 if the settings can't be read. One word is embedded, whichever endpoint is set, and
    a model on this machine is asked for one token; nothing of it is booked.
    """
    try:
        settings = load_settings(folder=folder)
    except ConfigurationError as error:
        _show([_unreadable(error)], json=json)
        raise typer.Exit(2) from None
    seen = f"stack {settings.stack}, {len(settings.routes)} route(s), {len(settings.deployments)} deployment(s)"
    findings = [Finding("settings", "ok", seen)]
    findings += asyncio.run(examine(checks(settings, lane=lane, call=call), redact=redactor(settings)))
    _show(findings, json=json)
    if any(finding.status == "failed" for finding in findings):
        raise typer.Exit(1)


def _unreadable(error: ConfigurationError) -> Finding:
    text = str(error).removeprefix("settings: ")
    fix = (
        "headrace up"
        if "headrace up" in text
        else "correct the named field in headrace.toml or its HEADRACE_* variable"
    )
    return Finding("settings", "failed", text, fix)


def _show(findings: Sequence[Finding], *, json: bool) -> None:
    if json:
        print_json(as_json(findings))
        return
    out = page()
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        out.print(f"{_MARKS[finding.status]}  {finding.name:{width}}  ", end="", highlight=False)
        out.print(finding.detail, markup=False, highlight=False, soft_wrap=True)
        if finding.fix:
            out.print(f"{'':{width + 11}}→ {finding.fix}", markup=False, highlight=False, soft_wrap=True)


def as_json(findings: Sequence[Finding]) -> dict[str, object]:
    """The findings as one object. A check that was skipped has neither succeeded nor failed: its ``ok`` is null."""
    return {
        "ok": not any(finding.status == "failed" for finding in findings),
        "checks": [
            {
                "name": finding.name,
                "ok": None if finding.status == "skipped" else finding.status == "ok",
                "detail": finding.detail,
                "fix": finding.fix,
            }
            for finding in findings
        ],
    }
