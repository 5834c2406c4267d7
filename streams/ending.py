"""What the runner needs to end an event: whether it can be answered, and what to say of an error nobody foresaw."""

from __future__ import annotations

from processors.event import Incoming
from schemas.errors import PoisonError
from schemas.record import Record
from schemas.records import Admitted, Completion, Enrichment, Failure, Request
from streams.dead_letters import safe_message

# A key that Postgres can index.
LONGEST_ID = 400


def answerable(incoming: Incoming[Record]) -> bool:
    """Whether the event is a request on its way, whose end an answer can be filed under."""
    if not isinstance(incoming.record, Request | Admitted | Enrichment | Completion):
        return False
    request_id, tenant = incoming.meta.request_id, incoming.meta.tenant
    return bool(request_id) and all(part.isprintable() and len(part) <= LONGEST_ID for part in (request_id, tenant))


def unforeseen(stage: str, error: Exception) -> Failure:
    """The failure of a request whose processing raised what is no error of ours."""
    code = "timeout" if isinstance(error, TimeoutError) else "processing_failed"
    text = f"The stage {stage} could not process the request: {safe_message(error)}."
    return Failure(code=code, error_class=PoisonError.error_class, message=text)


def place(error: Exception) -> str:
    """File and line where the error was raised."""
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    return f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace else ""
