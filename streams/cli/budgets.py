"""``headrace budgets``: what each budget's period may spend, has spent, and has promised to open calls."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from streams.budget_settings import budgets_of
from streams.budgets import Shown, standings
from streams.cli.costs_amounts import plain_amount
from streams.cli.lines import clean
from streams.cli.output import print_json, say
from streams.opened import iso
from streams.settings import load_settings

WIDE = 1000


def budgets(
    folder: Annotated[Path | None, typer.Option(help="The embedded stack's folder.")] = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object; amounts are decimals in strings.")
    ] = False,
) -> None:
    """Show each budget's limit, what was spent and reserved, and what is left of its day or month (UTC).

    A budget for each tenant, team, user or feature has a line for each that spent something. See docs/admission.md.
    """
    settings = load_settings(folder=folder)
    known = budgets_of(settings.budgets)
    shown = standings(settings.postgres.dsn.get_secret_value(), known)
    if json:
        print_json({"budgets": [view(one) for one in shown]})
    elif shown:
        Console(highlight=False, width=None if sys.stdout.isatty() else WIDE).print(table(shown))
    if not known:
        say("the settings have no budget; see docs/admission.md")


def view(one: Shown) -> dict[str, Any]:
    """One budget and scope as JSON."""
    budget = one.budget
    return {
        "budget": budget.name,
        "scope": one.scope,
        "period": budget.period,
        "period_start": iso(one.period_start),
        "period_end": iso(one.period_end),
        "hard_usd": _amount(budget.hard_usd),
        "soft_usd": _amount(budget.soft_usd),
        "limit_usd": _amount(one.limit),
        "spent_usd": _amount(one.spent),
        "reserved_usd": _amount(one.reserved),
        "left_usd": _amount(one.left),
        "state": one.state,
    }


def table(shown: Sequence[Shown]) -> Table:
    """The budgets for a person."""
    found = Table(box=None, pad_edge=False)
    for name in ("budget", "scope", "period", "until"):
        found.add_column(name, overflow="fold")
    for name in ("limit", "spent", "reserved", "left", "state"):
        found.add_column(name, justify="right", no_wrap=True)
    for one in shown:
        amounts = (_amount(amount) or "–" for amount in (one.limit, one.spent, one.reserved, one.left))
        soft = "" if one.budget.hard_usd is not None else " (soft)"
        found.add_row(
            Text(clean(one.budget.name)),
            Text(clean(one.scope) or "–"),
            one.budget.period + soft,
            iso(one.period_end),
            *amounts,
            one.state,
        )
    return found


def _amount(value: Decimal | None) -> str | None:
    return None if value is None else plain_amount(value)
