"""``headrace costs reconcile``: whether ledger, cost events, journal and answers agree."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from processors.account.reconcile import KINDS, Finding, reconcile
from streams import security
from streams.cli.costs_amounts import plain_amount
from streams.cli.lines import clean
from streams.cli.output import console, print_json, say, tell
from streams.moments import moment
from streams.opened import iso
from streams.reconciling import Advance, Gathered, gather
from streams.settings import load_settings


def reconcile_books(
    since: Annotated[str, typer.Option(help="What ended from this time on (2026-05-01, UTC; or 7d ago).")] = "1d",
    lane: Annotated[str, typer.Option(help="Lane to reconcile.")] = "live",
    grace_s: Annotated[float, typer.Option(min=0, help="What is younger may be on its way: not judged.")] = 60.0,
    limit: Annotated[int, typer.Option(min=1, help="Show so many of each kind; --json shows all.")] = 20,
    folder: Annotated[Path | None, typer.Option(help="The embedded stack's folder.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object; amounts are strings.")] = False,
) -> None:
    """Compare ledger, cost events, journal and answers attempt by attempt, and list what does not agree.

    Exit 1 when anything does not. Reads only.
    """
    start = moment(since, now=datetime.now(UTC))
    settings = load_settings(folder=folder)
    codec = asyncio.run(security.codec(settings.registry))
    with _progress(shown=not json and console.is_terminal) as advance:
        found = gather(settings, codec, lane=lane, since=start, grace_s=grace_s, advance=advance)
    findings = reconcile(found.evidence)
    if json:
        print_json(view(found, findings, lane))
    else:
        for line in lines(findings, limit):
            tell(line)
    (say if json else tell)(summary(found, findings))
    if findings or found.unreadable:
        raise typer.Exit(1)


def view(found: Gathered, findings: Sequence[Finding], lane: str) -> dict[str, Any]:
    """The account as one JSON object."""
    evidence = found.evidence
    return {
        "lane": lane,
        "since": iso(evidence.since),
        "until": iso(evidence.until),
        "ledger_rows": len(evidence.rows),
        "cost_events": len(evidence.events),
        "journaled_attempts": len(evidence.attempts),
        "answers": len(evidence.answers),
        "ledger_usd": plain_amount(_ledger_usd(found)),
        "unreadable": found.unreadable,
        "agree": not findings and not found.unreadable,
        "findings": [asdict(one) for one in findings],
    }


def lines(findings: Sequence[Finding], limit: int) -> Iterator[str]:
    """What does not agree, by kind, for a person."""
    for kind, count in Counter(one.kind for one in findings).items():
        yield f"{kind} ({count:,}): {KINDS[kind]}"
        shown = [one for one in findings if one.kind == kind][:limit]
        for one in shown:
            yield clean(f"  {one.tenant} {one.request_id} {one.attempt_id} {one.detail}".rstrip())
        if count > len(shown):
            yield f"  and {count - len(shown):,} more"


def summary(found: Gathered, findings: Sequence[Finding]) -> str:
    """One line on what was compared."""
    evidence = found.evidence
    compared = (
        f"{len(evidence.rows):,} rows of the ledger ({plain_amount(_ledger_usd(found))} USD), "
        f"{len(evidence.events):,} cost events, {len(evidence.attempts):,} attempts in the journal and "
        f"{len(evidence.answers):,} answers"
    )
    unreadable = f"; {found.unreadable:,} records can not be read" if found.unreadable else ""
    verdict = f"{len(findings):,} things do not agree" if findings else "all agree"
    return f"{compared}, {iso(evidence.since)} to {iso(evidence.until)}: {verdict}{unreadable}"


def _ledger_usd(found: Gathered) -> Decimal:
    return sum((row.said.amount_usd for row in found.evidence.rows), Decimal(0))


@contextmanager
def _progress(*, shown: bool) -> Iterator[Advance]:
    if not shown:
        yield lambda _what, _count: None
        return
    columns = (SpinnerColumn(), TextColumn("{task.completed:,.0f} {task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("read", total=None)
        yield lambda what, count: bar.update(task, advance=count, description=what)
