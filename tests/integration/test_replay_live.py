"""A paying replay beside live requests at one deployment: live goes first, and is as it would be without the replay."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import psycopg
import pytest
from confluent_kafka.admin import ConfigResource, ResourceType
from psycopg.types.json import Jsonb

from processors.complete.routes import Deployment
from processors.postgres import Database
from streams.capacity.store import ADVISORY_LOCK, PostgresUses
from streams.capacity.told import Holder, Told, endpoint_of
from streams.reading import TopicReader
from streams.replay.priority import NICENESS
from streams.settings import load_settings
from streams.topics import admin_client
from tests.faults.worker import WorkerProcess
from tests.provider.process import ProviderProcess
from tests.support.commands import NO_EMBEDDINGS, Commands
from tests.support.live_load import LiveLoad
from tests.support.polling import eventually
from tests.support.stack import TestStack

pytestmark = pytest.mark.stack
KINDS = (
    *("enrichments.normal", "enrichments.high", "enrichments.low", "answers", "control", "completions", "costs"),
    *("deltas", "alerts", "dead-letters"),
)
# Calls at a time: what the provider takes, what live has open, and what is kept free beside that.
LIMIT, LIVE, RESERVE = 8, 3, 1
RECORDED = 20
SECTIONS = (
    NO_EMBEDDINGS
    + """
