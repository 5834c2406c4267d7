"""What a stage is: its input, its outputs, how many events at a time, how long an attempt may take, what it costs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from operator import methodcaller
from typing import TYPE_CHECKING

from processors.event import Processor
from schemas.record import Record
from schemas.records import (
    Admitted,
    Alert,
    Answer,
    Chunk,
    Completion,
    Cost,
    Delta,
    Document,
    Enrichment,
    Evaluation,
    Feedback,
    Request,
)
from streams.settings import Settings

if TYPE_CHECKING:
    from streams.ports import Ports


class Effect(Enum):
    """What running a stage again would do to the world outside."""

    PURE = "pure"
    READS = "reads"
    PAYS = "pays"


@dataclass(frozen=True, slots=True)
class Input:
    """A topic that a stage reads. ``share``: its slots' weight where a stage reads several."""

    kind: str
    record: type[Record]
    share: int = 1
    # A null value removes what the key names; elsewhere it is poison.
    tombstones: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A stage's declaration. Workers and replays read the same one.

    ``concurrency`` None: as many as the deployments of all routes take. ``timeout_s`` bounds one attempt;
    ``dependencies`` are what an attempt needs: while one is away the event waits. ``sometimes`` is what only some
    attempts need: those that fail for it wait.
    """

    name: str
    inputs: tuple[Input, ...]
    outputs: tuple[type[Record], ...]
    concurrency: int | None
    timeout_s: float
    effect: Effect
    dependencies: tuple[str, ...]
    build: Callable[[Ports], Processor]
    sometimes: tuple[str, ...] = ()
    # Events of a paused tenant or route are set aside here. Only after admission: they have to know when they expire.
    defers: bool = False
    # Sets events aside that its processor can't take yet, though not those of a paused tenant or route.
    puts_off: bool = False
    # Holds state from event to event: one event at a time whatever the settings say, and acknowledged by its state.
    stateful: bool = False
    # Events that are read ahead; None: twice the concurrency.
    buffer: int | None = None
    # Nobody waits for what it makes: events gather for so long and are fetched, booked and committed together.
    gather_s: float = 0.0
    # Several inputs compete for the stage's slots; else each has as many of its own, and none waits for another.
    shared_slots: bool = True

    def limit_s(self, settings: Settings) -> float:
        """How long one attempt may take under these settings."""
        tuned = settings.stages.get(self.name)
        return (tuned and tuned.timeout_s) or self.timeout_s

    def group_of(self, source: Input) -> str:
        """The consumer group of an input, without prefix and lane.

        A stage with several inputs has a group for each: a full queue of one must not stop the others.
        """
        return self.name + (f".{source.kind.rpartition('.')[2]}" if len(self.inputs) > 1 else "")

    @property
    def probed(self) -> frozenset[str]:
        """What a worker of this stage needs to be ready: every worker reads Postgres, the broker and the registry."""
        return frozenset({*self.dependencies, *self.sometimes, "postgres", "kafka", "registry"})

    def shares(self) -> dict[str, int]:
        """Each input's share of the slots."""
        return {source.kind: source.share for source in self.inputs}


# Events in process together share their round trips to Postgres and the broker: what each of them waits for grows with
# the load, and a stage with too few at a time falls behind while the machine is idle.
SHARING = 64

_DECLARED = (
    Stage(
        name="admit",
        inputs=(Input("requests", Request),),
        outputs=(Admitted, Answer),
        concurrency=SHARING,
        timeout_s=30.0,
        effect=Effect.READS,
        dependencies=("postgres",),
        build=methodcaller("admit"),
        puts_off=True,
    ),
    Stage(
        name="enrich",
        inputs=(Input("admitted", Admitted),),
        # Costs of embeddings are published from their book.
        outputs=(Enrichment, Answer, Cost),
        concurrency=SHARING,
        timeout_s=60.0,
        effect=Effect.READS,
        dependencies=("postgres", "embeddings"),
        build=methodcaller("enrich"),
        defers=True,
    ),
    Stage(
        name="complete",
        inputs=(
            Input("enrichments.high", Enrichment, share=8),
            Input("enrichments.normal", Enrichment, share=3),
            Input("enrichments.low", Enrichment, share=1),
        ),
        outputs=(Delta, Cost, Completion, Answer, Alert),
        concurrency=None,
        timeout_s=120.0,
        effect=Effect.PAYS,
        dependencies=("postgres",),
        build=methodcaller("complete"),
        defers=True,
    ),
    Stage(
        name="filter",
        inputs=(Input("completions", Completion),),
        outputs=(Answer, Chunk),
        concurrency=SHARING,
        timeout_s=30.0,
        effect=Effect.READS,
        dependencies=("postgres",),
        build=methodcaller("filter"),
    ),
    Stage(
        name="evaluate",
        inputs=(Input("answers", Answer), Input("feedback", Feedback)),
        outputs=(Cost, Evaluation),
        concurrency=32,
        timeout_s=120.0,
        effect=Effect.READS,
        # Only sampled answers need the embedding endpoint: those alone wait while it is away.
        dependencies=("postgres",),
        sometimes=("embeddings",),
        build=methodcaller("evaluate"),
        gather_s=0.1,
        shared_slots=False,
    ),
    Stage(
        name="account",
        inputs=(Input("costs", Cost),),
        outputs=(),
        concurrency=SHARING,
        timeout_s=30.0,
        effect=Effect.READS,
        dependencies=("postgres",),
        build=methodcaller("account"),
        gather_s=0.1,
    ),
    Stage(
        name="release",
        inputs=(Input("deltas", Delta),),
        outputs=(Chunk,),
        concurrency=1,
        timeout_s=30.0,
        effect=Effect.READS,
        # The journal is asked for few deltas; the others go on without it.
        dependencies=(),
        build=methodcaller("release"),
        stateful=True,
        buffer=1_024,
    ),
    Stage(
        name="index",
        inputs=(Input("documents", Document, tombstones=True),),
        outputs=(Cost,),
        concurrency=2,
        timeout_s=120.0,
        effect=Effect.READS,
        dependencies=("postgres", "embeddings"),
        build=methodcaller("index"),
    ),
)

STAGES = {stage.name: stage for stage in _DECLARED}
