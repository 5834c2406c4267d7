"""A dry run of a replay for a person."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from decimal import Decimal

from streams.cli.costs_amounts import micro_amount
from streams.cli.lines import clean
from streams.cli.replay_text import asked_text, survey_view
from streams.replay.desk import Planned
from streams.replay.run import totals
from streams.replay.survey import Surveyed

# So many tenants, reasons and indexes are told; --json has all of the tenants and indexes.
SHOWN = 10


def survey_text(planned: Planned, found: Surveyed) -> str:
    """What a run would do, line by line; amounts only where something would be bought."""
    return "".join(f"{clean(line)}\n" for line in _lines(planned, found))


def _lines(planned: Planned, found: Surveyed) -> Iterator[str]:
    run = planned.run
    into = "a lane of its own" if run.target == "shadow" else f"the lane {run.source_lane}, as new revisions"
    yield f"dry run of {' > '.join(run.stages)} into {into}; nothing was begun or spent"
    yield f"offsets: {totals(planned.places)[1]:,}, of which {found.read:,} records were read"
    yield f"events taken: {found.taken:,}" + (f" ({_most(found.tenants)})" if found.tenants else "")
    if found.unreadable:
        yield f"unreadable: {found.unreadable:,}"
    yield from _calls(planned, found)
    for stage, one in found.embeddings.items():
        yield f"embeddings of {stage}: {one.texts:,} texts, {_price(one.likely_usd, one.most_usd)}"
    if found.index:
        yield f"index searched: {_most(found.index)}"
    if run.target == "live":
        yield asked_text(planned, found)


def _calls(planned: Planned, found: Surveyed) -> Iterator[str]:
    models = sorted({*found.calls, *found.most_usd})
    for model in models:
        price = _price(found.likely_usd.get(model, 0), found.most_usd.get(model, 0))
        yield f"calls to {model}: {found.calls[model]:,}, {price}"
    if found.reused:
        yield f"calls reused: {found.reused:,}, paid for before"
    if models:
        view = survey_view(planned, found)
        yield f"  likely: {view['likely_usd_by']}"
        yield f"  at most: {view['most_usd_by']}"
    if found.not_recorded:
        yield f"  not recorded: {found.not_recorded:,}, taken with the longest prompt there may be"
    if found.refused:
        yield f"refused: {found.refused:,}, which end without a call"
        for reason, count in found.refusals.most_common(SHOWN):
            yield f"  {count:,}: {reason}"
        if len(found.refusals) > SHOWN:
            rest = found.refused - sum(count for _, count in found.refusals.most_common(SHOWN))
            yield f"  {rest:,}: for other reasons"


def _price(likely: Decimal | int, most: Decimal | int) -> str:
    return f"likely {micro_amount(Decimal(likely))} USD, at most {micro_amount(Decimal(most))} USD"


def _most(counted: Counter[str]) -> str:
    """The largest counts, and how many more there are."""
    shown = ", ".join(f"{name} {count:,}" for name, count in counted.most_common(SHOWN))
    return shown + (f" and {len(counted) - SHOWN:,} more" if len(counted) > SHOWN else "")