[deployments.local]
base_url = "{provider}"
model = "m1"
max_concurrency = {limit}
[routes.default]
deployment = "local"
"""
)


class Scene:
    """A lane with a complete worker, and a provider that refuses one call too many."""

    def __init__(self, stack: TestStack, lane: str, folder: Path) -> None:
        self.stack, self.lane = stack, lane
        self.provider = ProviderProcess(folder / "calls.jsonl", "--median-ms", "150", "--limit", str(LIMIT))
        sections = SECTIONS.format(provider=self.provider.base_url, limit=LIMIT)
        self.commands = Commands(stack, lane, folder, KINDS, sections)
        self.settings = load_settings(self.commands.config)
        self.load = LiveLoad(self.settings, self.commands.codec, lane, in_flight=LIVE)
        env = {"HEADRACE_CONFIG": str(self.commands.config)}
        self.worker = WorkerProcess(("complete",), lane=lane, slot="w0", env=env, folder=folder, cpu=None)
        self.endpoint = endpoint_of(Deployment(name="local", base_url=self.provider.base_url, model="m1"))

    def replay(self, *options: str) -> subprocess.Popen[str]:
        """The command in a process of its own."""
        command = [sys.executable, "-m", "streams", "replay", "--stage", "complete", "--since", "1h", "--json"]
        return subprocess.Popen(
            [*command, "--lane", self.lane, *options],
            env=self.commands.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def another_worker(self, **told: Any) -> None:
        """Somebody else who calls the same deployment, and has just told so for an hour to come."""
        use = Jsonb({self.endpoint: Told(name="local", limit=LIMIT, **told).as_json()})
        self.execute(
            "INSERT INTO provider_use (holder, kind, lane, updated_at, use)"
            " VALUES (%s, 'live', %s, clock_timestamp() + interval '1 hour', %s)",
            f"{self.lane}-other", f"{self.lane}-other", use,
        )  # fmt: skip

    def told(self) -> list[tuple[str, dict[str, Any]]]:
        """By kind, what is told of the endpoint."""
        rows = self.execute("SELECT kind, use -> %s FROM provider_use WHERE use ? %s", self.endpoint, self.endpoint)
        return [(kind, use) for kind, use in rows]

    def execute(self, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.stack.postgres_dsn) as connection:
            cursor = connection.execute(statement, parameters)  # type: ignore[arg-type]
            return cursor.fetchall() if cursor.description is not None else []

    def ends(self) -> dict[str, int]:
        """How far each topic of the lane is written."""
        with TopicReader(self.settings) as reader:
            ends = reader.ends(reader.places([f"{self.lane}.{kind}" for kind in KINDS]))
        found: Counter[str] = Counter()
        for (topic, _), stretch in ends.items():
            found[topic.removeprefix(f"{self.lane}.")] += stretch.end
        return dict(found)

    def standing(self) -> dict[str, Any]:
        """What of the lane nobody may change but its operator: groups, who has which partitions, topics, settings."""
        admin = admin_client(self.settings)
        names = sorted(
            one.group_id for one in admin.list_consumer_groups().result(30).valid if self.lane in one.group_id
        )
        groups = {}
        for name, future in admin.describe_consumer_groups(names).items():
            described = future.result(30)
            groups[name] = (
                described.state.name,
                sorted(
                    (one.member_id, sorted((tp.topic, tp.partition) for tp in one.assignment.topic_partitions))
                    for one in described.members
                ),
            )
        topics = admin.list_topics(timeout=30).topics
        own = {name: len(topic.partitions) for name, topic in topics.items() if name.startswith(f"{self.lane}.")}
        asked = [ConfigResource(ResourceType.TOPIC, name) for name in own]
        configs = {
            resource.name: {name: entry.value for name, entry in future.result(30).items()}
            for resource, future in admin.describe_configs(asked).items()
        }
        return {"groups": groups, "partitions": own, "configs": configs}


@dataclass(frozen=True, slots=True)
class Begun:
    """A call as its provider saw it begin, with those that were open beside it."""

    replay: bool
    live_open: int
    replay_open: int


@pytest.fixture
def scene(stack: TestStack, lane: str, tmp_path: Path) -> Iterator[Scene]:
    started = Scene(stack, lane, tmp_path)
    try:
        started.worker.start()
        started.worker.wait_ready()
        yield started
    finally:
        started.worker.stop()
        started.provider.stop()
        started.execute("DELETE FROM provider_use WHERE lane LIKE %s", f"{lane}%")


@pytest.mark.timeout(600)
def test_live_goes_first_and_is_left_as_it_is(scene: Scene, tmp_path: Path) -> None:
    load, name = scene.load, f"{scene.lane}-run"
    # As many at a time as there will ever be, however slow the machine is.
    load.send("warm", LIVE, asking="[[fault:slow:3]]")
    load.send("old", RECORDED)
    eventually(lambda: [use["most"] for _, use in scene.told()] == [LIVE], "the worker has told what it used")
    ids = tmp_path / "ids"
    ids.write_text("\n".join(load.sent[LIVE:]))
    recorded, standing, before = frozenset(load.sent[LIVE:]), scene.standing(), scene.ends()
    seen = len(scene.provider.calls())

    # Another live worker has a request that waits for a place.
    scene.another_worker(most=LIMIT, waiting=1)
    run = scene.replay("--ids", str(ids), "--set", "temperature=0.4", "--workers", "16", "--name", name)
    try:
        shown: dict[str, Any] = {}

        def waits() -> bool:
            assert run.poll() is None, run.communicate()
            found = scene.commands.run("replay", "show", name, "--json")
            shown.update(found.objects[0] if found.code == 0 else {})
            return bool(shown.get("waits_for") == "local: live requests wait for a place (1)")

        eventually(waits, "it is shown what the run waits for", timeout_s=120)
        shown_text = scene.commands.run("replay", "show", name).out
        assert "waits for live: " in shown_text
        assert os.getpriority(os.PRIO_PROCESS, run.pid) == NICENESS
        assert len(scene.provider.calls()) == seen, "nothing was begun"
        with load.going_on("new"):
            eventually(lambda: len(load.answered) > RECORDED, "live goes on")
            scene.execute("DELETE FROM provider_use WHERE holder = %s", f"{scene.lane}-other")
            out, err = run.communicate(timeout=240)
    finally:
        run.kill()
    assert run.returncode == 0, err
    assert json.loads(out)["steps"][0]["counts"] == {"published": RECORDED}

    # At the provider: never one call too many, and live's calls as if it were alone.
    lines = scene.provider.calls()[seen:]
    assert {line["fault"] for line in lines if line["event"] == "begin"} == {"ok"}
    begun = _begun(lines, recorded)
    replays = [one for one in begun if one.replay]
    assert len(replays) == RECORDED
    assert all(one.live_open + one.replay_open <= LIMIT for one in begun)
    # One that has just been answered may still count as open.
    assert 1 < max(one.replay_open for one in replays) <= LIMIT - LIVE - RESERVE + 1
    assert max(one.live_open for one in replays) > 0, "they went on side by side"
    live = load.sent[LIVE + RECORDED :]
    calls = Counter(line["request_id"] for line in lines if line["event"] == "begin")
    assert {request_id: calls[request_id] for request_id in live} == dict.fromkeys(live, 1)
    assert load.answered == set(load.sent)
    # Nor did they take longer than alone; the bound leaves room for what else the machine does.
    alone, beside = (median(load.took_s[one] for one in ids) for ids in (load.sent[LIVE : LIVE + RECORDED], live))
    assert beside < 2 * alone + 0.5, (alone, beside)
    # No request of live's ever waited for a place, and none was sent twice.
    [(kind, use)] = scene.told()
    assert (kind, use["waiting"], use["most"] <= LIVE, use["throttled_s"]) == ("live", 0, True, None)
    assert not scene.worker.metrics().get("headrace_call_retries_total")

    # On the broker and in Postgres: what live itself did, and nothing else.
    assert scene.standing() == standing
    grown = {kind: end - before[kind] for kind, end in scene.ends().items()}
    own = {"enrichments.normal": len(live), "completions": len(live), "costs": len(live)}
    assert {kind: count for kind, count in grown.items() if count and kind != "deltas"} == own
    rows = scene.execute("SELECT count(*), count(DISTINCT request_id) FROM calls WHERE lane = %s", scene.lane)
    assert rows == [(len(load.sent), len(load.sent))]
    assert scene.execute("SELECT count(*) FROM calls WHERE lane = %s AND run <> ''", scene.lane) == [(0,)]

    scene.worker.stop()
    assert scene.told() == [], "who has ended uses nothing"


def _begun(lines: list[dict[str, Any]], recorded: frozenset[str]) -> list[Begun]:
    """Each call that began, with itself among the open ones."""
    open_: dict[int, bool] = {}
    found = []
    for line in lines:
        if line["event"] == "end":
            open_.pop(line["call"], None)
            continue
        open_[line["call"]] = replay = line["request_id"] in recorded
        replays = sum(open_.values())
        found.append(Begun(replay, len(open_) - replays, replays))
    return found


async def test_replays_decide_one_after_another_and_see_what_the_one_before_took(stack: TestStack, lane: str) -> None:
    database = await Database.open(stack.postgres_dsn)
    uses = PostgresUses(database)
    worker, first, second = (f"{lane}-{name}" for name in ("w0", "r1", "r2"))
    told = Told(name="local", most=3, limit=8, requests_per_minute=60)
    seen: list[Holder] = []

    def look(holders: Any) -> tuple[dict[str, Told], str]:
        seen[:] = [one for one in holders if one.lane == lane]
        return {"e1": Told(name="local", most=2)}, "live events wait"

    try:
        await uses.tell(worker, "live", lane, {"e1": told})
        await uses.claim(first, lane, look)
        assert [(one.holder, one.kind, one.uses["e1"]) for one in seen] == [(worker, "live", told)]
        assert 0 <= seen[0].age_s < 60
        await uses.claim(second, lane, look)
        assert {one.holder: one.uses["e1"].most for one in seen} == {worker: 3, first: 2}
        found = await uses.of(first)
        assert found is not None
        assert (found.said, found.kind) == ("live events wait", "replay")
        # While one decides the next one waits; workers tell without waiting.
        async with database.transaction() as connection:
            await connection.execute("SELECT pg_advisory_xact_lock(%s)", (ADVISORY_LOCK,))
            await uses.tell(worker, "live", lane, {"e1": told})
            waiting = asyncio.ensure_future(uses.claim(second, lane, look))
            blocked = await _blocked(database)
            assert blocked, "the second one waits"
            assert not waiting.done()
        await asyncio.wait_for(waiting, 60)
        for holder in (worker, first, second):
            await uses.forget(holder)
        assert await uses.of(first) is None
    finally:
        await database.execute("DELETE FROM provider_use WHERE lane = %s", (lane,))
        await database.close()


async def _blocked(database: Database) -> bool:
    """Whether somebody comes to wait for the lock, within a while."""
    for _ in range(600):
        rows = await database.execute(
            "SELECT FROM pg_locks WHERE locktype = 'advisory' AND objid = %s AND NOT granted", (ADVISORY_LOCK,)
        )
        if rows:
            return True
        await asyncio.sleep(0.05)
    return False
