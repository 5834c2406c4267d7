"""What a provider may do and what must come of it: the cases of a test, and the table of ``docs/calling.md``.

``python -m tests.provider.outcomes`` writes the table anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

DOCUMENT = Path(__file__).parents[2] / "docs" / "calling.md"
BEGIN, END = "<!-- outcomes -->", "<!-- /outcomes -->"

# What an attempt is booked at: nothing, the usage that the provider told, an estimate from the texts, or the most that
# it can have cost.
Cost = Literal["nothing", "told", "estimated", "upper bound"]
COSTS = {
    "nothing": "nothing",
    "told": "the usage told",
    "estimated": "an estimate from the texts, marked `estimated`",
    "upper bound": "its upper bound, marked `estimated`",
}


CALLED = "is called"
WAITS = "waits until then"
NO_KEY = "failed: key_refused"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A fault of every attempt, and the outcome of a request with three attempts and nowhere else to go.

    ``state`` and ``code`` are the attempt's, ``attempts`` how many are made, ``answer`` the answer's status and code.
    ``after``: what becomes of the next request to the same deployment, by the same worker. ``slow``: the fault is a
    silence, which this deadline of the deployment ends.
    """

    fault: str
    does: str
    state: str
    code: str | None
    cost: Cost
    attempts: int
    answer: str
    after: str = CALLED
    slow: str = ""

    @property
    def again(self) -> str:
        """How the table says ``attempts``."""
        return {1: "no", 2: "once", 3: "up to `max_attempts`"}[self.attempts]


def _refused(fault: str, does: str, code: str, *, attempts: int = 3, after: str = CALLED) -> Case:
    return Case(
        fault=fault,
        does=does,
        state="failed",
        code=code,
        cost="nothing",
        attempts=attempts,
        answer=f"failed: {code}",
        after=after,
    )


def _unknown(fault: str, does: str, code: str, *, slow: str = "") -> Case:
    return Case(
        fault=fault,
        does=does,
        state="unknown",
        code=code,
        cost="upper bound",
        attempts=2,
        answer=f"failed: {code}",
        slow=slow,
    )


def _spoilt(fault: str, does: str, code: str, *, attempts: int = 3) -> Case:
    return Case(
        fault=fault,
        does=does,
        state="failed",
        code=code,
        cost="upper bound",
        attempts=attempts,
        answer=f"failed: {code}",
    )


def _done(fault: str, does: str, answer: str, cost: Cost = "told") -> Case:
    return Case(fault=fault, does=does, state="done", code=None, cost=cost, attempts=1, answer=answer)


CASES = (
    _done("ok", "answers in a stream", "answered"),
    _done("no_stream", "answers in one body, though a stream was asked for", "answered"),
    _done("slow:0.3", "answers late, within the deadlines", "answered"),
    _done("trickle:0.02", "writes slowly, each piece within the deadline between chunks", "answered"),
    _refused("429", "replies 429 without saying when to come back", "http_429"),
    _refused("429:0.3", "replies 429 with `Retry-After`, in seconds (waited for)", "http_429"),
    _refused("429_date:1", "replies 429 with `Retry-After` as a date (waited for)", "http_429"),
    _refused("429_reset:0.3", "replies 429 with a rate limit's reset alone (waited for)", "http_429"),
    _refused(
        "429:3000", "replies 429 and asks for longer than the request can wait", "http_429", attempts=1, after=WAITS
    ),
    _refused(
        "quota", "replies 429 because the account's quota is used up", "quota_exhausted", attempts=1, after=NO_KEY
    ),
    _refused("500", "replies 500", "http_500"),
    _refused("503", "replies 503", "http_503"),
    _refused("529", "replies 529 (overloaded)", "http_529"),
    _refused("400", "replies 400", "http_400", attempts=1),
    _refused("context", "replies 400: the prompt is too long", "context_too_long", attempts=1),
    _refused("moderated", "replies 400: its own filter refuses the prompt", "content_refused", attempts=1),
    _refused("401", "replies 401 (a key's)", "http_401", attempts=1, after=NO_KEY),
    _refused("403", "replies 403 (a key's)", "http_403", attempts=1, after=NO_KEY),
    _refused("no_model", "replies 404: no such model", "model_not_found", attempts=1),
    _unknown("hang", "takes the request and is silent", "timeout_first_token", slow="first_token_timeout_s"),
    _unknown(
        "drip:0.1", "sends a byte now and then, and no event", "timeout_first_token", slow="first_token_timeout_s"
    ),
    _unknown(
        "hang_after_first",
        "falls silent in the middle of a stream",
        "timeout_next_chunk",
        slow="between_chunks_timeout_s",
    ),
    _unknown("disconnect", "resets the connection before it answers", "connection_lost"),
    _unknown("disconnect_stream", "resets the connection in the middle of a stream", "connection_lost"),
    _unknown("truncated", "ends a stream in the middle as if all had been said", "cut_off"),
    _spoilt("garbage", "replies 200 with JSON that ends in the middle", "malformed_response"),
    _spoilt("garbage_event", "sends an event that is no JSON", "malformed_response"),
    _spoilt("html", "replies 200 with HTML", "malformed_response"),
    _spoilt("empty_choices", "replies 200 without a choice", "malformed_response"),
    _spoilt("error_event:503", "reports an error in a stream that began well", "stream_error"),
    _spoilt("error_event:400", "reports in a stream that the request was wrong", "stream_error", attempts=1),
    _spoilt("big", "replies with a body of 100 MB, of which 8 MB are read", "response_too_large", attempts=1),
    _done("empty_text", "answers with an empty text", "failed: empty_output", cost="told"),
    _done("length", "stops at the token limit", "failed: output_truncated"),
    _done("filtered", "stops because its own filter holds the text back", "blocked: content_filter"),
    _done("no_usage", "tells no usage", "answered", cost="estimated"),
    _done("wrong_usage", "tells a usage that can't be", "answered", cost="estimated"),
)


def table() -> str:
    """The table as the document has it between its markers."""
    head = (
        "| the provider … | attempt | booked at | asked again | answer, when every attempt goes so | the next request |"
    )
    rows = [
        f"| {case.does} | `{case.state}`{f' `{case.code}`' if case.code else ''} | {COSTS[case.cost]} |"
        f" {case.again} | {_shown(case.answer)} | {_shown(case.after) if ':' in case.after else case.after} |"
        for case in CASES
    ]
    return "\n".join([head, "|---|---|---|---|---|---|", *rows])


def documented(text: str) -> str:
    """What stands between the markers."""
    return text.partition(BEGIN)[2].partition(END)[0].strip()


def _shown(answer: str) -> str:
    status, _, code = answer.partition(": ")
    return f"`{status}`" + (f": `{code}`" if code else "")


def main() -> None:
    """Write the table into the document."""
    text = DOCUMENT.read_text()
    before, rest = text.split(BEGIN)
    DOCUMENT.write_text(f"{before}{BEGIN}\n{table()}\n{END}{rest.partition(END)[2]}")


if __name__ == "__main__":
    main()
