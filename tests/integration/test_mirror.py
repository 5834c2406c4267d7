"""A mirror on the real stack: its share, its budget, killed and taken up again, compared, stopped and deleted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections import Counter
from collections.abc import Iterator
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest
from confluent_kafka import Consumer, TopicPartition

from processors.evaluate.sampling import position
from schemas.records import Answer, Completion
from streams.app import group_name
from streams.reading import TopicReader
from streams.stages import STAGES
from streams.topics import admin_client
from tests.provider.process import ROOT, ProviderProcess
from tests.support.commands import NO_EMBEDDINGS, Commands, Ran
from tests.support.comparing import answer
from tests.support.enrichments import enrichment
from tests.support.polling import eventually
from tests.support.replaying import entries, record
from tests.support.stack import TestStack

pytestmark = pytest.mark.stack
KINDS = ("enrichments.normal", "enrichments.high", "enrichments.low", "answers", "control", "completions", "costs")
SHARE = 0.5
# Room for a few calls: each is 0.03 USD or so, and held at ten times as much while it is open.
LIMIT = Decimal("0.5")
SECTIONS = (
    NO_EMBEDDINGS
    + """
[deployments.local]
base_url = "{provider}"
model = "m1"
price = {{ prompt = 1000, completion = 1000 }}
default_max_tokens = 64
[deployments.cheap]
base_url = "{provider}"
model = "m2"
price = {{ prompt = 1000, completion = 1000 }}
default_max_tokens = 64
[routes.default]
deployments = ["local", "cheap"]
"""
)


class Place:
    """A lane with live traffic, and a mirror of it in a process of its own, on a day that the test says."""

    def __init__(self, stack: TestStack, folder: Path) -> None:
        self.stack, self.lane, self.folder = stack, f"t{os.urandom(4).hex()}", folder
        self.name = f"{self.lane}-cheaper"
        self.provider = ProviderProcess(folder / "calls.jsonl")
        sections = SECTIONS.format(provider=self.provider.base_url)
        self.commands = Commands(stack, self.lane, folder, KINDS, sections)
        self.sent = 0
        self.process: subprocess.Popen[str] | None = None
        self.address = ""

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
        if self.process is not None:
            self.process.communicate()
        self.provider.stop()

    def live(self, shared: int) -> None:
        """Requests come in until so many of them are in the mirror's share; live answers them all."""
        first, wanted = self.sent, len(self.share()) + shared
        while len(self.share()) < wanted:
            self.sent += 1
        numbers = range(first, self.sent)
        requests = [enrichment(f"{self.lane}-r{number}", f"Question {number}?", lane=self.lane) for number in numbers]
        said = [answer(f"{self.lane}-r{number}", lane=self.lane) for number in numbers]
        record(self.commands.settings, self.commands.codec, self.lane, requests)
        record(self.commands.settings, self.commands.codec, self.lane, said)
        # Nothing waits any more: live goes first.
        stage, settings = STAGES["complete"], self.commands.settings
        with TopicReader(settings) as reader:
            for source in stage.inputs:
                ends = reader.ends(reader.places([f"{self.lane}.{source.kind}"]))
                group = group_name(settings.prefix, self.lane, stage.group_of(source))
                consumer = Consumer({"bootstrap.servers": settings.kafka.bootstrap, "group.id": group})
                offsets = [TopicPartition(*place, bounds.end) for place, bounds in ends.items()]
                consumer.commit(offsets=offsets, asynchronous=False)
                consumer.close()

    def share(self) -> set[str]:
        """The requests that the mirror is to take."""
        ids = [f"{self.lane}-r{number}" for number in range(self.sent)]
        return {one for one in ids if position("headrace", one) < int(SHARE * 2**64)}

    def options(self, **changes: str) -> list[str]:
        asked = {
            "--stage": "complete", "--through": "filter", "--share": str(SHARE), "--set": "model=m2",
            "--max-cost-per-day": str(LIMIT), "--lane": self.lane, **changes,
        }  # fmt: skip
        return [part for pair in asked.items() for part in pair if part]

    def start(self, day: date, *options: str) -> None:
        worker = (sys.executable, "-m", "tests.support.mirror_worker", day.isoformat())
        self.process = subprocess.Popen(
            [*worker, "replay", "mirror", "start", self.name, *options],
            cwd=ROOT,
            env=self.commands.environment,
            stderr=subprocess.PIPE,
            text=True,
        )

    def metrics(self) -> str:
        """What the process serves; where, it says on its first line."""
        assert self.process is not None and self.process.stderr is not None
        self.address = self.address or self.process.stderr.readline().rpartition(" metrics on ")[2].strip()
        with urllib.request.urlopen(self.address, timeout=30) as response:
            return str(response.read().decode())

    def ended(self) -> tuple[int, str]:
        assert self.process is not None
        _, said = self.process.communicate(timeout=240)
        return self.process.returncode, said

    def mirror(self, *arguments: str) -> Ran:
        return self.commands.run("replay", "mirror", *arguments)

    def shown(self) -> dict[str, Any]:
        ran = self.mirror("show", self.name, "--json")
        return ran.objects[0] if ran.code == 0 else {}

    def wait(self, what: str, **wanted: Any) -> dict[str, Any]:
        def holds() -> bool:
            assert self.process is not None and self.process.poll() is None, self.process and self.process.communicate()
            found = self.shown()
            return all(found.get(name) == value for name, value in wanted.items())

        eventually(holds, what, timeout_s=180)
        return self.shown()

    def made(self, lane: str, kind: str, record: type[Any]) -> list[Any]:
        found = entries(self.commands.settings, lane, kind)
        return [self.commands.codec.decode(entry.value or b"", record) for entry in found]

    def spent(self) -> dict[str, Decimal]:
        with psycopg.connect(self.stack.postgres_dsn) as connection:
            query = (
                "SELECT day, spent_usd FROM mirror_days JOIN replay_runs USING (run) WHERE name = %s AND held_usd = 0"
            )
            return {str(day): spent for day, spent in connection.execute(query, (self.name,)).fetchall()}

    def ends(self) -> dict[str, int]:
        """How many records the lane's own topics have."""
        found: Counter[str] = Counter()
        with TopicReader(self.commands.settings) as reader:
            names = [name for name in reader.everything() if name.startswith(f"{self.lane}.")]
            for (topic, _), bounds in reader.ends(reader.places(names)).items():
                found[topic] += bounds.end
        return found

    def script(self, **script: Any) -> None:
        body = json.dumps(script).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.provider.url}/script", body, headers, method="POST")
        urllib.request.urlopen(request, timeout=60).close()


