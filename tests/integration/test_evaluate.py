"""The evaluate stage on the real stack: answers and feedback in, scores out, with kills and outages in between."""

from __future__ import annotations

import asyncio
import json
import os
import re
import secrets
import signal
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from processors.finality import PostgresFinality
from processors.postgres import Database
from schemas.records import Answer, Cost, Evaluation, Feedback, Meta, Passage, Text
from streams.publish import Publisher
from streams.reading import Entry, TopicReader
from streams.topics import topic_name
from tests.faults.worker import WorkerProcess
from tests.support.commands import Commands
from tests.support.polling import eventually
from tests.support.proxy import TcpProxy
from tests.support.stack import TestStack

pytestmark = pytest.mark.stack

KINDS = ("requests", "answers", "feedback", "evaluations", "costs", "dead-letters", "control")
TENANT = "default"
DOC = Path(__file__).parents[2] / "docs" / "evaluation.md"
GROUNDED = "The with statement closes the file when the block ends."
PASSAGE = f"{GROUNDED} It calls the context manager's exit method, also when an exception is raised."
OTHER = "Penguins breed on the Antarctic ice during the winter months."


class Scene:
    """A lane with a worker of the evaluate stage; its embeddings can be cut off."""

    def __init__(self, stack: TestStack, folder: Path) -> None:
        address = urlsplit(stack.embeddings_url)
        self.proxy = TcpProxy(str(address.hostname), int(address.port or 0))
        self.commands = Commands(stack, f"t{secrets.token_hex(4)}", folder, KINDS)
        self.lane, self.settings = self.commands.lane, self.commands.settings
        env = {
            "HEADRACE_CONFIG": str(self.commands.config),
            "HEADRACE_EMBEDDINGS__BASE_URL": f"http://127.0.0.1:{self.proxy.port}{address.path}",
            "HEADRACE_EMBEDDINGS__MODEL": stack.embeddings_model,
            "HEADRACE_EMBEDDINGS__PRICE": "0.02",
            "HEADRACE_EVALUATE__RATE": "1",
            "HEADRACE_WORKER__SESSION_TIMEOUT_S": "6",
            "HEADRACE_WORKER__HEARTBEAT_S": "1",
            "HEADRACE_WORKER__COMMIT_INTERVAL_S": "0.2",
        }
        self.worker = WorkerProcess(("evaluate",), lane=self.lane, slot="w0", env=env, folder=folder, cpu=None)

    def close(self) -> None:
        if self.worker.lives and self.worker.code is None:
            self.worker.kill()
        self.proxy.close()

    def answer(self, text: str | None = GROUNDED, *, status: str = "answered") -> Answer:
        """An answer to a request of its own."""
        request_id = f"r-{secrets.token_hex(6)}"
        meta = Meta(
            event_id=f"e-{request_id}",
            request_id=request_id,
            tenant=TENANT,
            lane=self.lane,
            stage="filter",
            accepted_at=datetime.now(UTC),
        )
        passage = Passage(
            passage_id="p", document_id="d", namespace="n", number=1, digest="x", score=0.9, text=Text(inline=PASSAGE)
        )
        return Answer(
            meta=meta,
            status=status,
            question=Text(inline="What does the with statement do?"),
            text=None if text is None else Text(inline=text),
            passages=(passage,),
            finish_reason="stop",
            route="default",
            model="m",
            prompt_version="answer@1",
        )

    def finish(self, *answers: Answer) -> None:
        """Make answers final, as the filter does before it publishes them."""

        async def claim() -> None:
            database = await Database.open(self.settings.postgres.dsn.get_secret_value())
            finality = PostgresFinality(database)
            for one in answers:
                await finality.claim(one, self.commands.codec.encode(one))
            await database.close()

        asyncio.run(claim())

    def publish(self, *records: Answer | Feedback) -> None:
        publisher = Publisher(self.settings, self.commands.codec, lane=self.lane)
        for record in records:
            publisher.send(record)
        assert publisher.flush() == []

    def answered(self, *answers: Answer) -> None:
        self.finish(*answers)
        self.publish(*answers)

    def entries(self, kind: str) -> list[Entry]:
        with TopicReader(self.settings) as reader:
            return list(reader.read(reader.ends(reader.places([topic_name("", self.lane, kind)]))))

    def evaluations(self, request_id: str | None = None) -> dict[str, list[bytes]]:
        """The values of every copy of an evaluation, by event id."""
        found: dict[str, list[bytes]] = defaultdict(list)
        for entry in self.entries("evaluations"):
            if request_id is None or entry.key == request_id.encode():
                record = self.commands.codec.decode(entry.value or b"", Evaluation)
                found[record.meta.event_id].append(entry.value or b"")
        return found

    def copies(self, request_id: str) -> int:
        """How often a request's evaluations were published."""
        return sum(len(values) for values in self.evaluations(request_id).values())

    def one(self, request_id: str, source: str) -> Evaluation | None:
        """The evaluation of a request that comes from the sample, or from feedback."""
        for values in self.evaluations(request_id).values():
            record = self.commands.codec.decode(values[0], Evaluation)
            if (record.sampled_by == "feedback") == (source == "feedback"):
                return record
        return None

    def wait_for(self, request_id: str, source: str = "sample") -> Evaluation:
        eventually(lambda: self.one(request_id, source) is not None, f"an evaluation of {request_id} by {source}")
        found = self.one(request_id, source)
        assert found is not None
        return found


