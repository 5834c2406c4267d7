"""Text that went out as chunks of a request that ends without an answer: the one place that says so.

What is public is another stage's doing, which cuts deltas and never hears of the request's end. So the verdict says
what its functions make of the text that there is, and "may" where the text itself is not known any more.
"""

from __future__ import annotations

from collections.abc import Sequence

from processors.complete.streaming import wants_stream
from processors.filter.tokens import strip_tokens
from processors.text import inline
from schemas.errors import RefusedError
from schemas.record import Record
from schemas.records import Attempt, Completion, Enrichment, Verdict

GUARD = "stream"
VERSION = "1"


def gone_out(record: Record, attempts: Sequence[Attempt] = (), *, stage: str) -> tuple[Verdict, ...]:
    """The verdict of the guard ``stream`` for a request that ``stage`` ends; none where nothing can be public.

    Of a ``Completion`` the whole text is released whatever becomes of the request. Of an ``Enrichment`` only its
    ``attempts`` are known: text may have gone out of each that broke off while the provider answered.
    """
    if isinstance(record, Completion):
        said = _of_completion(record) if record.streamed else None
    elif isinstance(record, Enrichment) and wants_stream(record.request) and any(map(_had_begun, attempts)):
        said = (0, "text may have gone out as chunks before the call ended")
    else:
        said = None
    if said is None:
        return ()
    count, detail = said
    return (
        Verdict(
            guard=GUARD,
            version=VERSION,
            stage=stage,
            outcome="changed",
            category="public",
            count=count,
            detail=detail,
        ),
    )


def _of_completion(completion: Completion) -> tuple[int, str] | None:
    if completion.text is None:
        return None
    may = (0, "text may have gone out as chunks before it was held back")
    try:
        characters = len(strip_tokens(inline(completion.text)).text)
    except RefusedError:
        return may
    if not characters:
        return None
    # What the provider held back in the end may have begun to stream.
    if completion.finish_reason == "content_filter":
        return may
    return 1, f"{characters} characters, counted before masking, had gone out as chunks before the answer was refused"


def _had_begun(attempt: Attempt) -> bool:
    """Whether the provider may have written text: its reply broke off, or did so after it had begun."""
    return attempt.state == "unknown" or attempt.first_token_ms is not None or attempt.http_status == 200
