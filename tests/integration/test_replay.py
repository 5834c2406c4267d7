"""Replays on the real broker and Postgres: a lane of their own, resumed after a kill, and live untouched."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest

from schemas.errors import DependencyDownError
from schemas.records import Answer
from streams.reading import TopicReader
from streams.replay import shares
from streams.replay.desk import Desk
from streams.replay.run import Run
from streams.settings import Settings
from streams.topics import admin_client, topic_name
from tests.faults.worker import WorkerProcess
from tests.support.commands import Commands, Ran
from tests.support.costs import cost
from tests.support.polling import eventually
from tests.support.replaying import completion, entries, record
from tests.support.stack import TestStack

pytestmark = pytest.mark.stack
KINDS = ("completions", "answers", "chunks", "costs", "control", "dead-letters")
EVENTS = 300


class Place:
    """A lane with recorded completions and costs, and the command line."""

    def __init__(self, stack: TestStack, lane: str, folder: Path) -> None:
        self.stack, self.lane = stack, lane
        self.commands = Commands(stack, lane, folder, KINDS)
        events = [completion(n, lane, tenant="acme" if n % 3 else "globex") for n in range(EVENTS)]
        # One of them was delivered twice.
        record(self.commands.settings, self.commands.codec, lane, [*events, events[0]])
        costs = [cost(f"{lane}-{n}", lane=lane, request_id=f"{lane}-r{n}") for n in range(20)]
        record(self.commands.settings, self.commands.codec, lane, costs)

    def replay(self, *options: str) -> Ran:
        return self.commands.run("replay", *options, "--lane", self.lane, "--json")

    def answers(self, lane: str) -> list[Answer]:
        found = entries(self.commands.settings, lane, "answers")
        return [self.commands.codec.decode(entry.value or b"", Answer) for entry in found]

    def ends(self) -> dict[Any, Any]:
        """How far each topic of the source lane is written."""
        settings = self.commands.settings
        with TopicReader(settings) as reader:
            return reader.ends(reader.places([topic_name(settings.prefix, self.lane, kind) for kind in KINDS]))

    def runs(self) -> list[Run]:
        async def ask() -> list[Run]:
            async with Desk.open(self.commands.settings) as desk:
                return [run for run in await desk.runs.all() if run.source_lane == self.lane]

        return asyncio.run(ask())

    def rows(self, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.stack.postgres_dsn) as connection:
            return connection.execute(statement, parameters).fetchall()  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def place(stack: TestStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    yield Place(stack, f"t{os.urandom(4).hex()}", tmp_path_factory.mktemp("replay"))


def test_a_run_answers_every_event_once_in_its_own_lane_and_leaves_live_as_it_was(place: Place) -> None:
    before = place.ends()
    ran = place.replay("--stage", "filter", "--since", "1h", "--name", f"{place.lane}-all")
    assert ran.code == 0, ran.err
    [found] = ran.objects
    assert found["counts"] == {"published": EVENTS, "duplicate": 1}
    answers = place.answers(found["lane"])
    assert {answer.meta.request_id for answer in answers} == {f"{place.lane}-r{n}" for n in range(EVENTS)}
    assert Counter(answer.meta.event_id for answer in answers).most_common(1)[0][1] == 1
    assert {(answer.status, answer.meta.run) for answer in answers} == {("answered", found["run"])}
    assert place.ends() == before
    assert place.rows("SELECT FROM finals WHERE lane = ANY(%s)", [place.lane, found["lane"]]) == []

    again = place.replay("--stage", "filter", "--since", "1h", "--name", f"{place.lane}-all")
    assert again.code == 2
    assert "already" in again.err

    # What this run takes, another one can take again: only globex's, and of those a half.
    where = ("--where", "tenant = globex", "--sample", "0.5")
    part = place.replay("--stage", "filter", "--since", "1h", "--name", f"{place.lane}-part", *where)
    same = place.replay("--stage", "filter", "--run", f"{place.lane}-part")
    ids = [{answer.meta.request_id for answer in place.answers(ran.objects[0]["lane"])} for ran in (part, same)]
    assert ids[0] == ids[1]
    assert 0 < len(ids[0]) < EVENTS / 3

    shown = place.commands.run("replay", "show", f"{place.lane}-part", "--json").objects[0]
    assert shown["config"]["where"] == "tenant = globex"
    listed = place.commands.run("replay", "list", "--json").objects
    assert {f"{place.lane}-all", f"{place.lane}-part"} <= {one["name"] for one in listed}

    deleted = place.commands.run("replay", "delete", f"{place.lane}-part", "--json")
    assert deleted.code == 0, deleted.err
    eventually(lambda: not place.answers(shown["lane"]), "its topics are gone")
    gone = place.commands.run("replay", "show", f"{place.lane}-part")
    assert (gone.code, "there is no run" in gone.err) == (2, True)


def test_a_run_that_is_killed_and_resumed_has_every_event_once(place: Place, tmp_path: Path) -> None:
    name = f"{place.lane}-killed"
    # Slow enough to be in the middle of it.
    command = [sys.executable, "-c", _SLOW, "replay", "--stage", "filter", "--since", "1h", "--name", name]
    with subprocess.Popen([*command, "--lane", place.lane], env=place.commands.environment) as process:
        lane = ""

        def halfway() -> bool:
            nonlocal lane
            lane = lane or next((run.lane for run in place.runs() if run.name == name), "")
            # A topic that was just created has no leader for a moment.
            with suppress(DependencyDownError):
                return bool(lane) and len(entries(place.commands.settings, lane, "answers")) > 40
            return False

        eventually(halfway, "some of it is done", timeout_s=120)
        process.send_signal(signal.SIGKILL)
    ran = place.commands.run("replay", "resume", name, "--json")
    assert ran.code == 0, ran.err
    answers = place.answers(lane)
    counts = Counter(answer.meta.event_id for answer in answers)
    assert set(counts.values()) == {1}
    assert len(counts) == EVENTS
    assert ran.objects[0]["counts"]["published"] == EVENTS
    ended = place.commands.run("replay", "resume", name)
    assert (ended.code, "done" in ended.err) == (2, True)


# Batches of 10 whose place is noted late: a kill falls between what is written and what is noted of it.
_SLOW = """
import asyncio, streams.replay.work as work, streams.replay.runs as runs
from streams.cli import main
work.BATCH = 10
save = runs.PostgresRuns.save
async def slow(*arguments):
    await asyncio.sleep(0.5)
    await save(*arguments)
