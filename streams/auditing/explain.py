"""Why an answer says what it says, read from its events and from what is there now. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from processors.prompts import StoredPrompt
from schemas.json_view import to_json
from schemas.records import Admitted, Answer, Completion, Enrichment, Grounding, Passage, Verdict
from streams.auditing.live import Change, live_at, moments
from streams.causes import Event

# Tenant, namespace and id of a document.
DocumentKey = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class DocumentNow:
    """A document as the index has it now."""

    digest: str
    index_version: str
    deleted: bool
    indexed_at: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Background:
    """What is there now, beside the events: templates by ``name@n``, documents, everything on control, tombstones."""

    prompts: Mapping[str, StoredPrompt]
    documents: Mapping[DocumentKey, DocumentNow]
    history: Sequence[Change]
    # Tombstones of the request's records.
    erasures: Sequence[Mapping[str, Any]] = ()


def prompts_used(events: Iterable[Event]) -> list[str]:
    """The templates of the events, as ``name@n``, in order of use."""
    return list(dict.fromkeys(one.prompt_version for one in _groundings(events) if one.prompt_version))


def documents_used(events: Iterable[Event]) -> list[DocumentKey]:
    """The documents whose passages were shown to a model."""
    return list(dict.fromkeys(_key(event, passage) for event, passage in _passages(events)))


def explained(events: Sequence[Event], background: Background, *, tenant: str, request_id: str) -> dict[str, Any]:
    """Prompts, passages, verdicts and control as one JSON object."""
    decided = {(meta.control_offset, meta.stage) for event in events if (meta := event.first.meta) and meta.stage}
    return {
        "prompts": [_prompt(name, background) for name in prompts_used(events)],
        "index_versions": list(dict.fromkeys(one.index_version for one in _groundings(events) if one.index_version)),
        "embedding_models": list(
            dict.fromkeys(one.embedding_model for one in _groundings(events) if one.embedding_model)
        ),
        "passages": _shown(events, background),
        "verdicts": _verdicts(events),
        "routing": _routing(events),
        "control": moments(background.history, decided, cancelled=f"{tenant}/{request_id}"),
        "erasures": list(background.erasures),
        "control_now": background.history[-1].offset if background.history else -1,
    }


def current_of(name: str, history: Sequence[Change]) -> str:
    """The version of a prompt that is live now; 1 where none was made live."""
    last = history[-1].offset if history else -1
    change = live_at(history, last).get(("prompt", name))
    return change.record.version if change else "1"


def _prompt(reference: str, background: Background) -> dict[str, Any]:
    name = reference.partition("@")[0]
    current = f"{name}@{current_of(name, background.history)}"
    used, now = background.prompts.get(reference), background.prompts.get(current)
    diff = None
    if used is not None and now is not None and reference != current:
        diff = "\n".join(
            difflib.unified_diff(used.text.splitlines(), now.text.splitlines(), reference, current, lineterm="")
        )
    return {
        "prompt": reference,
        "digest": used.digest if used else None,
        "text": used.text if used else None,
        "current": current,
        "is_current": reference == current,
        # From the one that was used to the current one; null where they are the same one, or one is not stored.
        "diff": diff,
    }


def _groundings(events: Iterable[Event]) -> Iterable[Grounding]:
    for event in events:
        record = event.first.record
        if isinstance(record, Enrichment | Completion):
            yield record.grounding


def _passages(events: Iterable[Event]) -> Iterable[tuple[Event, Passage]]:
    for event in events:
        record = event.first.record
        if isinstance(record, Enrichment | Completion):
            yield from ((event, passage) for passage in record.grounding.passages)
        elif isinstance(record, Answer):
            yield from ((event, passage) for passage in record.passages)


def _key(event: Event, passage: Passage) -> DocumentKey:
    meta = event.first.meta
    return (meta.tenant if meta else "", passage.namespace, passage.document_id)


def _shown(events: Sequence[Event], background: Background) -> list[dict[str, Any]]:
    """Each passage once, with its document as it was and as it is."""
    cited = {
        (one.passage_id, one.digest)
        for event in events
        if isinstance(event.first.record, Answer)
        for one in event.first.record.citations
    }
    shown: dict[tuple[str, str], dict[str, Any]] = {}
    for event, passage in _passages(events):
        if (passage.passage_id, passage.digest) in shown:
            continue
        now = background.documents.get(_key(event, passage))
        view = to_json(passage)
        view["cited"] = (passage.passage_id, passage.digest) in cited
        view["document_now"] = None if now is None else _now(now, passage)
        shown[passage.passage_id, passage.digest] = view
    return list(shown.values())


def _now(now: DocumentNow, passage: Passage) -> dict[str, Any]:
    return {
        "digest": now.digest,
        "index_version": now.index_version,
        "deleted": now.deleted,
        "indexed_at": now.indexed_at,
        "changed": now.deleted or now.digest != passage.document_digest,
    }


def _routing(events: Sequence[Event]) -> list[dict[str, Any]]:
    """What is said of the way to a model, for each completion that says anything.

    How hard the request was taken to be, whether its call was hedged, what was found about replies before a stronger
    model was asked, and which calls it was fanned out to.
    """
    return [
        {
            "event_id": event.event_id,
            "deployment": record.deployment,
            "complexity": None if record.complexity is None else to_json(record.complexity),
            "hedge": None if record.hedge is None else to_json(record.hedge),
            "cascade": None if record.cascade is None else to_json(record.cascade),
            "fan_out": None if record.fan_out is None else to_json(record.fan_out),
        }
        for event in events
        if isinstance(record := event.first.record, Completion)
        and (record.complexity or record.hedge or record.cascade or record.fan_out)
    ]


def _verdicts(events: Sequence[Event]) -> list[dict[str, Any]]:
    """What each guard found, with the event that first told it."""
    shown: dict[Verdict, dict[str, Any]] = {}
    for event in events:
        record = event.first.record
        if isinstance(record, Answer):
            verdicts = record.verdicts
        elif isinstance(record, Admitted | Enrichment | Completion):
            verdicts = record.admission.verdicts
        else:
            continue
        for verdict in verdicts:
            shown.setdefault(verdict, {**to_json(verdict), "event_id": event.event_id})
    return list(shown.values())
