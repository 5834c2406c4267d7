"""One run: load under a seeded schedule of kills, then healing, draining, a probe, and the evidence."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import psycopg

from schemas.records import Answer
from tests.faults.evidence import GROUPS, KINDS, Evidence, collect, read_topics, uncommitted
from tests.faults.pipeline import Pipeline, Scene
from tests.faults.traffic import Planned, Publisher, Watcher, kill_schedule, plan, thresholds
from tests.faults.verifier import Verdict, verify

# One block of the schedule: the stage that pays is killed most.
KILLED = ("admit", "enrich", "complete", "complete", "complete", "enrich", "filter", "index", "account")
READING = {**GROUPS, "account": "costs"}
STALL_S = 60.0
# With offsets committed over events in flight nothing brings these back: that the run is quiet is all there is to see.
QUIET_S = 20.0
DRAIN_S = 90.0
PROBES = 5
PROBE_S = 90.0
CHANGE_EVERY_S = 1.0
SHOWN = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How a run goes."""

    requests: int = 2000
    kills: int = 9
    seed: int = 1
    rate: float = 150.0
    # Requests in the pipeline at a time, so that every stage has work until the end; None: 15 % of all.
    window: int | None = None
    stages: tuple[str, ...] = KILLED
    prompts: int = 2
    stock_commit: bool = False
    stall_s: float = STALL_S


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A run and its account."""

    verdict: Verdict
    evidence: Evidence
    wall_s: float
    load_s: float
    redelivered: int
    drift_counted: int
    exit_codes: dict[str, int] = field(default_factory=dict)


class StalledError(Exception):
    """No request was answered for too long; the message says where each one is stuck."""


def run(scene: Scene, options: Options, say: Callable[[str], None] = lambda _: None) -> Outcome:
    """The whole run. Raises ``StalledError`` and ``WorkerFailedError``; what was broken otherwise is in the verdict."""
    began = time.monotonic()
    publisher, watcher = Publisher(scene), Watcher(scene)
    try:
        publisher.push_prompt()
        with Pipeline(scene, stock_commit=options.stock_commit) as pipeline:
            _index_corpus(scene, publisher)
            say(f"workers are up after {time.monotonic() - began:.1f} s; {options.requests} requests follow")
            loaded = time.monotonic()
            run_ = _Run(scene, options, pipeline, publisher, watcher, say)
            run_.load()
            run_.drain()
            load_s = time.monotonic() - loaded
            if not options.stock_commit:
                run_.probe()
                run_.settle()
            counters = pipeline.counters()
            codes = {} if options.stock_commit else pipeline.stop()
            evidence = collect(
                scene,
                run_.planned,
                publisher.accepted,
                documents=None if options.stock_commit else publisher.documents,
                kills=tuple(pipeline.kills),
                died=tuple(pipeline.died),
                counters=counters,
                uncommitted={} if options.stock_commit else uncommitted(scene, READING),
                accounted=not options.stock_commit,
            )
    finally:
        watcher.close()
    verdict = verify(evidence)
    faults = [*run_.faults, *(f"the worker of {name} stopped with {code}" for name, code in codes.items() if code)]
    return Outcome(
        verdict=replace(verdict, violations=(*verdict.violations, *faults)),
        evidence=evidence,
        wall_s=time.monotonic() - began,
        load_s=load_s,
        redelivered=int(counters.get("headrace_redeliveries_total", 0)),
        drift_counted=int(counters.get("headrace_input_drift_total", 0)),
        exit_codes=codes,
    )


class _Run:
    """The phases of a run, in the order of their methods."""

    def __init__(
        self,
        scene: Scene,
        options: Options,
        pipeline: Pipeline,
        publisher: Publisher,
        watcher: Watcher,
        say: Callable[[str], None],
    ) -> None:
        self._scene, self._options, self._pipeline = scene, options, pipeline
        self._publisher, self._watcher, self._say = publisher, watcher, say
        self.planned = plan(scene.lane, options.requests, options.seed)
        self.faults: list[str] = []
        self._kills = list(kill_schedule(options.seed, options.kills, options.requests, options.stages))
        pushes = random.Random(f"prompts/{options.seed}")
        self._pushes = thresholds(pushes, options.prompts, options.requests)
        self._changed_at = time.monotonic()

    def load(self) -> None:
        """Publish everything at the offered rate, and do what the schedule says meanwhile."""
        pause = 1 / self._options.rate
        window = self._options.window or max(60, min(300, round(0.15 * len(self.planned))))
        # What the workers took to start is no stall.
        self._watcher.moved_at = due = time.monotonic()
        for number, planned in enumerate(self.planned):
            while time.monotonic() < due or number - len(self._watcher.answered) >= window:
                self._tend()
                time.sleep(pause / 2)
            # Where the pipeline held it up the load goes on at its rate; what was missed is not made up for in a rush.
            due = max(due, time.monotonic() - 10 * pause) + pause
            self._publisher.request(planned)
        self._publisher.flush()

    def drain(self) -> None:
        """Wait until every request is answered; with Faust's own commit also until nothing moves any more."""
        wanted = {planned.request_id for planned in self.planned}
        while wanted - self._watcher.answered:
            if self._options.stock_commit and self._watcher.quiet_s() > QUIET_S:
                return
            self._tend()
            time.sleep(0.05)

    def probe(self) -> None:
        """After healing everything works: new requests are answered, with the last prompt and the last document."""
        self._pipeline.wait_ready()
        version = self._publisher.push_prompt()
        self._publisher.change_document()
        self._publisher.flush()
        text = self._publisher.documents["release-notes"]
        self._await(lambda: _is_indexed(self._scene, len(text)), "the last document is not indexed")
        probes = [
            Planned(request_id=f"{self._scene.lane}-probe-{version}-{number}", question="What changed for the lamp?")
            for number in range(PROBES)
        ]
        self.planned += probes
        for planned in probes:
            self._publisher.request(planned)
        self._publisher.flush()
        wanted = {planned.request_id for planned in probes}
        self._await(lambda: not wanted - self._watcher.answered, "requests after healing are not answered")
        reference = f"{self._scene.prompt}@{version}"
        for seen in read_topics(self._scene, ("answers",))["answers"]:
            if seen.key in wanted:
                answer = self._scene.codec.decode(seen.value, Answer)
                if not answer.passages or answer.prompt_version != reference:
                    self.faults.append(f"{seen.key}: after healing not grounded, or not in prompt {reference}")

    def settle(self) -> None:
        """Wait until every group has committed all it was given."""
        deadline = time.monotonic() + DRAIN_S
        while uncommitted(self._scene, READING) and time.monotonic() < deadline:
            time.sleep(0.2)

    def _follow_schedule(self) -> None:
        answered = len(self._watcher.answered)
        if self._kills and answered >= self._kills[0][0]:
            _, stage = self._kills.pop(0)
            self._kill(stage)
        if self._pushes and answered >= self._pushes[0]:
            self._pushes.pop(0)
            self._publisher.push_prompt()

    def _kill(self, stage: str) -> None:
        worker = self._pipeline.worker(stage)
        # A worker that is still starting has nothing to lose: its kill would prove nothing.
        deadline = time.monotonic() + self._options.stall_s
        while worker.code is None and not worker.is_ready() and time.monotonic() < deadline:
            time.sleep(0.05)
        self._pipeline.kill(stage, published=self._publisher.published)
        if stage == "enrich":
            # What it had sent and not committed comes again, and must not be paid for under the new prompt.
            self._publisher.push_prompt()
        worker.start()
        self._say(
            f"killed {stage}: {self._publisher.published} requests published, {len(self._watcher.answered)} answered"
        )

    def _tend(self) -> None:
        """What goes on all the time: documents change, workers that ended are noted and started again."""
        self._pipeline.revive()
        self._follow_schedule()
        if time.monotonic() - self._changed_at > CHANGE_EVERY_S and self._watcher.quiet_s() < CHANGE_EVERY_S:
            self._changed_at = time.monotonic()
            self._publisher.change_document()
        if self._watcher.quiet_s() > self._options.stall_s and self._publisher.published:
            raise StalledError(explain(self._scene, self.planned, self._watcher.answered, self._pipeline))

    def _await(self, holds: Callable[[], bool], otherwise: str) -> None:
        deadline = time.monotonic() + PROBE_S
        while not holds():
            if time.monotonic() > deadline:
                self.faults.append(f"{otherwise} within {PROBE_S:g} s after healing")
                return
            time.sleep(0.1)