@pytest.fixture(scope="module")
def place(stack: TestStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    started = Place(stack, tmp_path_factory.mktemp("mirror"))
    yield started
    started.close()


def test_what_can_not_be_mirrored_is_refused(place: Place) -> None:
    for options, said in (
        (place.options(**{"--share": "0"}), "--share 0: it has to be above 0"),
        (place.options(**{"--share": "1.5"}), "at most 1"),
        (place.options(**{"--max-cost-per-day": "-1"}), "--max-cost-per-day -1"),
        (place.options(**{"--set": "model=m9"}), "--set model=m9: no deployment serves it; there are m1, m2"),
        (place.options(**{"--set": f"prompt={place.lane}@9"}), "no such version"),
        (place.options(**{"--lane": "nowhere"}), "nowhere.enrichments"),
    ):
        ran = place.mirror("start", place.name, *options)
        assert (ran.code, said in ran.err) == (2, True), ran.err
    assert place.mirror("show", place.name).code == 2
    none = place.mirror("start", place.name, "--lane", place.lane)
    assert (none.code, "--max-cost-per-day is missing" in none.err) == (2, True)


@pytest.mark.timeout(600)
def test_a_share_is_mirrored_on_a_daily_budget_whatever_becomes_of_the_process(place: Place) -> None:
    first, second = date(2026, 1, 1), date(2026, 1, 2)
    # What came before the mirror was begun is not its business.
    place.live(2)
    early, before = place.share(), place.ends()
    place.start(first, *place.options(), "--http-port", "0")
    place.wait("it leads", state="running")
    old = place.sent
    place.live(20)
    found = place.wait("it has seen the first day", seen=place.sent - old, lag_events=0)
    share = place.share() - early
    assert 0 < found["over_budget"] < len(share)
    assert found["mirrored"] + found["over_budget"] == len(share)
    assert 0 < place.spent()["2026-01-01"] <= LIMIT
    assert Decimal(found["cost_usd"]) == place.spent()["2026-01-01"]
    assert sum(place.provider.paid().values()) == found["mirrored"]

    passed_over = (
        f'headrace_mirror_events_total{{mirror="{place.name}",outcome="over_budget"}} {found["over_budget"]}.0'
    )
    eventually(lambda: passed_over in place.metrics(), "it serves its figures")

    assert place.process is not None
    place.process.send_signal(signal.SIGTERM)
    code, said = place.ended()
    assert code == 0, said
    assert f"{found['over_budget']} over budget" in said
    assert place.shown()["state"] == "stopped"

    # Another day, and a kill while calls are open.
    place.script(latency={"median_ms": 4000.0, "slow_ms": 0.0, "slow_share": 0.0, "seed": 0})
    place.live(6)
    paid = sum(place.provider.paid().values())
    place.start(second)
    eventually(lambda: sum(place.provider.paid().values()) > paid, "a call is open", timeout_s=180)
    place.process.kill()
    place.ended()
    place.script(latency={"median_ms": 0.0, "slow_ms": 0.0, "slow_share": 0.0, "seed": 0})
    place.start(second)
    found = place.wait("it has seen all of it", seen=place.sent - old, lag_events=0)
    share = place.share() - early
    made: list[Completion] = place.made(found["lane"], "completions", Completion)
    assert len({one.meta.event_id for one in made}) == len(made) == found["mirrored"]
    assert {one.meta.request_id for one in made} <= share
    assert found["mirrored"] + found["over_budget"] == len(share)
    assert {one.model for one in made} == {"m2"}
    # The stages behind it, over what it made.
    eventually(lambda: len(place.made(found["lane"], "answers", Answer)) >= len(made), "they are filtered")
    answers: list[Answer] = place.made(found["lane"], "answers", Answer)
    assert len(answers) == len(made)
    assert {one.meta.causation_id for one in answers} == {one.meta.event_id for one in made}
    assert all(spent <= LIMIT for spent in place.spent().values())
    assert place.spent().keys() == {"2026-01-01", "2026-01-02"}
    # A call that was open at the kill may be paid once more.
    assert max(Counter(place.provider.paid()).values()) <= 2

    # Live is what it would have been: nothing of the mirror in its topics, and no group of it anywhere.
    grown = {topic: end - before[topic] for topic, end in place.ends().items() if end != before[topic]}
    sent = place.sent - old
    assert grown == {f"{place.lane}.enrichments.normal": sent, f"{place.lane}.answers": sent}
    groups = admin_client(place.commands.settings).list_consumer_groups(request_timeout=60).result(60).valid
    assert [one.group_id for one in groups if found["run"] in one.group_id] == []

    # While it runs: compared, and no second one by its name.
    compared = place.commands.run("replay", "diff", place.name, "--embed", "0", "--json")
    assert compared.code == 0, compared.err
    report = compared.objects[0]
    assert (report["pairs"], report["alone"]["base_only"]["count"]) == (len(made), 0)
    assert any("were passed over by the mirror" in note for note in report["notes"])
    gated = place.commands.run("replay", "gate", place.name, "--max-regressions", "100%", "--min-pairs", "5")
    assert (gated.code, "not failed" in gated.out) == (0, True), gated.out + gated.err
    later = place.commands.run("replay", "gate", place.name, "--max-regressions", "0", "--since", "1m")
    assert later.code != 0, "its requests were accepted long before"
    other = place.mirror("start", place.name, *place.options(**{"--share": "0.4"}))
    assert (other.code, "--share is 0.5, and not 0.4" in other.err) == (2, True), other.err
    listed = place.mirror("list")
    assert f"{place.name}  running" in listed.out
    resumed = place.commands.run("replay", "resume", place.name)
    assert (resumed.code, "mirror start" in resumed.err) == (2, True)

    assert place.mirror("stop", place.name).code == 0
    code, said = place.ended()
    assert code == 0, said
    again = place.mirror("start", place.name)
    assert (again.code, "was stopped for good" in again.err) == (2, True)
    deleted = place.mirror("delete", place.name)
    assert deleted.code == 0, deleted.err
    with TopicReader(place.commands.settings) as reader:
        eventually(
            lambda: not [name for name in reader.everything() if name.startswith(found["lane"])], "its topics are gone"
        )
    with psycopg.connect(place.stack.postgres_dsn) as connection:
        left = connection.execute("SELECT FROM mirror_days WHERE run = %s", (found["run"],)).fetchall()
    assert left == []
