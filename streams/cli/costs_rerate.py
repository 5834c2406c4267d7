"""``headrace costs rerate``: book changed prices as corrections."""

from __future__ import annotations

import asyncio
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import TypeAdapter, ValidationError
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from processors.postgres import Database
from processors.prices import Price, PriceTable
from schemas.errors import ConfigurationError, DependencyDownError
from schemas.records import Cost
from streams import security
from streams.cli.costs_amounts import plain_amount
from streams.cli.output import console, print_json, say
from streams.moments import moment
from streams.opened import iso
from streams.publish import Publisher
from streams.rerating import Advance, Publish, Rerate, Rerated, Scope, Tally
from streams.route_settings import PriceSettings
from streams.settings import Settings, load_settings

# A page of a large ledger is read in well under this time.
STATEMENT_TIMEOUT_S = 300.0
_PRICES = TypeAdapter(dict[str, PriceSettings])


def rerate(
    since: Annotated[str, typer.Option(help="Attempts that ended from this time on (2026-05-01, UTC; or 7d ago).")],
    prices: Annotated[Path, typer.Option(help='TOML file with [prices."provider/model"] tables, as in the settings.')],
    until: Annotated[str | None, typer.Option(help="Before this time, or so long ago.")] = None,
    tenant: Annotated[str | None, typer.Option(help="Only this tenant.")] = None,
    lane: Annotated[str, typer.Option(help="Lane of the attempts.")] = "live",
    wait_s: Annotated[float, typer.Option(min=0, help="Seconds to wait until the ledger has the corrections.")] = 60.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Work it out; write and publish nothing.")] = False,
    folder: Annotated[Path | None, typer.Option(help="The embedded stack's folder.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object; amounts are strings.")] = False,
) -> None:
    """Book other prices for what was spent: a correction event for every attempt whose amount changes.

    Nothing is overwritten: old amounts and corrections make the new ones, and that is checked. Running it again
    publishes nothing. Models that the file does not name keep their amounts. Exit 1 while the ledger lacks one.
    """
    now = datetime.now(UTC)
    scope = Scope(
        lane=lane,
        since=moment(since, now=now),
        until=None if until is None else moment(until, now=now),
        tenant=tenant,
    )
    if scope.until is not None and scope.since >= scope.until:
        raise ConfigurationError(f"--since {since} is not before --until {until}: nothing can be between")
    table = read_prices(prices)
    shown = not json and console.is_terminal
    found = asyncio.run(_run(load_settings(folder=folder), table, scope, dry_run=dry_run, wait_s=wait_s, shown=shown))
    if json:
        print_json(view(found, scope, dry_run=dry_run))
    else:
        for line in lines(found, dry_run=dry_run):
            typer.echo(line)
    for note in notes(found, dry_run=dry_run):
        say(note)
    if not found.adds_up or not (dry_run or found.booked):
        raise typer.Exit(1)


def read_prices(path: Path) -> PriceTable:
    """The table ``prices`` of a TOML file. Raises ``ConfigurationError`` that names the file and the field."""
    try:
        given = tomllib.loads(path.read_text(encoding="utf-8")).get("prices")
    except OSError as error:
        raise ConfigurationError(f"{path} can't be read: {error.strerror}; correct --prices") from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"{path} is no text in UTF-8; correct --prices") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{path}: {error}") from None
    if not given:
        raise ConfigurationError(f'{path}: no prices; write [prices."provider/model"] with prompt and completion')
    try:
        known = _PRICES.validate_python(given)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in ("prices", *first["loc"]))
        raise ConfigurationError(f"{path}: {field}: {first['msg']}") from None
    return PriceTable({name: Price(**price.model_dump()) for name, price in known.items()})


def view(found: Rerated, scope: Scope, *, dry_run: bool) -> dict[str, Any]:
    """What was done as one JSON object."""
    return {
        "lane": scope.lane,
        "since": iso(scope.since),
        "until": None if scope.until is None else iso(scope.until),
        "tenant": scope.tenant,
        "dry_run": dry_run,
        "models": [{"model": name, **_plain(tally)} for name, tally in sorted(found.by_model.items())],
        "total": _plain(found.total),
        "unpriced_rows": found.unpriced,
        "published_again": found.again,
        "not_booked": found.open,
        "adds_up": found.adds_up,
        "booked": None if dry_run else found.booked,
    }


def lines(found: Rerated, *, dry_run: bool) -> Iterator[str]:
    """The sums for a person."""
    would = "would be corrected" if dry_run else "corrected"
    for name, tally in [*sorted(found.by_model.items()), ("total", found.total)]:
        old, change, new = (_micro(one) for one in (tally.old_usd, tally.corrections_usd, tally.new_usd))
        sums = f"old {old} + corrections {change} = new {new}"
        yield f"{name}: {tally.changed:,} of {tally.rows:,} attempts {would}; {sums}"


def notes(found: Rerated, *, dry_run: bool) -> Iterator[str]:
    """What the sums do not say."""
    if found.unpriced:
        yield f"{found.unpriced:,} attempts are of models that the file does not name: they keep their amounts"
    if found.again:
        yield f"{found.again:,} corrections of an earlier run had not been booked; they were published again"
    if not found.adds_up:
        yield "old and corrections do not make new: this is a fault of Headrace's; nothing more should be booked"
    if dry_run:
        return
    if found.open:
        yield (
            f"{found.open:,} corrections are published and not booked yet; is a worker running the stage `account`? "
            "Run the same command again to see to it"
        )
    elif not found.booked:
        expected, there = _micro(found.expected_usd), _micro(found.ledger_usd)
        yield f"the ledger shows {there} for what was corrected to {expected}: outcomes came in late; run it again"
    elif found.total.changed:
        yield f"the ledger has every correction: {_micro(found.ledger_usd)} for the attempts that changed"


async def _run(
    settings: Settings, table: PriceTable, scope: Scope, *, dry_run: bool, wait_s: float, shown: bool
) -> Rerated:
    codec = await security.codec(settings.registry)
    publisher = Publisher(settings, codec, lane=scope.lane)
    dsn = settings.postgres.dsn.get_secret_value()
    database = await Database.open(
        dsn, max_size=1, application_name="headrace-rerate", statement_timeout_s=STATEMENT_TIMEOUT_S
    )
    try:
        with _progress(shown) as advance:
            run = Rerate(database, codec, _publish(publisher), table=table, scope=scope)
            return await run.run(dry_run=dry_run, wait_s=wait_s, advance=advance)
    finally:
        await database.close()


def _publish(publisher: Publisher) -> Publish:
    def publish(events: Sequence[Cost]) -> None:
        for event in events:
            publisher.send(event)
        failures = publisher.flush()
        if failures:
            raise DependencyDownError("kafka", f"{len(failures)} corrections: {failures[0].reason}")

    return publish


@contextmanager
def _progress(shown: bool) -> Iterator[Advance]:
    if not shown:
        yield lambda _: None
        return
    columns = (SpinnerColumn(), TextColumn("{task.completed:,.0f} attempts"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("rerating", total=None)
        yield lambda rows: bar.update(task, advance=rows)


def _plain(tally: Tally) -> dict[str, Any]:
    amounts = {name: plain_amount(getattr(tally, name)) for name in ("old_usd", "corrections_usd", "new_usd")}
    return {"rows": tally.rows, "changed": tally.changed, **amounts}


def _micro(amount: Decimal) -> str:
    return plain_amount(amount.quantize(Decimal("0.000001")))
