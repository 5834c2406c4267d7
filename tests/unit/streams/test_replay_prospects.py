"""What a backfill says that it would do, before it is asked to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest

from processors.event import Incoming
from processors.postgres import Database
from schemas.codec import Codec
from schemas.records import Feedback, Text
from streams.cli.replay_text import asked_text
from streams.replay.backfill import prospects
from streams.replay.desk import Planned
from streams.replay.run import Run, RunConfig
from streams.replay.survey import Surveyed
from tests.support.replaying import completion

CODEC, NOW = Codec.offline(), datetime(2026, 1, 1, tzinfo=UTC)


class Rows:
    """Finals of these requests, and what was said of them."""

    def __init__(self, answered: set[str], said: Mapping[str, bytes]) -> None:
        self._answered, self._said = answered, said

    async def execute(self, query: str, parameters: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        asked = list(zip(parameters["tenants"], parameters["ids"], strict=True))
        if "FROM finals" in query:
            return [key for key in asked if key[1] in self._answered]
        return [(*key, self._said[key[1]]) for key in asked if key[1] in self._said]


def incoming(number: int, age: timedelta) -> Incoming[Any]:
    record = completion(number, "live")
    meta = replace(record.meta, accepted_at=NOW - age)
    return Incoming(record=record, meta=meta, raw=b"", appended_at=NOW)


async def test_answers_are_told_apart_by_what_becomes_of_them() -> None:
    def said(number: int, **fields: Any) -> bytes:
        return CODEC.encode(Feedback(meta=completion(number, "live").meta, **fields))

    rows = Rows(
        {"live-r0", "live-r1", "live-r2"},
        {"live-r0": said(0, correction=Text(inline="better")), "live-r1": said(1, rating=1), "live-r5": b"garbage"},
    )
    old, young = timedelta(hours=1), timedelta(minutes=14)
    batch = [*(incoming(number, young) for number in range(4)), incoming(4, old), incoming(5, old)]
    found = await prospects(cast("Database", rows), CODEC, "live", batch, NOW)
    # What can't be read may be a correction.
    assert found == {"corrected": 2, "replaced": 2, "in_flight": 1, "first": 1}


@pytest.mark.parametrize(
    ("stages", "answers", "says"),
    [
        (("filter",), {"replaced": 7}, "7 answers in the lane live get a new revision"),
        (
            ("filter",),
            {"replaced": 3, "first": 1, "corrected": 2, "in_flight": 1},
            "3 answers in the lane live get a new revision, 1 requests without one their first answer; "
            "left alone: 2 that consumers corrected, 1 that the lane may still answer",
        ),
        (("account",), {}, "7 cost events are booked in the lane live where they are missing; what is booked stays"),
    ],
)
def test_what_is_asked_names_what_is_changed(stages: tuple[str, ...], answers: dict[str, int], says: str) -> None:
    names: dict[str, Any] = dict.fromkeys(("run", "name", "lane"), "r1")
    copies = stages == ("account",)
    options: dict[str, Any] = {"stages": stages, "config": RunConfig(), "copies_books": copies}
    run = Run(**names, source_lane="live", target="live", code_version="1", **options)
    assert asked_text(Planned(run, ()), Surveyed(taken=7, answers=Counter(answers))) == says
