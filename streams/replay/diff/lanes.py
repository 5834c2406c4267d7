"""Which topics hold what a run and its counterpart said, and which of their events count."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from schemas.errors import ConfigurationError
from schemas.record import Record
from schemas.records import Answer, Completion, Enrichment, Evaluation
from streams.replay.diff.said import Said, of_answer, of_completion, of_enrichment
from streams.replay.run import Run

Kind = Literal["answers", "completions", "enrichments", "evaluations", "books"]
# The stage whose output ends a run, in order of preference.
_MAIN: tuple[tuple[str, Kind], ...] = (
    ("filter", "answers"),
    ("complete", "completions"),
    ("enrich", "enrichments"),
    ("evaluate", "evaluations"),
    ("account", "books"),
)
_TOPICS: Mapping[Kind, tuple[str, ...]] = {
    "answers": ("answers",),
    # A stage before the filter ends a request by an answer of its own.
    "completions": ("completions", "answers"),
    "enrichments": ("enrichments.high", "enrichments.normal", "enrichments.low", "answers"),
    "evaluations": (),
    "books": (),
}
# Whose answers end a request before it gets that far.
_ENDED_BY: Mapping[Kind, frozenset[str]] = {
    "completions": frozenset({"complete"}),
    "enrichments": frozenset({"enrich"}),
}
_SAYS: Mapping[type[Record], Callable[[Any], Said]] = {
    Answer: of_answer,
    Completion: of_completion,
    Enrichment: of_enrichment,
}


@dataclass(frozen=True, slots=True)
class What:
    """What is compared: the kind of output that the stages ended with, and whether it was scored."""

    kind: Kind
    scored: bool

    def topics(self) -> tuple[str, ...]:
        """The kinds of topic that hold it."""
        return _TOPICS[self.kind]

    def says(self, record: Record) -> Said | None:
        """What an event of these topics says; ``None`` for one that does not count."""
        if isinstance(record, Answer) and self.kind in _ENDED_BY and record.meta.stage not in _ENDED_BY[self.kind]:
            return None
        return _SAYS[type(record)](record)


def what_of(run: Run) -> What:
    """What a run has to show. Raises ``ConfigurationError`` for one that shows nothing by itself."""
    if run.copies_books and run.target == "live":
        raise ConfigurationError(
            f"the run {run.name} put the books right and has none of its own; see headrace costs reconcile"
        )
    kind = next(kind for stage, kind in _MAIN if stage in run.stages)
    return What(kind, "evaluate" in run.stages or (kind == "answers" and run.target == "live"))


def both(run: Run, other: Run | None) -> What:
    """What is compared of a run and another one, or live. Raises ``ConfigurationError`` where they are no match."""
    ours = what_of(run)
    if other is None:
        return ours
    if other.run == run.run:
        raise ConfigurationError(f"--against {other.name} is the run itself")
    theirs = what_of(other)
    if theirs.kind != ours.kind:
        raise ConfigurationError(
            f"--against {other.name} ended with {theirs.kind}, {run.name} with {ours.kind}: nothing to compare"
        )
    return What(ours.kind, ours.scored and theirs.scored)


RECORDS: Mapping[str, type[Record]] = {
    "answers": Answer,
    "completions": Completion,
    "enrichments.high": Enrichment,
    "enrichments.normal": Enrichment,
    "enrichments.low": Enrichment,
    "evaluations": Evaluation,
}
