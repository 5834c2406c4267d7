"""Requests as they came to a real service: the Azure conversation trace, its minutes pressed into seconds.

``make bench ARGS="arrivals [--minutes 10] [--compress 12]"``. The provider takes as long as the trace's tokens would,
at so many tokens a second; prompts have the trace's length in words, up to a limit. Added time is what an answer took
beyond that. Lag and the age of the oldest request are what an autoscaler would look at.
"""

from __future__ import annotations

import argparse
import csv
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from tests.bench.flow import Ask, Measured, flowing
from tests.bench.machine import confine, described, fresh_stack, percentile, sampled, show, table, tell
from tests.faults.pipeline import Pipeline
from tests.support.stack import TestStack

TRACE = Path(__file__).parents[3] / "shared" / "data" / "llm_traces" / "AzureLLMInferenceTrace_conv.csv"
# A hosted model of medium size.
FIRST_TOKEN_MS, TOKEN_MS, PROMPT_TOKEN_MS = 100.0, 5.0, 0.1
MOST_WORDS = 1_500
FILLER = "words of a longer question that somebody asked a service on a usual day "


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request of the trace: when, in seconds from its beginning, and its tokens."""

    at_s: float
    prompt: int
    generated: int

    @property
    def latency_s(self) -> float:
        """What a model would take for it."""
        return (FIRST_TOKEN_MS + self.prompt * PROMPT_TOKEN_MS + self.generated * TOKEN_MS) / 1000

    @property
    def question(self) -> str:
        """A question of its length, which tells the provider how long to take."""
        words = FILLER * (min(self.prompt, MOST_WORDS) // len(FILLER.split()) + 1)
        return f"{words}[[fault:slow:{self.latency_s:.3f}]]"


def arrivals(path: Path, minutes: float) -> list[Arrival]:
    """The first minutes of a trace."""
    found: list[Arrival] = []
    with path.open(newline="") as file:
        rows = csv.DictReader(file)
        first: datetime | None = None
        for row in rows:
            # Seven digits of a second are one more than Python reads.
            at = datetime.fromisoformat(row["TIMESTAMP"][:26])
            first = first or at
            seconds = (at - first).total_seconds()
            if seconds > minutes * 60:
                break
            found.append(Arrival(seconds, int(row["ContextTokens"]), int(row["GeneratedTokens"])))
    return found


class Signals:
    """What an autoscaler would see, sampled once a second from the workers' own pages."""

    names: Mapping[str, str] = {
        "headrace_lag_events": "lag, events",
        "headrace_oldest_unacked_age_seconds": "age of the oldest un-acked event, s",
        "headrace_in_flight_events": "in process, events",
    }

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self.samples: list[dict[str, float]] = []

    def lines(self) -> list[tuple[str, float, float, float]]:
        """Median, p95 and most of each."""
        found = []
        for name, meaning in self.names.items():
            values = [sample[name] for sample in self.samples if name in sample]
            found.append(
                (meaning, percentile(values, 0.5), percentile(values, 0.95), max(values, default=float("nan")))
            )
        return found

    def take(self) -> None:
        """One sample."""
        self.samples.append(dict(self._pipeline.counters()))


def main() -> None:
    parser = argparse.ArgumentParser(prog="arrivals", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="of the trace")
    parser.add_argument("--compress", type=float, default=12.0, help="how many times faster than they came")
    parser.add_argument("--trace", type=Path, default=TRACE)
    options = parser.parse_args()
    wanted = arrivals(options.trace, options.minutes)
    confine()
    with fresh_stack() as (folder, stack):
        found, signals = run(stack, folder, wanted, options.compress)
        about = described(stack)
    added = [found.latencies_ms[f"trace-{n}"] - one.latency_s * 1000 for n, one in enumerate(wanted)
             if f"trace-{n}" in found.latencies_ms]  # fmt: skip
    seconds = wanted[-1].at_s / options.compress
    heads = ("requests", "requests/s", "model's time p50, ms", *(f"added p{n}, ms" for n in (50, 95, 99)), "lost")
    models = percentile((one.latency_s * 1000 for one in wanted), 0.5)
    line = (len(wanted), len(wanted) / seconds, models, *(percentile(added, n / 100) for n in (50, 95, 99)), found.lost)
    show(table(heads, [line]), table(("signal", "p50", "p95", "most"), signals.lines()), about)


def run(stack: TestStack, folder: Path, wanted: list[Arrival], compress: float) -> tuple[Measured, Signals]:
    """Send the trace through all stages."""
    lane = f"a{secrets.token_hex(3)}"
    with flowing(stack, folder / lane, lane, latency_ms=0.0, partitions=8) as running:
        running.flow.closed("warm", Ask(lambda _: "Are you there?"), in_flight=10, seconds=3)
        signals = Signals(running.pipeline)
        tell(f"{len(wanted):,} requests in {wanted[-1].at_s / compress:.0f} s")
        ask = Ask(lambda number: wanted[number].question)
        with sampled(signals.take):
            found = running.flow.paced("trace", ask, (one.at_s / compress for one in wanted))
    return found, signals


if __name__ == "__main__":
    main()