runs.PostgresRuns.save = slow
main()
"""


def test_several_processes_make_what_one_makes(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shares, "WORTH_IT", 10)
    ran = place.replay("--stage", "filter", "--since", "1h", "--workers", "2")
    assert ran.code == 0, ran.err
    assert ran.objects[0]["counts"] == {"published": EVENTS, "duplicate": 1}
    counts = Counter(answer.meta.event_id for answer in place.answers(ran.objects[0]["lane"]))
    assert (len(counts), set(counts.values())) == (EVENTS, {1})


def test_a_live_worker_beside_a_replay_goes_on_as_if_there_were_none(
    stack: TestStack, lane: str, tmp_path: Path
) -> None:
    commands = Commands(stack, lane, tmp_path, (*KINDS, "deltas"))
    settings, codec = commands.settings, commands.codec
    events = [completion(n, lane) for n in range(60)]
    env = {"HEADRACE_CONFIG": str(commands.config)}
    worker = WorkerProcess(("filter",), lane=lane, slot="w0", env=env, folder=tmp_path, cpu=None)

    def answered() -> int:
        with suppress(DependencyDownError):
            return len(entries(settings, lane, "answers"))
        return 0

    record(settings, codec, lane, events[:40])
    worker.start()
    try:
        eventually(lambda: answered() == 40, "the first are answered", timeout_s=120)
        groups = _groups(settings)
        late = threading.Thread(target=record, args=(settings, codec, lane, events[40:]))
        late.start()
        ran = commands.run("replay", "--stage", "filter", "--since", "1h", "--lane", lane, "--json")
        late.join()
        assert ran.code == 0, ran.err
        eventually(lambda: answered() == 60, "all are answered", timeout_s=120)
    finally:
        worker.stop()
    answers = [codec.decode(entry.value or b"", Answer) for entry in entries(settings, lane, "answers")]
    assert {(answer.meta.lane, answer.meta.run, answer.revision) for answer in answers} == {(lane, "", 0)}
    assert len({answer.meta.event_id for answer in answers}) == 60
    assert {name for name in _groups(settings) if name not in groups} == set()
    lane_of_run = ran.objects[0]["lane"]
    replayed = [codec.decode(entry.value or b"", Answer) for entry in entries(settings, lane_of_run, "answers")]
    assert 40 <= len(replayed) <= 60
    assert {answer.meta.lane for answer in replayed} == {lane_of_run}
    with psycopg.connect(stack.postgres_dsn) as connection:
        counted = connection.execute("SELECT lane, count(*) FROM finals WHERE lane LIKE %s GROUP BY 1", (f"%{lane}%",))
        assert counted.fetchall() == [(lane, 60)]


def _groups(settings: Settings) -> set[str]:
    """The consumer groups on the broker."""
    return {one.group_id for one in admin_client(settings).list_consumer_groups().result(30).valid}


def test_copied_books_are_no_money_spent(place: Place) -> None:
    before = place.commands.run("costs", "--json").objects[-1]
    ran = place.replay("--stage", "account", "--since", "1h", "--name", f"{place.lane}-books")
    assert ran.code == 0, ran.err
    lane = ran.objects[0]["lane"]
    assert place.rows("SELECT count(*) FROM ledger WHERE lane = %s", lane) == [(20,)]
    assert place.rows("SELECT count(*) FROM ledger WHERE lane = %s", place.lane) == [(0,)]
    assert place.commands.run("costs", "--json").objects[-1] == before
    assert place.commands.run("replay", "delete", f"{place.lane}-books").code == 0
    assert place.rows("SELECT count(*) FROM ledger WHERE lane = %s", lane) == [(0,)]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--stage", "filtre", "--since", "1h"), "did you mean filter?"),
        (("--stage", "admit", "--since", "1h"), "begin at enrich"),
        (("--stage", "filter"), "name a range"),
        (("--stage", "filter", "--since", "2999-01-01"), "in the future"),
        (("--stage", "filter", "--since", "1h", "--until", "2h"), "is not after"),
        (("--stage", "filter", "--until", "30d"), "no event is in the range"),
        (("--stage", "complete", "--since", "1h"), "not on the broker"),
        (("--stage", "filter", "--since", "1h", "--where", "tenent = a"), "did you mean tenant?"),
        (("--stage", "account", "--since", "1h", "--where", "priority != low"), "no event that account reads"),
        (("--stage", "filter", "--since", "1h", "--set", "policy.x=1"), "no such policy"),
        (("--stage", "filter", "--run", "nobody"), "there is no run"),
        (("--stage", "filter", "--since", "1h", "--max-cost", "-1"), "above 0"),
        (("--stage", "filter", "--since", "1h", "--max-cost", "1"), "makes no calls"),
        (("--stage", "evaluate", "--since", "1h", "--into", "live"), "end the run at filter"),
        (("--stage", "filter", "--through", "enrich", "--since", "1h"), "comes before"),
    ],
)
def test_what_can_not_be_replayed_is_said_and_leaves_no_run(place: Place, options: tuple[str, ...], says: str) -> None:
    before = len(place.runs())
    ran = place.replay(*options)
    assert ran.code == 2, ran.err
    assert says in ran.err
    assert len(place.runs()) == before


def test_offsets_outside_the_topic_and_files_that_say_nothing_are_named(place: Place, tmp_path: Path) -> None:
    file = tmp_path / "offsets"
    file.write_text(f"{place.lane}.completions 0 900000\n")
    ran = place.replay("--stage", "filter", "--offsets", str(file))
    assert (ran.code, "were asked for" in ran.err) == (2, True)
    file.write_text("\n# nothing\n")
    assert place.replay("--stage", "filter", "--offsets", str(file)).code == 2
    file.write_text("three words here\n")
    assert "line 1" in place.replay("--stage", "filter", "--offsets", str(file)).err
    file.write_text(f"{place.lane}-r7\n{place.lane}-r9  # and this\n")
    ran = place.replay("--stage", "filter", "--ids", str(file))
    assert ran.code == 0, ran.err
    answers = place.answers(ran.objects[0]["lane"])
    assert {answer.meta.request_id for answer in answers} == {f"{place.lane}-r7", f"{place.lane}-r9"}
