"""What a user said of an answer: is it sound, what does it say, and what score is it."""

from __future__ import annotations

import hashlib

import orjson

from processors.evaluate.scores import scored, unscored
from schemas.errors import PoisonError
from schemas.json_view import to_json
from schemas.records import Feedback, Score, Text

WORST, BEST = 1, 5
RATING = ("user_rating", "user-feedback", "1")
# A key that Postgres can index.
_LONGEST = 400
_MOST_LABELS = 64


def check_feedback(feedback: Feedback, lane: str) -> None:
    """Raise ``PoisonError`` that names the field for feedback that can't be taken. No message holds a value."""
    meta = feedback.meta
    for field, value in (("event_id", meta.event_id), ("request_id", meta.request_id), ("tenant", meta.tenant)):
        if not value or len(value) > _LONGEST or not value.isprintable():
            raise PoisonError(f"feedback.meta.{field}: 1 to {_LONGEST} printable characters are needed")
    if meta.lane != lane:
        raise PoisonError(f"feedback.meta.lane: the record lies in the lane {lane}; name that one")
    if meta.run:
        raise PoisonError("feedback.meta.run: only a replay's own stages set it; leave it out")
    if feedback.rating is not None and not WORST <= feedback.rating <= BEST:
        raise PoisonError(f"feedback.rating: it must be {WORST} to {BEST}")
    for field, text in (("comment", feedback.comment), ("correction", feedback.correction)):
        if text is not None and sum(form is not None for form in (text.inline, text.ref, text.sealed)) != 1:
            raise PoisonError(f"feedback.{field}: exactly one of inline, ref and sealed must be set")
    if feedback.answer_event_id is not None and not 0 < len(feedback.answer_event_id) <= _LONGEST:
        raise PoisonError(f"feedback.answer_event_id: 1 to {_LONGEST} characters, or null for the latest answer")
    if len(feedback.labels) > _MOST_LABELS:
        raise PoisonError(f"feedback.labels: {_MOST_LABELS} at most")
    if feedback.rating is None and not _says(feedback.comment, feedback.correction) and not feedback.labels:
        raise PoisonError("feedback: it holds no rating, comment, correction or label; give one of them")


def digest_of(feedback: Feedback) -> str:
    """sha256 of all that it says, as hex; who wrote the record, and when, is not a part of it."""
    said = {name: value for name, value in to_json(feedback).items() if name != "meta"}
    said["request_id"] = feedback.meta.request_id
    return hashlib.sha256(orjson.dumps(said, option=orjson.OPT_SORT_KEYS)).hexdigest()


def rating_score(feedback: Feedback) -> Score:
    """The rating as a score from 0 (rated 1) to 1 (rated 5). The user's words stay in the feedback."""
    besides = [name for name in ("comment", "correction") if getattr(feedback, name) is not None]
    more = f"; with a {' and a '.join(besides)}" if besides else ""
    if feedback.rating is None:
        return unscored(*RATING, "no_rating", f"no rating was given{more}")
    value = (feedback.rating - WORST) / (BEST - WORST)
    return scored(*RATING, value, f"rated {feedback.rating} of {BEST}{more}")


def _says(*texts: Text | None) -> bool:
    return any(text is not None and text.inline != "" for text in texts)
