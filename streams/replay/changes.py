"""``--set``: what a replay changes in the events it reads, or in how its stages work.

A prompt, a model, the index and the sampling parameters go by short names; every other plain field of the event goes
by its path (``admission.route``), which also supplies what an old event lacks. ``policy.NAME`` is the stage's own
policy.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from datetime import UTC, datetime
from types import UnionType
from typing import Any, get_args, get_type_hints

from schemas.errors import ConfigurationError
from schemas.record import Record
from schemas.records import Sampling
from streams.replay.where import nearest
from streams.stages import STAGES

PROMPT, POLICY, INDEX = "prompt", "policy.", "index"
# What ``enrich`` may search besides the index as of a time.
TODAY, RECORDED, RECORDED_OR_TODAY = "today", "recorded", "recorded-or-today"
_PROMPT = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]{0,99})@([0-9]{1,9})")
# Fields that say which event it is; changing one would change whose it is.
_FIXED = ("meta",)
# What an old event may lack and its stage can't do without.
NEEDED: Mapping[str, tuple[str, ...]] = {
    "enrich": ("admission.route",),
    "complete": ("admission.route", "grounding.messages"),
    "account": ("attempt_id", "state"),
}
# What no ``--set`` of its own supplies, and how a run comes to have it.
_RENDERED = "grounding.messages"
_MADE: Mapping[str, str] = {
    _RENDERED: (
        "begin a run that renders it anew: --stage enrich --through complete, or --stage complete --set prompt=NAME@N"
    ),
}
# What the filter's policy and the sampling of answers may be set to.
_POLICIES: Mapping[str, Mapping[str, type]] = {
    "filter": {"allow_truncated": bool},
    "evaluate": {"rate": float},
}


@dataclass(frozen=True, slots=True)
class PromptVersion:
    """A prompt by name and version."""

    name: str
    version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexChoice:
    """Which index is searched: as it was when each request was enriched (``recorded``), ``at`` a time, else today's.

    ``or_today``: today's for a request whose index of then is gone.
    """

    recorded: bool = False
    or_today: bool = False
    at: datetime | None = None

    @property
    def past(self) -> bool:
        """Whether it may be another than today's."""
        return self.recorded or self.at is not None


@dataclass(frozen=True, slots=True)
class Changes:
    """What ``--set`` asks for, understood for one stage."""

    prompt: PromptVersion | None
    policy: Mapping[str, Any]
    # Each puts one field of the record to its value.
    edits: tuple[Callable[[Any], Any], ...]
    index: IndexChoice = IndexChoice()

    def apply(self, record: Any) -> Any:
        """The event with its fields changed."""
        for edit in self.edits:
            record = edit(record)
        return record


def changes_for(
    stage: str, sets: Mapping[str, str], *, first: bool = True, fills: Mapping[str, str] | None = None
) -> Changes:
    """The changes that concern a stage; fields are changed in what the ``first`` stage reads alone.

    ``fills`` are for events that lack the field; what one has stays.
    Raises ``ConfigurationError`` that names the field, and the nearest one where it is unknown.
    """
    prompt, policy, edits = None, dict[str, Any](), []
    for name, value in sets.items():
        if name == PROMPT:
            # What was enriched in the run has its messages by it.
            prompt = _prompt(value) if stage == "enrich" or (stage == "complete" and first) else None
        elif name == INDEX:
            continue
        elif name.startswith(POLICY):
            known = _POLICIES.get(stage, {})
            if name.removeprefix(POLICY) in known:
                key = name.removeprefix(POLICY)
                policy[key] = _value(name, value, known[key])
        elif first:
            edits.append(_edit(stage, name, value))
    if first:
        edits += [_edit(stage, path, value, empty_only=True) for path, value in (fills or {}).items()]
    index = _index(sets[INDEX]) if stage == "enrich" and INDEX in sets else IndexChoice()
    return Changes(prompt, policy, tuple(edits), index)


def needed_path(stage: str, name: str) -> str | None:
    """The path of a field that the stage can't do without; ``None`` for a name of anything else."""
    path = aliases(STAGES[stage].inputs[0].record).get(name, name)
    return path if path in NEEDED.get(stage, ()) else None


def check_sets(stages: Iterable[str], sets: Mapping[str, str]) -> None:
    """Raise ``ConfigurationError`` for a change that none of the stages of a run would take."""
    names = tuple(stages)
    known = {key: kind for stage in names for key, kind in _POLICIES.get(stage, {}).items()}
    for name, value in sets.items():
        if name == PROMPT:
            _prompt(value)
            if not {"enrich", "complete"} & set(names):
                raise ConfigurationError(f"--set prompt: none of the stages {', '.join(names)} renders a prompt")
        elif name == INDEX:
            if "enrich" not in names:
                raise ConfigurationError(f"--set index: none of the stages {', '.join(names)} searches an index")
            _index(value)
        elif name.startswith(POLICY):
            key = name.removeprefix(POLICY)
            if key not in known:
                there_are = _there_are(key, known)
                raise ConfigurationError(f"--set {name}: {', '.join(names)} has no such policy; {there_are}")
            _value(name, value, known[key])
        else:
            _edit(names[0], name, value, policies=known)


