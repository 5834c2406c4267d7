"""One reply out of several: the one that most agree on, the best by a score, or all of them joined. Pure."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from processors.complete.policies import FanOutPolicy
from processors.filter.json_text import parse
from processors.filter.tokens import strip_tokens
from schemas.records import Completion

_MARK = re.compile(r"\[\d+(?:\s*,\s*\d+)*\]")
_SPACE = re.compile(r"\s+")
_EDGES = " \t\"'`*_.,;:!?…“”‘’()"


@dataclass(frozen=True, slots=True)
class Reply:
    """An answered sample. ``score`` is None where it has none."""

    number: int
    completion: Completion
    score: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """What answers: ``replies`` are used, in order, and ``text`` replaces theirs where they were joined.

    ``groups``: by sample, the number of the first sample that voted the same. ``agreement``: the share of the answered
    samples that voted for it.
    """

    replies: tuple[Reply, ...]
    text: str | None = None
    groups: dict[int, int]
    agreement: float | None = None


def aggregate(policy: FanOutPolicy, replies: Sequence[Reply]) -> Chosen:
    """What answers, out of at least one reply. Ties go to the sample with the lower number.

    A reply that declines or was withheld, that is empty, or that was cut off at its limit counts only where there is no
    other; texts that were cut off are joined with the others where those alone are fewer than the policy needs.
    """
    given = [one for one in replies if not _declines(one.completion)] or list(replies)
    usable = [one for one in given if _says(one.completion)] or given
    whole = [one for one in usable if not _cut(one.completion)] or usable
    if policy.aggregate == "vote":
        return _vote(policy, whole, answered=len(replies))
    if policy.aggregate == "best":
        return Chosen(replies=(max(whole, key=_rank),), groups={})
    texts = _texts(whole)
    if len(texts) < policy.needed:
        texts = _texts(usable)
    if not texts:
        return Chosen(replies=(usable[0],), groups={})
    parts = [text for _, text in texts]
    text = orjson.dumps(parts).decode() if policy.as_json else policy.separator.join(parts)
    return Chosen(replies=tuple(one for one, _ in texts), text=text, groups={})


def _vote(policy: FanOutPolicy, usable: Sequence[Reply], *, answered: int) -> Chosen:
    votes: dict[str, list[Reply]] = {}
    for one in usable:
        vote = vote_of(one.completion, policy.field)
        if vote is not None:
            votes.setdefault(vote, []).append(one)
    if not votes:
        return Chosen(replies=(usable[0],), groups={})
    # The first of equals, because they are in the order of their first samples.
    most = max(votes.values(), key=len)
    groups = {one.number: same[0].number for same in votes.values() for one in same}
    return Chosen(replies=(most[0],), groups=groups, agreement=len(most) / answered)


def vote_of(completion: Completion, field: str | None = None) -> str | None:
    """What a reply votes for; two that vote the same say the same. ``None``: it has no vote.

    JSON votes by its value, or by that of ``field``; tool calls by what they call and with what; a text by its words,
    without case, marks of citations and what surrounds it.
    """
    if completion.tool_calls_json is not None:
        return "calls " + _calls(completion.tool_calls_json.inline or "")
    text = strip_tokens(_text(completion)).text
    if field is not None or completion.request.response_format.type != "text":
        try:
            value = parse(text)
            for name in field.split(".") if field is not None else ():
                value = value[int(name)] if isinstance(value, list) else value[name]
        except (ValueError, KeyError, IndexError, TypeError, RecursionError):
            return None
        return _canonical(value)
    said = _MARK.sub("", unicodedata.normalize("NFKC", text)).casefold()
    return _SPACE.sub(" ", said).strip(_EDGES) or None


def _rank(reply: Reply) -> tuple[bool, float, int]:
    return reply.score is not None, reply.score or 0.0, -reply.number


def _declines(completion: Completion) -> bool:
    return completion.refusal is not None or completion.finish_reason == "content_filter"


def _cut(completion: Completion) -> bool:
    return completion.finish_reason == "length"


def _says(completion: Completion) -> bool:
    return completion.tool_calls_json is not None or bool(_plain(completion))


def _texts(replies: Sequence[Reply]) -> list[tuple[Reply, str]]:
    """What can be joined."""
    return [
        (one, _plain(one.completion))
        for one in replies
        if one.completion.tool_calls_json is None and _plain(one.completion)
    ]


def _plain(completion: Completion) -> str:
    return strip_tokens(_text(completion)).text.strip()


def _text(completion: Completion) -> str:
    return "" if completion.text is None else completion.text.inline or ""


def _calls(raw: str) -> str:
    """What is called, without the ids that a provider gives to calls."""
    try:
        calls = [call["function"] for call in parse(raw)]
        return _canonical([{"name": call["name"], "arguments": _arguments(call["arguments"])} for call in calls])
    except (ValueError, KeyError, TypeError, RecursionError):
        return raw


def _arguments(raw: Any) -> Any:
    try:
        return parse(raw) if isinstance(raw, str) else raw
    except (ValueError, RecursionError):
        return raw


def _canonical(value: Any) -> str:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()
