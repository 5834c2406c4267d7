"""What a run takes by what the database knows of its requests; its own revisions change nothing of that."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, cast

import pytest

from processors.event import Incoming
from processors.postgres import Database
from schemas.errors import ConfigurationError
from streams.reading import Entry
from streams.replay.run import RunConfig
from streams.replay.selection import Selection, check_known, within
from tests.support.replaying import completion

NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Known:
    """Rows as Postgres gives them: status and scores, each with whether it is the run's own or later."""

    def __init__(self, statuses: list[tuple[str, bool]], scores: list[tuple[float, bool]]) -> None:
        self._statuses, self._scores = statuses, scores
        self.parameters: list[Mapping[str, Any]] = []

    async def execute(self, query: str, parameters: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        self.parameters.append(parameters)
        [tenant], [request_id] = parameters["tenants"], parameters["ids"]
        if "FROM finals" in query.partition("JOIN")[0]:
            return [(tenant, request_id, status, own) for status, own in self._statuses]
        return [(tenant, request_id, [{"name": "s", "value": value}], own) for value, own in self._scores]


async def taken(where: str, known: Known) -> bool:
    record = completion(0, "live")
    entry = Entry(topic="live.completions", partition=0, offset=0, time=NOW, key=b"k", value=b"", headers=())
    incoming = Incoming(record=record, meta=record.meta, raw=b"", appended_at=NOW)
    selection = Selection(RunConfig(where=where), cast("Database", known), source_lane="live", run="r1")
    return (await selection.takes([(entry, incoming)]))[0]


@pytest.mark.parametrize(
    ("where", "holds"),
    [("status = blocked", True), ("status = answered", False), ("score.s < 0.5", True), ("score.s >= 0.5", False)],
)
async def test_a_resumed_backfill_takes_what_it_took_before_its_own_revision(where: str, holds: bool) -> None:
    known = Known([("failed", False), ("blocked", False), ("answered", True)], [(0.2, False), (0.9, True)])
    assert await taken(where, known) is holds
    assert [one["run"] for one in known.parameters] == ["r1"]


@pytest.mark.parametrize("where", ["model = m1", "model != m1 and tenant = acme", "not (cost > 1)"])
async def test_a_run_over_what_its_events_never_have_is_refused_before_it_is_begun(where: str) -> None:
    nothing = cast("Database", None)
    with pytest.raises(ConfigurationError, match=r"no event that complete reads has (model|cost);"):
        await check_known(where, nothing, lane="live", stage="complete")
    await check_known(where, nothing, lane="live", stage="filter")


def test_what_is_asked_beside_another_run_narrows_what_it_took() -> None:
    named = (("live.completions", 0, 1, 9),)
    theirs = RunConfig(where="tenant = a or tenant = b", ids=("1", "2", "3"), offsets=named, sample=0.5, salt="s")
    ours = RunConfig(where="status = failed", ids=("3", "2", "9"), sample=0.1, salt="s", rate=2.0)
    found = within(theirs, ours)
    assert found.where == "(tenant = a or tenant = b) and (status = failed)"
    assert (found.ids, found.offsets, found.sample, found.salt) == (("2", "3"), named, 0.1, "s")
    assert found.rate == 2.0


def test_another_run_s_selection_is_kept_where_nothing_else_is_asked() -> None:
    theirs = RunConfig(where="tenant = a", sample=0.5, salt="s")
    found = within(theirs, RunConfig())
    assert (found.where, found.sample, found.salt) == ("tenant = a", 0.5, "s")
    alone = within(RunConfig(), RunConfig(where="tenant = b", ids=("1",), sample=0.2, salt="t"))
    assert (alone.where, alone.ids, alone.sample, alone.salt) == ("tenant = b", ("1",), 0.2, "t")


@pytest.mark.parametrize(
    ("ours", "says"),
    [
        (RunConfig(sample=0.1, salt="t"), "take the same"),
        (RunConfig(ids=("9",)), "took none of these"),
        (RunConfig(offsets=(("live.completions", 0, 1, 9),)), "--offsets don't go with --run"),
    ],
)
def test_what_can_not_be_kept_of_both_selections_is_refused(ours: RunConfig, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        within(RunConfig(ids=("1",), sample=0.5, salt="s"), ours)