def _there_are(key: str, known: Mapping[str, type]) -> str:
    return nearest(key, known) if known else "it has none"


def _prompt(value: str) -> PromptVersion:
    match = _PROMPT.fullmatch(value)
    if match is None:
        raise ConfigurationError(f"--set prompt={value}: write NAME@N, e.g. support@7; see headrace prompt list")
    return PromptVersion(match[1], int(match[2]))


def _index(value: str) -> IndexChoice:
    if value in (TODAY, RECORDED, RECORDED_OR_TODAY):
        return IndexChoice(recorded=value != TODAY, or_today=value == RECORDED_OR_TODAY)
    try:
        at = datetime.fromisoformat(value)
    except ValueError:
        raise ConfigurationError(
            f"--set index={value[:100]}: write {TODAY}, {RECORDED}, {RECORDED_OR_TODAY}, or a time such as "
            "2026-05-01T10:00 (UTC)"
        ) from None
    return IndexChoice(at=at if at.tzinfo else at.replace(tzinfo=UTC))


def aliases(record: type[Record]) -> dict[str, str]:
    """Short names of an event's fields."""
    asked = "request." if "request" in {one.name for one in fields(record)} else ""  # type: ignore[arg-type]
    if not asked:
        return {}
    return {"model": "request.model", "route": "admission.route"} | {
        one.name: f"request.sampling.{one.name}" for one in fields(Sampling)
    }


def _edit(
    stage: str, name: str, value: str, *, empty_only: bool = False, policies: Iterable[str] = ()
) -> Callable[[Any], Any]:
    record = STAGES[stage].inputs[0].record
    path = aliases(record).get(name, name)
    kind = _kind(record, path.split("."))
    if kind is None:
        raise ConfigurationError(
            f"--set {name}: {record.__name__} has no such plain field; {_near(record, name, policies)}"
        )
    parsed = _value(name, value, kind)
    edit = _setter(path.split("."), parsed)
    return (lambda record: edit(record) if _empty(record, path) else record) if empty_only else edit


def _empty(record: Any, path: str) -> bool:
    for name in path.split("."):
        record = getattr(record, name, None)
    return record in (None, "", ())


def _near(record: type[Record], name: str, policies: Iterable[str]) -> str:
    known = [*aliases(record), PROMPT, INDEX, *(f"{POLICY}{one}" for one in policies), *_plain_paths(record)]
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean {close[0]}?" if close else f"short names are {', '.join([*aliases(record), PROMPT])}"


def _plain_paths(record: type[Any], prefix: str = "") -> list[str]:
    found = []
    for name, hint in get_type_hints(record).items():
        kind = _inner(hint)
        if (name in _FIXED and not prefix) or name == "AVRO_NAME":
            continue
        if isinstance(kind, type) and is_dataclass(kind):
            found += _plain_paths(kind, f"{prefix}{name}.")
        elif kind in _PARSERS:
            found.append(f"{prefix}{name}")
    return found


def _kind(record: type[Any], path: list[str]) -> type | None:
    """The type of the plain field that a path leads to; ``None`` where it leads to none."""
    if path[0] in _FIXED:
        return None
    current: Any = record
    for name in path:
        if not (isinstance(current, type) and is_dataclass(current)):
            return None
        hints = get_type_hints(current)
        if name not in hints or name == "AVRO_NAME":
            return None
        current = _inner(hints[name])
    return current if current in _PARSERS else None


def is_text(stage: str, name: str) -> bool:
    """Whether a name of ``--set`` is a field of a stage's events that holds text, whatever the text looks like."""
    record = STAGES[stage].inputs[0].record
    return _kind(record, aliases(record).get(name, name).split(".")) is str


def _inner(hint: Any) -> Any:
    if isinstance(hint, UnionType):
        return next(one for one in get_args(hint) if one is not type(None))
    return hint


def _setter(path: list[str], value: Any) -> Callable[[Any], Any]:
    name, *rest = path
    if not rest:
        return lambda record: replace(record, **{name: value})
    inner = _setter(rest, value)
    return lambda record: replace(record, **{name: inner(getattr(record, name))})


def _value(name: str, text: str, kind: type) -> Any:
    try:
        return _PARSERS[kind](text)
    except ValueError:
        raise ConfigurationError(f"--set {name}: {text[:100]!r} is no {_KINDS[kind]}") from None


def _bool(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError(text)
    return text.lower() == "true"


_PARSERS: Mapping[Any, Callable[[str], Any]] = {str: str, int: int, float: float, bool: _bool}
_KINDS: Mapping[Any, str] = {int: "whole number", float: "number", bool: "true or false", str: "text"}


def lacking(stage: str, record: Any, prompt: PromptVersion | None = None) -> str | None:
    """The first field that the stage needs and the event does not have, nor gets by being rendered with ``prompt``."""
    needed = (path for path in NEEDED.get(stage, ()) if prompt is None or path != _RENDERED)
    return next((path for path in needed if _empty(record, path)), None)


def remedy(path: str) -> str:
    """How a field that a stage needs is supplied, in words for whoever began the run."""
    return _MADE.get(path, f"supply it with --set {path}=…")
