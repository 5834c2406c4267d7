"""What verifying may find."""

from __future__ import annotations

from dataclasses import dataclass

# Every kind of finding, and what it means.
KINDS = {
    "no_answer": "a request has no final answer, and is old enough to have one",
    "several_answers": "a request has more than one final answer of a revision",
    "answer_without_request": "an answer is to a request that is not on its topic",
    "supersedes_unknown": "a later revision names an answer to replace that was never given",
    "final_differs": "the answer on the topic is not the one that the database has as final, by id or by what it says",
    "answer_not_final": "an answer is on the topic, and the database never had it as final",
    "final_unpublished": "an answer is final in the database, and not on its topic",
    "cause_missing": "an event's cause is not on any topic",
    "id_wrong": "an event's id is not the one that follows from its cause: our stages did not write it",
    "copies_differ": "two copies of an event have different bytes",
    "input_drift": "an enrichment came again with other content; listed, and no fault: the first one paid for counts",
    "undecodable_without_letter": "a record can not be read, and no dead letter tells so",
    "offset_gap": "offsets are missing inside a partition that only stages write to",
    "filter_differs": "the filter makes another answer of the recorded completion than the recorded one",
    "scores_differ": "a score by rule is not the one that its scorer makes of the recorded answer",
    "costs": "the books do not agree; see `headrace costs reconcile`",
    "record_altered": "a record is not what it was when it was sealed",
    "record_missing": "a sealed record is gone before its time, and no tombstone tells of it",
    "record_added": "a record stands where there was none when its stretch was sealed",
    "gone_unsealed": "records went before they were sealed; nothing can be proved of them",
    "seal_broken": "a seal does not follow from the one before it: the table of seals was altered",
    "seal_differs": "a seal is not the one that was exported",
    "log_restarted": "a partition ends before what was sealed of it: the topic was made again",
}
# Listed, and no fault.
TOLERATED = ("input_drift",)


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """Something that is off. ``place`` is ``<topic>-<partition>@<offset>`` where it is about a record; no texts."""

    kind: str
    tenant: str = ""
    request_id: str = ""
    place: str = ""
    detail: str = ""
