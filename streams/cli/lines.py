"""An event on one line for a person. Texts are cut short, and what a terminal would act on is left out."""

from __future__ import annotations

from schemas.record import Record
from schemas.records import (
    Admitted,
    Alert,
    Answer,
    Chunk,
    Completion,
    Control,
    Cost,
    Delta,
    Document,
    Enrichment,
    Evaluation,
    Feedback,
    Request,
    Text,
)
from streams.opened import Opened, iso

EXCERPT_CHARS = 100


def line(opened: Opened) -> str:
    """Time, place, request, tenant, and what happened."""
    entry, meta = opened.entry, opened.meta
    key = (entry.key or b"").decode("utf-8", "replace")
    who = f"{meta.request_id or key} {meta.tenant}" if meta else key
    return clean(f"{iso(entry.time)} {entry.topic}/{entry.partition}@{entry.offset} {who} {summary(opened)}")


def summary(opened: Opened) -> str:
    """What an event says, in a few words."""
    letter = opened.letter
    if letter is not None:
        what = opened.name or f"{opened.entry.size} bytes that are no record"
        reason = f"{letter.error_class} in {letter.failed_stage}: {letter.error_type}: {letter.error_message}"
        return f"{what} from {letter.source_topic}/{letter.source_partition}@{letter.source_offset}: {reason}"
    if opened.record is None:
        return f"undecodable: {opened.fault} ({opened.entry.size} bytes)"
    return describe(opened.record)


def describe(record: Record) -> str:
    """What a record says."""
    match record:
        case Request():
            return excerpt(record.query) if record.query else f"{len(record.messages)} messages"
        case Admitted():
            return f"admitted to route {record.admission.route or 'default'}, priority {record.admission.priority}"
        case Enrichment():
            grounding = record.grounding
            return f"{len(grounding.passages)} passages, prompt {grounding.prompt_version or 'none'}"
        case Completion():
            return f"{record.finish_reason or 'no finish reason'}: {excerpt(record.text)}"
        case Answer():
            if record.failure is not None:
                return f"{record.status}: {record.failure.code}: {record.failure.message}"
            return f"{record.status}: {excerpt(record.text)}"
        case Cost():
            return f"{record.purpose} attempt {record.ordinal} {record.state}: ${record.amount_usd.normalize():f}"
        case Chunk() | Delta():
            return _chunk(record) if isinstance(record, Chunk) else _delta(record)
        case Document():
            return f"{record.namespace}/{record.document_id}" + (" deleted" if record.deleted else "")
        case Control():
            return _control(record)
        case Alert():
            return f"{record.severity} {record.kind} {record.subject}: {record.message}"
        case _:
            return _judged(record)


def _judged(record: Record) -> str:
    match record:
        case Evaluation():
            shown = (f"{one.name} {one.failure_code if one.value is None else one.value}" for one in record.scores)
            return f"{record.sampled_by or 'scores'}: {', '.join(shown)}"
        case Feedback():
            rated = "no rating" if record.rating is None else f"rated {record.rating}"
            return rated + "".join(f", {excerpt(text)}" for text in (record.comment, record.correction) if text)
        case _:
            return record.AVRO_NAME


def _chunk(chunk: Chunk) -> str:
    if chunk.failure is not None:
        return f"failed: {chunk.failure.code}: {chunk.failure.message}"
    if chunk.kind == "end":
        return f"end after {chunk.sequence} chunks: {chunk.finish_reason or 'no finish reason'}"
    what = f"attempt {chunk.attempt}" if chunk.attempt else ""
    if chunk.kind != "text":
        return f"{chunk.kind} {what}".strip()
    return f"{chunk.sequence}{' of ' + what if what else ''}: {excerpt(chunk.text)}"


def _delta(delta: Delta) -> str:
    attempt = f"attempt {delta.attempt}"
    if delta.aborted:
        return f"{attempt} broke off" + (f": {delta.finish_reason}" if delta.finish_reason else "")
    if delta.final:
        return f"{attempt} ended: {delta.finish_reason or 'no finish reason'}: {excerpt(delta.text)}"
    return f"{attempt}, {delta.sequence} from character {delta.start_char}: {excerpt(delta.text)}"


def _control(control: Control) -> str:
    """What was changed, by whom and why."""
    version = f"@{control.version}" if control.version else ""
    what = f"{control.kind} {control.name}{version}"
    if control.kind == "pause":
        done = f"{control.name} {'resumed' if control.removed else 'paused'}"
    elif control.kind == "cancel":
        done = f"{control.name} cancelled"
    else:
        done = f"{what} {'removed' if control.removed else 'made live'}"
    return (
        done + (f" by {control.author}" if control.author else "") + (f": {control.reason}" if control.reason else "")
    )


def excerpt(text: Text | str | None) -> str:
    """The start of a text."""
    inline = text.inline if isinstance(text, Text) else text
    if inline is None:
        return "no text"
    return inline if len(inline) <= EXCERPT_CHARS else inline[: EXCERPT_CHARS - 1] + "…"


def clean(text: str) -> str:
    """One line without control characters: a text from outside must not move a terminal's cursor."""
    return "".join(character if character.isprintable() else " " for character in text)