def explain(scene: Scene, planned: list[Planned], answered: set[str], pipeline: Pipeline) -> str:
    """Where the requests without an answer are: the last topic each appears on, and what the journal says of it."""
    missing = [one.request_id for one in planned if one.request_id not in answered]
    last: dict[str, str] = {}
    for kind in (kind for kind in KINDS if kind != "costs"):
        for seen in read_topics(scene, (kind,))[kind]:
            last[seen.key] = kind
    with psycopg.connect(scene.dsn) as connection:
        rows = connection.execute(
            "SELECT request_id, concat_ws(' ', state, 'in epoch', lease_epoch, 'leased until', lease_until)"
            " FROM calls WHERE lane = %s",
            (scene.lane,),
        ).fetchall()
    journal = {str(row[0]): str(row[1]) for row in rows}
    missing = [request_id for request_id in missing if request_id in last]
    lines = [f"{len(missing)} published requests have no answer; not committed: {uncommitted(scene, READING)}"]
    lines += [
        f"  {request_id}: last on {last.get(request_id, 'no topic')}; journal: {journal.get(request_id, 'nothing')}"
        for request_id in missing[:SHOWN]
    ]
    for worker in pipeline.workers.values():
        lines.append(
            f"--- {'+'.join(worker.stages)}: life {worker.lives}, {'ready' if worker.is_ready() else 'not ready'}"
        )
        lines.append(worker.tail()[-1500:])
    return "\n".join(lines)


def _index_corpus(scene: Scene, publisher: Publisher) -> None:
    publisher.corpus()
    deadline = time.monotonic() + PROBE_S
    while time.monotonic() < deadline:
        with psycopg.connect(scene.dsn) as connection:
            row = connection.execute(
                "SELECT count(DISTINCT document_id) FROM passages WHERE tenant = %s", (scene.tenant,)
            ).fetchone()
        if row is not None and row[0] >= len(publisher.documents):
            return
        time.sleep(0.1)
    raise StalledError(f"the corpus is not indexed after {PROBE_S:g} s; see the log of the index worker")


def _is_indexed(scene: Scene, characters: int) -> bool:
    with psycopg.connect(scene.dsn) as connection:
        row = connection.execute(
            "SELECT max(end_char) FROM passages WHERE tenant = %s AND document_id = 'release-notes'", (scene.tenant,)
        ).fetchone()
    return row is not None and row[0] == characters
