"""``headrace top``: rates, lag, latency and spend by stage, live."""

from __future__ import annotations

import os
import select
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from streams.cli.components import say_age
from streams.cli.output import print_json, quiet_end
from streams.overview.snapshot import Lookout
from streams.overview.trend import Trend
from streams.settings import load_settings

# A rate needs two looks.
FIRST_PAUSE_S = 1.0
COLUMNS = (
    "stage", "workers", "in/s", "done/s", "waiting", "for", "in process", "oldest", "wait p50", "p95", "service p50",
    "p95", "letters", "cost",
)  # fmt: skip


def top(
    interval: Annotated[float, typer.Option(min=0.2, help="Seconds between two looks.")] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Print one look and end.")] = False,
    count: Annotated[int | None, typer.Option(min=1, help="End after so many looks.")] = None,
    lane: Annotated[str, typer.Option(help="Lane to look at.")] = "live",
    folder: Annotated[Path | None, typer.Option(help="The embedded stack's folder.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object a look.")] = False,
) -> None:
    """Show what every stage does: rates and lag by the broker, the rest as the workers report it to Postgres.

    q or Ctrl-C ends it. Latencies are of the last minute, and of all since the workers' start where that was idle.
    Costs are what running workers booked; `headrace costs` has the books. Needs no worker on this machine. With --once
    the exit code is 1 when something is down, as `status` has it.
    """
    settings = load_settings(folder=folder)
    looks = 1 if once else count
    with quiet_end(), Lookout(settings, lane) as lookout:
        trend = Trend()
        trend.add(lookout.look())
        if json or once or not sys.stdout.isatty():
            for view in _views(trend, lookout, lane, interval, looks, slept):
                if json:
                    print_json(view)
                else:
                    Console(highlight=False, width=None if sys.stdout.isatty() else 160).print(screen(view))
            if once and trend.latest.down():
                raise typer.Exit(1)
            return
        with _keys() as wait, Live(screen=True, auto_refresh=False) as live:
            for view in _views(trend, lookout, lane, interval, looks, wait):
                live.update(screen(view), refresh=True)


def _views(
    trend: Trend, lookout: Lookout, lane: str, interval: float, looks: int | None, wait: Callable[[float], bool]
) -> Iterator[dict[str, Any]]:
    """One view a look, until there were enough or ``wait`` says that the user has."""
    shown, pause = 0, min(interval, FIRST_PAUSE_S)
    while not wait(pause):
        trend.add(lookout.look())
        yield trend.view(lane)
        shown, pause = shown + 1, interval
        if shown == looks:
            return


def slept(seconds: float) -> bool:
    """Wait, with nobody to say that it is enough."""
    time.sleep(seconds)
    return False


@contextmanager
def _keys() -> Iterator[Callable[[float], bool]]:
    """Waits on the keyboard: whether q was pressed within so many seconds. The terminal is as before afterwards."""
    if not sys.stdin.isatty():
        yield slept
        return
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)

    def pressed(seconds: float) -> bool:
        ends = time.monotonic() + seconds
        while (left := ends - time.monotonic()) > 0:
            if select.select([descriptor], [], [], left)[0]:
                given = os.read(descriptor, 16)
                # Nothing at all: the terminal is gone.
                if not given or given[:1] in b"qQ\x03":
                    return True
        return False

    try:
        tty.setcbreak(descriptor)
        yield pressed
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def screen(view: dict[str, Any]) -> Group:
    """A view for a person."""
    table = Table(*COLUMNS, box=None, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    for stage in view["stages"]:
        table.add_row(*_row(stage))
    letters = view["dead_letters"]
    letters = "unknown" if letters["open_at_most"] is None else letters["open_at_most"]
    head = f"lane {view['lane']} · {view['at']} · the last {view['window_s']:g} s · {letters} dead letters"
    workers = [f"{one['slot']} {one['state']}" for one in view["workers"] if one["state"] != "ready"]
    told = [*view["faults"].values(), *(f"worker {one}" for one in workers)]
    return Group(Text(head, style="bold"), table, *(Text(f"down: {line}", style="red") for line in told))


def _row(stage: dict[str, Any]) -> list[str | Text]:
    wait, service = stage["wait_ms"], stage["service_ms"]
    name = f"{stage['stage']} (paused)" if stage["paused"] else stage["stage"]
    cost = stage.get("cost_usd")
    return [
        name,
        str(stage["workers"]),
        _number(stage["in_per_s"]),
        _number(stage["done_per_s"]),
        f"{stage['lag_events']:,}",
        say_age(stage["lag_age_s"]) or "-",
        str(stage["in_flight"]),
        say_age(stage["oldest_unacked_s"]) or "-",
        *_latency(wait),
        *_latency(service),
        str(stage["dead_letters"]),
        "-" if cost is None else f"${cost:.4f}",
    ]


def _latency(found: dict[str, Any]) -> list[Text]:
    style = "default" if found["recent"] else "dim"
    values = (found["p50"], found["p95"])
    return [Text("-" if value is None else _milliseconds(value), style=style) for value in values]


def _milliseconds(value: float) -> str:
    return f"{value / 1000:.1f} s" if value >= 1000 else f"{value:.1f} ms" if value < 10 else f"{value:.0f} ms"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.1f}"