@pytest.fixture(scope="module")
def scene(stack: TestStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    made = Scene(stack, tmp_path_factory.mktemp("evaluate"))
    try:
        made.worker.start()
        made.worker.wait_ready()
        yield made
    finally:
        made.close()


def feedback(scene: Scene, answer: Answer, rating: int | None = 4, **fields: str) -> Feedback:
    meta = Meta(
        event_id=fields.pop("event_id", f"f-{secrets.token_hex(6)}"),
        request_id=answer.meta.request_id,
        tenant=TENANT,
        lane=scene.lane,
        stage="producer",
    )
    comment = fields.pop("comment", None)
    return Feedback(meta=meta, rating=rating, comment=Text(inline=comment) if comment else None)


def test_answers_are_scored_once_across_kills_and_redeliveries(scene: Scene) -> None:
    grounded, wrong, rejected = scene.answer(), scene.answer(OTHER), scene.answer(None, status="rejected")
    # One after the other: of two at once, either may have paid for what both say.
    scene.answered(grounded)
    scene.wait_for(grounded.meta.request_id)
    scene.answered(wrong, rejected)
    values = {}
    for one in (grounded, wrong):
        found = scene.wait_for(one.meta.request_id)
        values[one.meta.request_id] = {score.name: score.value for score in found.scores}
        assert all(score.value is not None for score in found.scores)
    good, bad = values[grounded.meta.request_id], values[wrong.meta.request_id]
    assert good["groundedness"] > 0.9 > 0.5 > bad["groundedness"]
    assert good["relevance"] > 0.5 > bad["relevance"]
    assert not scene.evaluations(rejected.meta.request_id)
    # Between the costs that are to be told and the topic: a later life tells them.
    scene.worker.stop()
    told, late = (scene.answer(f"{GROUNDED} It is {secrets.token_hex(8)} that says so.") for _ in range(2))
    scene.answered(told)
    scene.worker.start(HEADRACE_WORKER__FAILPOINT="after_spends_taken")
    assert scene.worker.wait_end(180) == -signal.SIGKILL
    # Between the event and the offset: the next life gets the answer again.
    scene.answered(late)
    scene.worker.start(HEADRACE_WORKER__FAILPOINT="after_produce")
    assert scene.worker.wait_end(180) == -signal.SIGKILL
    scene.worker.start()
    scene.worker.wait_ready()
    scene.publish(grounded, wrong)
    eventually(
        lambda: (
            all(scene.copies(one.meta.request_id) > 1 for one in (grounded, wrong))
            # Either may have been the one at which the worker was killed.
            and scene.copies(told.meta.request_id) + scene.copies(late.meta.request_id) > 2
        ),
        "the evaluations of answers that came again",
    )
    for copies in scene.evaluations().values():
        assert len(set(copies)) == 1
    costs: defaultdict[str, set[bytes]] = defaultdict(set)
    bought: set[str] = set()

    def all_told() -> bool:
        for entry in scene.entries("costs"):
            cost = scene.commands.codec.decode(entry.value or b"", Cost)
            costs[cost.meta.event_id].add(entry.value or b"")
            if cost.state == "done":
                bought.add(cost.meta.request_id)
        return bought >= {one.meta.request_id for one in (grounded, wrong, told, late)}

    eventually(all_told, "the costs of what was embedded")
    # A call that was open at a kill has an event of its own; what comes again has the same bytes.
    assert all(len(values) == 1 for values in costs.values())


def test_feedback_is_joined_late_early_and_by_command_and_seen_in_the_audit(scene: Scene) -> None:
    late, early = scene.answer(), scene.answer()
    scene.publish(feedback(scene, early, 1))
    eventually(lambda: scene.worker.metrics().get("headrace_feedback_total", 0) >= 1, "feedback that waits")
    assert scene.one(early.meta.request_id, "feedback") is None
    scene.answered(early, late)
    assert scene.wait_for(early.meta.request_id, "feedback").scores[0].value == 0
    ran = scene.commands.run(
        "feedback", late.meta.request_id, "--rating", "5", "--comment", "just right", "--lane", scene.lane, "--json"
    )
    assert ran.code == 0, ran.err
    (told,) = ran.objects
    assert (told["rating"], told["answer"]["event_id"]) == (5, late.meta.event_id)
    joined = scene.wait_for(late.meta.request_id, "feedback")
    assert (joined.scores[0].scorer, joined.scores[0].value) == ("user-feedback", 1.0)
    scene.wait_for(late.meta.request_id)
    ran = scene.commands.run("audit", late.meta.request_id, "--lane", scene.lane, "--json")
    assert ran.code == 0, ran.err
    (audit,) = ran.objects
    kinds = [event["kind"] for event in audit["events"]]
    assert {"answers", "feedback", "evaluations"} <= set(kinds) and kinds.count("evaluations") == 2
    assert {one["source"] for one in audit["evaluations"]} == {"sample", "feedback"}
    assert audit["feedback"][0]["answer_event_id"] == late.meta.event_id
    shown = scene.commands.run("audit", late.meta.request_id, "--lane", scene.lane).out
    assert "rated 5, just right" in shown and "user_rating 1.0" in shown and "groundedness" in shown


def test_feedback_that_can_not_be_taken_is_refused_by_command_and_dead_lettered_from_the_topic(scene: Scene) -> None:
    known = scene.answer()
    scene.answered(known)
    request_id = known.meta.request_id
    for arguments, code in (
        (["nobody", "--rating", "3"], 1),
        ([request_id, "--rating", "6"], 2),
        ([request_id], 2),
    ):
        ran = scene.commands.run("feedback", *arguments, "--lane", scene.lane)
        assert (ran.code, ran.out) == (code, ""), ran.err
    assert "nobody" in scene.commands.run("feedback", "nobody", "--rating", "3", "--lane", scene.lane).err
    before = len(scene.entries("dead-letters"))
    scene.publish(feedback(scene, known, 9))
    eventually(lambda: len(scene.entries("dead-letters")) > before, "the dead letter")
    headers = dict(scene.entries("dead-letters")[-1].headers)
    assert b"feedback.rating: it must be 1 to 5" in (headers["__connect.errors.exception.message"] or b"")
    assert scene.worker.code is None


def test_while_embeddings_are_away_answers_wait_and_feedback_does_not(scene: Scene) -> None:
    known = scene.answer()
    scene.answered(known)
    scene.wait_for(known.meta.request_id)
    scene.proxy.cut()
    # A text of its own, so that no vector is at hand.
    waiting = scene.answer(f"It is {secrets.token_hex(8)} that closes the file. {OTHER}")
    scene.answered(waiting)
    scene.publish(feedback(scene, known, 3))
    assert scene.wait_for(known.meta.request_id, "feedback").scores[0].value == 0.5
    ran = scene.commands.run("eval", "--lane", scene.lane, "--json")
    assert ran.code == 0, ran.err
    eventually(lambda: not done(scene), "an answer that is expected and not done")
    assert scene.one(waiting.meta.request_id, "sample") is None
    scene.proxy.heal()
    scene.wait_for(waiting.meta.request_id)
    eventually(lambda: done(scene), "everything that is expected is done")
    report = json.loads(scene.commands.run("eval", "--lane", scene.lane, "--by", "route", "--json").out)
    (group,) = report["groups"]
    assert group["name"] == "default" and group["expected"] == group["done"] > 3
    scores = {line["name"]: line for line in group["scores"]}
    assert {"groundedness", "support", "relevance", "length", "format", "user_rating"} <= set(scores)
    assert 0 < scores["groundedness"]["mean"] < 1
    table = scene.commands.run("eval", "--lane", scene.lane)
    assert table.code == 0 and "sentence-cosine" in table.out, table.err
    assert not [entry for entry in scene.entries("dead-letters") if entry.key == waiting.meta.request_id.encode()]


def done(scene: Scene) -> bool:
    (report,) = scene.commands.run("eval", "--lane", scene.lane, "--json").objects
    return bool(all(group["expected"] == group["done"] for group in report["groups"]))


def test_a_consumer_puts_feedback_on_the_topic_with_the_program_of_the_documentation(
    scene: Scene, tmp_path: Path
) -> None:
    (program,) = re.findall(r"^```python\n(.*?)^```", DOC.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    known = scene.answer()
    scene.answered(known)
    path = tmp_path / "program.py"
    path.write_text(program)
    own = {
        "KAFKA_BOOTSTRAP": scene.settings.kafka.bootstrap,
        "REGISTRY_URL": scene.settings.registry.url,
        "LANE": scene.lane,
        "REQUEST_ID": known.meta.request_id,
    }
    ran = subprocess.run(
        [sys.executable, str(path)],
        env={**os.environ, **own},
        cwd=tmp_path,
        capture_output=True,
        timeout=180,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert scene.wait_for(known.meta.request_id, "feedback").scores[0].value == 0.25
