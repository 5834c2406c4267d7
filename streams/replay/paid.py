"""What a run pays for."""

from __future__ import annotations

from streams.replay.embeddings import buying
from streams.replay.run import Run
from streams.settings import Settings


def with_books(stages: tuple[str, ...], settings: Settings) -> tuple[str, ...]:
    """The stages, and ``account`` behind them where embeddings are paid: what a run pays for itself is booked."""
    return stages if "account" in stages or not buying(settings, stages) else (*stages, "account")


def pays(stages: tuple[str, ...], settings: Settings) -> bool:
    """Whether the stages pay for anything."""
    return "complete" in stages or bool(buying(settings, stages))


def asks_later(run: Run) -> bool:
    """Whether the run makes calls that ask what a stage before them makes: a dry run knows them by what is recorded."""
    return "complete" in run.stages[1:]
