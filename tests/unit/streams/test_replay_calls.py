"""What a replay knows of a call before it is made: where the stage will make it, what it sends, what it can cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from processors.clock import FakeClock
from processors.complete.tasks import Tasks
from processors.event import Incoming
from processors.postgres import Database
from processors.prompts import FakePrompts
from schemas.records import Enrichment
from streams.deployed import routes
from streams.ports import enrich_policies
from streams.replay.calls import Calls, Prepared
from streams.replay.changes import changes_for
from streams.replay.rerender import Rerender
from streams.replay.run import Run, RunConfig
from tests.support.completing import CODEC, event
from tests.support.enrichments import ACCEPTED
from tests.support.settings import NOWHERE, bare_settings


class Recorded:
    """A database in which every call that is looked for by the hash it was made with is found."""

    def __init__(self, hashes: Mapping[str, str]) -> None:
        self._hashes = hashes

    async def execute(self, query: str, parameters: Mapping[str, Any]) -> list[tuple[str, ...]]:
        if "replay_runs" in query:
            return []
        asked = zip(parameters["events"], parameters["hashes"], strict=True)
        return [(one, "live") for one, digest in asked if self._hashes.get(one) == digest]


class Scene:
    """A route with a cheap deployment, whose classes come to a strong one that it has not itself."""

    def __init__(self, *events: Incoming[Enrichment]) -> None:
        one = {"base_url": NOWHERE}
        settings = bare_settings(
            deployments={
                "cheap": {**one, "model": "small", "price": {"prompt": "1", "completion": "1"}},
                "strong": {**one, "model": "large", "price": {"prompt": "100", "completion": "100"}},
            },
            routes={
                "default": {
                    "deployment": "cheap",
                    "complexity": {name: ["strong"] for name in ("simple", "balanced", "complex")},
                }
            },
        )
        clock = FakeClock(ACCEPTED)
        tasks = Tasks(routes(settings), CODEC, clock, can_stream=False)
        self.offers = [tasks.offer(one) for one in events]
        hashes = {one.meta.event_id: offer.input_hash for one, offer in zip(events, self.offers, strict=True)}
        run = Run(
            run="r1",
            name="r1",
            lane="replay-r1",
            source_lane="live",
            target="shadow",
            stages=("complete",),
            config=RunConfig(),
            code_version="1",
        )
        self.calls = Calls(
            run,
            settings,
            changes_for("complete", {}),
            database=cast(Database, Recorded(hashes)),
            codec=CODEC,
            clock=clock,
            rerender=Rerender(FakePrompts(), clock, enrich_policies(settings)),
        )

    async def prepared(self, events: Sequence[Incoming[Enrichment]]) -> list[Prepared]:
        await self.calls.prepare(events)
        return [self.calls.prepared[one.meta.event_id] for one in events]


def naming(model: str) -> Incoming[Enrichment]:
    plain = event()
    record = replace(plain.record, request=replace(plain.record.request, model=model))
    return replace(plain, record=record, raw=CODEC.encode(record))


async def test_a_call_of_a_class_is_found_by_what_it_sent() -> None:
    asked = event()
    scene = Scene(asked)
    [known] = await scene.prepared([asked])
    assert (known.model, known.reused, known.error) == ("large", "live", None)
    assert known.input_hash == scene.offers[0].input_hash


async def test_a_model_that_only_a_class_offers_counts_at_its_price() -> None:
    """Else its call would be made under a limit on what the run may spend as if it cost nothing."""
    asked = naming("large")
    scene = Scene(asked)
    [known] = await scene.prepared([asked])
    assert (known.model, known.reused) == ("large", "live")
    assert known.most >= scene.offers[0].target.bound.usd > 0
    assert 0 < known.likely <= known.most


async def test_a_model_that_nobody_offers_is_left_to_the_stage_to_refuse() -> None:
    asked = naming("none")
    [known] = await Scene().prepared([asked])
    assert known == Prepared()
