"""Dead letters for a person: one on a line, and one in full."""

from __future__ import annotations

from typing import Any

import orjson

from streams.cli.lines import clean
from streams.dlq.retry import Retried
from streams.dlq.search import Found
from streams.opened import iso


def letter_line(found: Found) -> str:
    """Id, time, state, class, stage, whose it is, where it stood, and why."""
    letter, status = found.letter, found.status
    what = letter.record or f"{letter.bytes} bytes that are no record"
    who = " ".join(part for part in (letter.tenant, letter.request_id) if part) or "-"
    place = f"{letter.source.topic}/{letter.source.partition}@{letter.source.offset}"
    again = f" · retry {letter.run} failed" if letter.run else ""
    done = f" · {status.state} by {status.changed_by}" if status.state != "open" else ""
    reason = f": {status.reason}" if status.reason else ""
    return clean(
        f"{letter.id} {iso(letter.time)} {status.state} {letter.error_class} {letter.stage} {who} "
        f"{what} from {place}: {letter.error}: {letter.message}{again}{done}{reason}"
    )


def letter_text(view: dict[str, Any]) -> str:
    """The JSON of ``show``, set out over lines."""
    return clean_lines(orjson.dumps(view, option=orjson.OPT_INDENT_2).decode()) + "\n"


def retried_line(done: Retried) -> str:
    """What came of one letter."""
    outcome = done.outcome.replace("_", " ")
    return clean(f"{done.id} {outcome} to {done.topic} {done.run}{': ' + done.reason if done.reason else ''}")


def dropped_line(found: Found, outcome: str) -> str:
    """What came of dropping one letter; one that was retried has nothing left to drop."""
    if outcome == "dropped":
        return f"{found.letter.id} dropped"
    if found.status.state == "dropped":
        return f"{found.letter.id} {outcome}: it was dropped before"
    if found.status.state == "retried":
        return (
            f"{found.letter.id} {outcome}: it was retried before, and stays so; if it failed again, drop the new letter"
        )
    return f"{found.letter.id} {outcome}: somebody else retried or dropped it meanwhile"


def clean_lines(text: str) -> str:
    """As ``clean``, line by line."""
    return "\n".join(clean(line) for line in text.split("\n"))
