"""A run compared with live and with another run, on the real broker and Postgres, by the commands."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from processors.clock import FakeClock
from processors.event import Incoming
from processors.filter.policy import FilterPolicy
from processors.filter.processor import Filter
from schemas.records import Answer, Completion
from tests.support.commands import Commands, Ran
from tests.support.comparing import evaluation
from tests.support.costs import cost
from tests.support.replaying import completion, record
from tests.support.stack import TestStack

pytestmark = pytest.mark.stack
KINDS = ("completions", "answers", "chunks", "evaluations", "costs", "control", "dead-letters")
EVENTS = 40
# Of the completions every fourth ended at its limit: live failed them.
CUT = EVENTS // 4


def answered(one: Completion) -> Answer:
    """What the live filter made of a completion, in time."""
    assert one.admission.expires_at is not None and one.meta.accepted_at is not None
    at = one.meta.accepted_at
    incoming = Incoming(record=one, meta=one.meta, raw=b"", appended_at=at)
    made: list[Any] = []

    async def run() -> None:
        made.extend(await Filter(policy=FilterPolicy(), clock=FakeClock(at))(incoming))

    asyncio.run(run())
    return next(record for record in made if isinstance(record, Answer))


class Place:
    """A lane whose completions live answered, all but the last, and scored; and the command line."""

    def __init__(self, stack: TestStack, lane: str, folder: Path) -> None:
        self.lane, self.folder = lane, folder
        self.commands = Commands(stack, lane, folder, KINDS)
        # Scores that need no embeddings.
        scoring = "[evaluate]\nrate = 1.0\ngroundedness = false\nrelevance = false\n"
        self.commands.config.write_text(self.commands.config.read_text() + scoring)
        events = [
            completion(n, lane, tenant="acme" if n % 2 else "globex", finish_reason="stop" if n % 4 else "length")
            for n in range(EVENTS)
        ]
        answers = [answered(one) for one in events[:-1]]
        scores = [evaluation(one, support=1.0) for one in answers if one.status == "answered"]
        costs = [cost(f"{lane}-{n}", lane=lane, request_id=f"{lane}-r{n}") for n in range(5)]
        # In order: what live says of an event comes after it.
        for records in (events, answers, scores, costs):
            record(self.commands.settings, self.commands.codec, lane, records)

    def replay(self, name: str, *options: str) -> str:
        named = f"{self.lane}-{name}"
        ran = self.commands.run("replay", "--since", "1h", "--lane", self.lane, "--name", named, "--json", *options)
        assert ran.code == 0, ran.err
        return named

    def diff(self, run: str, *options: str) -> Ran:
        return self.commands.run("replay", "diff", run, *options, "--embed", "0", "--json")

    def gate(self, run: str, *options: str) -> Ran:
        return self.commands.run("replay", "gate", run, *options)


@pytest.fixture(scope="module")
def place(stack: TestStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    yield Place(stack, f"t{os.urandom(4).hex()}", tmp_path_factory.mktemp("diff"))


def test_a_policy_is_compared_with_live_gated_and_compared_with_another_run(place: Place) -> None:
    stages = ("--stage", "filter", "--through", "evaluate")
    run = place.replay("lenient", *stages, "--set", "policy.allow_truncated=true")
    page = place.folder / "diff.html"
    # Live's scores are made up here, so that they don't decide.
    ran = place.diff(run, "--html", str(page), "--score", "format")
    assert ran.code == 0, ran.err
    [found] = ran.objects
    assert (found["pairs"], found["what"], found["against"]["name"]) == (EVENTS - 1, "answers", place.lane)
    assert found["alone"]["run_only"] == {
        "count": 1,
        "requests": [{"tenant": "acme", "request_id": f"{place.lane}-r{EVENTS - 1}"}],
    }
    assert (found["alone"]["base_only"]["count"], found["alone"]["neither"]["count"]) == (0, 0)
    assert (found["status"]["worse"], found["status"]["better"]) == (0, CUT)
    assert (found["regressions"]["count"], found["improvements"]["count"]) == (0, CUT)
    assert found["status"]["p"] == pytest.approx(2 / 2**CUT)
    assert found["text"]["changed"] == CUT
    by_tenant = {one["name"]: one["improvements"] for one in found["groups"]["tenant"]}
    assert by_tenant == {"acme": 0, "globex": CUT}
    # Of what live answered and scored, by the score that it has.
    pairs = {one["name"]: one["pairs"] for one in found["scores"]}
    assert pairs == {"format": 0, "length": 0, "support": EVENTS - CUT - 1}
    assert "nothing was scored" not in " ".join(found["notes"])
    assert f"<title>{run} against {place.lane}</title>" in page.read_text()

    bounds = ("--max-regressions", "0", "--score", "format", "--max-cost-increase", "0%")
    good = place.gate(run, *bounds, "--min-pairs", "20")
    assert (good.code, "passed" in good.out) == (0, True), good.err
    few = place.gate(run, "--max-regressions", "0", "--min-pairs", "100")
    assert (few.code, "39 pairs tell it, 100 are needed" in few.out) == (1, True)
    assert place.gate(run).code == 2
    assert place.gate(run, "--min-score", "suport=0.5").code == 2
    assert place.gate(run, "--max-cost-increase", "much").code == 2

    # The other way about: what the lenient policy answered, the strict one fails.
    strict = place.replay("strict", *stages)
    against = place.diff(strict, "--against", run).objects[0]
    assert (against["pairs"], against["regressions"]["count"]) == (EVENTS, CUT)
    first = against["regressions"]["shown"][0]
    assert (first["status"], first["run"]["text"]) == ({"base": "answered", "run": "failed"}, None)
    assert first["base"]["text"].startswith("A decorator takes a function")
    bad = place.gate(strict, "--against", run, "--max-regressions", "10%", "--json")
    assert (bad.code, bad.objects[0]["passed"]) == (1, False)

    # Live answers nothing in another lane's name, and the same run is no counterpart.
    assert place.diff(run, "--against", run).code == 2
    assert "there is no run" in place.diff("nobody").err


def test_a_replay_of_evaluate_or_account_alone_is_compared_by_what_it_produced(place: Place) -> None:
    scored = place.replay("scored", "--stage", "evaluate")
    found = place.diff(scored).objects[0]
    # Of evaluations: live's are of the answered ones that it had.
    assert (found["what"], found["pairs"]) == ("evaluations", EVENTS - CUT - 1)
    assert {one["name"]: one["pairs"] for one in found["scores"]}["support"] == EVENTS - CUT - 1

    place.replay("mended", "--stage", "account", "--into", "live", "--yes")
    copied = place.replay("books", "--stage", "account")
    books = place.diff(copied).objects[0]
    assert (books["what"], books["pairs"], books["cost"]["run_usd"]) == ("books", 5, "1.25")
    assert books["cost"]["increase"] == 0
    refused = place.diff(f"{place.lane}-mended")
    assert (refused.code, "put the books right" in refused.err) == (2, True)


def test_a_backfill_is_compared_with_the_revisions_that_it_replaced(place: Place) -> None:
    options = ("--set", "policy.allow_truncated=true", "--into", "live", "--yes", "--where", "tenant = globex")
    run = place.replay("backfilled", "--stage", "filter", *options)
    found = place.diff(run).objects[0]
    assert (found["pairs"], found["improvements"]["count"]) == (EVENTS // 2, CUT)


def test_the_range_of_a_sample_is_what_it_took(place: Place) -> None:
    run = place.replay("sampled", "--stage", "filter", "--sample", "0.3")
    found = place.diff(run).objects[0]
    assert 0 < found["pairs"] < EVENTS - 1
    assert found["alone"]["base_only"]["count"] == 0
    deleted = place.commands.run("replay", "delete", run)
    assert deleted.code == 0, deleted.err
    assert place.diff(run).code == 2
