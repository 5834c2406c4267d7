"""What a replay takes: ``tenant = acme and (status != answered or score.groundedness < 0.5)``.

The grammar is read by lark; an expression is compiled to closures over a ``Subject`` and nothing of it is evaluated as
code. A comparison with what an event does not have is false; only ``!=`` and ``not in`` are true then.
"""

from __future__ import annotations

import difflib
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Any

import re2
from lark import Lark, Token, Transformer, v_args
from lark.exceptions import LarkError, UnexpectedInput, UnexpectedToken, VisitError

from schemas.errors import ConfigurationError

LONGEST = 4_000
_GRAMMAR = r"""
    ?start: either
    ?either: both ("or"i both)*      -> either
    ?both: negated ("and"i negated)* -> both
    ?negated: "not"i negated         -> negated
        | "(" either ")"
        | comparison
    comparison: field OP value                      -> compare
        | field "in"i "(" value ("," value)* ")"    -> one_of
        | field "not"i "in"i "(" value ("," value)* ")" -> none_of
    field: NAME | NAME "." KEY | NAME "[" STRING "]"
    value: STRING | WORD
    OP: "!=" | "<=" | ">=" | "==" | "=" | "<" | ">" | "!~" | "~"
    NAME: /[A-Za-z_][A-Za-z0-9_]*/
    KEY: /[A-Za-z0-9_][A-Za-z0-9_-]*/
    STRING: /"(\\.|[^"\\])*"/ | /'(\\.|[^'\\])*'/
    WORD: /[A-Za-z0-9_@.+\/*-][A-Za-z0-9_@.:+\/*-]*/
    %ignore /\s+/
"""
_ORDER: Mapping[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What an expression looks at. ``status`` and ``scores`` are what became of the request in the source lane."""

    record: Any
    meta: Any
    time: datetime
    headers: Mapping[str, str] = field(default_factory=dict)
    status: str | None = None
    scores: Mapping[str, float] = field(default_factory=dict)


Test = Callable[[Subject], bool]
Get = Callable[[Subject], Any]


def _asked(name: str) -> Get:
    """A label of the request: on the event itself (an answer, a cost), or on the request that it carries."""

    def get(subject: Subject) -> Any:
        found = getattr(subject.record, name, None)
        return found if found is not None else getattr(getattr(subject.record, "request", None), name, None)

    return get


def _of(*ways: str) -> Get:
    """The first of these paths that leads to something."""
    paths = [way.split(".") for way in ways]

    def get(subject: Subject) -> Any:
        for path in paths:
            found: Any = subject.record
            for name in path:
                found = getattr(found, name, None)
            if found not in (None, ""):
                return found
        return None

    return get


# Text fields by name, with what each says in the documentation.
FIELDS: Mapping[str, tuple[Get, str]] = {
    "tenant": (lambda s: s.meta.tenant, "tenant that owns the event"),
    "request_id": (lambda s: s.meta.request_id, "request it belongs to"),
    "stage": (lambda s: s.meta.stage, "stage that wrote it"),
    "feature": (_asked("feature"), "product feature that asked"),
    "team": (_asked("team"), "team that pays"),
    "user": (_asked("user"), "user on whose behalf it was asked"),
    "session": (_asked("session"), "conversation"),
    "route": (_of("route", "admission.route", "request.route"), "route it took"),
    "priority": (_of("priority", "admission.priority", "request.priority"), "high, normal or low"),
    "tier": (_of("tier", "admission.tier"), "tenant's tier"),
    "arm": (_of("arm", "admission.arm"), "arm of an experiment"),
    "model": (_of("model", "request.model"), "model that answered, or that was asked for"),
    "requested_model": (_of("request.model"), "model that the request names, if it names one"),
    "deployment": (_of("deployment"), "deployment that answered"),
    "provider": (_of("provider"), "its provider"),
    "prompt": (_of("prompt_version", "grounding.prompt_version"), "prompt's version, as name@n"),
    "index": (_of("index_version", "grounding.index_version"), "index version that was searched"),
    "finish_reason": (_of("finish_reason"), "why generation ended"),
    "served_by": (_of("served_by"), "model, cache-exact, cache-semantic, journal, template"),
    "status": (lambda s: s.status, "status of the request's final answer in the source lane"),
}
NUMBERS: Mapping[str, tuple[Get, str]] = {
    "cost": (_of("cost_usd", "amount_usd"), "US dollars"),
    "prompt_tokens": (_of("usage.prompt_tokens"), "tokens sent"),
    "completion_tokens": (_of("usage.completion_tokens"), "tokens generated"),
}
TIMES: Mapping[str, tuple[Get, str]] = {
    "time": (lambda s: s.time, "when the broker appended the event (UTC)"),
    "accepted_at": (lambda s: s.meta.accepted_at, "when the broker accepted the request (UTC)"),
}
KEYED: Mapping[str, tuple[Callable[[str], Get], str]] = {
    "header": (lambda key: lambda s: s.headers.get(key), "a Kafka header, as text"),
    "metadata": (lambda key: lambda s: (_asked("metadata")(s) or {}).get(key), "a label of the producer's"),
    "score": (lambda key: lambda s: s.scores.get(key), "a score of the request's answer in the source lane, 0 to 1"),
}
NAMES = (*FIELDS, *NUMBERS, *TIMES, *KEYED)
# Known once a model has answered. Until then ``model`` could only be the one that was asked for, if it was named.
_ANSWERED = frozenset({"model", "deployment", "provider", "finish_reason", "served_by", *NUMBERS})
# What no event that a stage reads has, whatever is in it.
LACKING: Mapping[str, frozenset[str]] = {
    "enrich": _ANSWERED | {"prompt", "index"},
    "complete": _ANSWERED,
    "filter": frozenset(),
    "evaluate": frozenset({"requested_model"}),
    "account": frozenset({"requested_model", "priority", "index", "finish_reason", "metadata"}),
}
_INSTEAD = {
    "model": "requested_model is the model that a request names",
    "requested_model": "model is the model that answered",
}


@dataclass(frozen=True, slots=True)
class Where:
    """An expression that was understood. ``needs``: status and score, which are read from the database; ``names`` are
    the fields that it compares, without the names behind a dot."""

    text: str
    test: Test
    needs: frozenset[str] = frozenset()
    names: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class _Field:
    name: str
    get: Get
    kind: str


def parse(text: str) -> Where:
    """The expression. Raises ``ConfigurationError`` that names the place, or the field and the nearest one."""
    if len(text) > LONGEST:
        raise ConfigurationError(f"--where has {len(text)} characters; at most {LONGEST} are read")
    compiler = _Compiler()
    try:
        test = compiler.transform(_PARSER.parse(text))
    except VisitError as error:
        if isinstance(error.orig_exc, ConfigurationError):
            raise error.orig_exc from None
        raise
    except UnexpectedInput as error:
        raise ConfigurationError(_misread(text, error)) from None
    except (LarkError, RecursionError) as error:
        raise ConfigurationError(f"--where can't be read ({type(error).__name__}); see docs/replay.md") from None
    return Where(text, test, frozenset(compiler.needs), frozenset(compiler.names))


def check_fields(where: Where, stage: str) -> None:
    """Raise ``ConfigurationError`` for a field that no event has which the stage reads."""
    for name in sorted(where.names & LACKING[stage]):
        knows = ", ".join(other for other, lacks in LACKING.items() if name not in lacks)
        instead = f"{_INSTEAD[name]}; " if name in _INSTEAD else ""
        raise ConfigurationError(
            f"--where: no event that {stage} reads has {name}; {instead}"
            f"{name} is known to --stage {knows}, and --ids names requests themselves"
        )


def _misread(text: str, error: UnexpectedInput) -> str:
    place = int(error.pos_in_stream or 0)
    ended = isinstance(error, UnexpectedToken) and error.token.type == "$END"
    if ended or not 0 <= place < len(text):
        return "--where ends too early: a comparison is FIELD = VALUE, e.g. tenant = acme and status != answered"
    return (
        f"--where, character {place + 1}, at {text[place : place + 20]!r}: expected FIELD = VALUE, joined by and, or, "
        "not; texts with blanks go in quotes"
    )


@v_args(inline=True)
class _Compiler(Transformer[Token, Test]):
    """From a tree to closures."""

    def __init__(self) -> None:
        super().__init__()
        self.needs: set[str] = set()
        self.names: set[str] = set()

    def either(self, *tests: Test) -> Test:
        return tests[0] if len(tests) == 1 else lambda subject: any(test(subject) for test in tests)

    def both(self, *tests: Test) -> Test:
        return tests[0] if len(tests) == 1 else lambda subject: all(test(subject) for test in tests)

    def negated(self, test: Test) -> Test:
        return lambda subject: not test(subject)

    def value(self, token: Token) -> str:
        if token.type == "STRING":
            return str(re2.sub(r"\\(.)", r"\1", str(token)[1:-1]))
        return str(token)

    def field(self, name: Token, key: Token | None = None) -> _Field:
        plain = str(name)
        self.names.add(plain)
        if plain in ("status", "score"):
            self.needs.add(plain)
        if key is not None:
            if plain not in KEYED:
                raise _unknown(plain, f"{plain}.{key}", KEYED)
            text = self.value(key) if key.type == "STRING" else str(key)
            return _Field(f"{plain}.{text}", KEYED[plain][0](text), "number" if plain == "score" else "text")
        for kind, known in (("text", FIELDS), ("number", NUMBERS), ("time", TIMES)):
            if plain in known:
                return _Field(plain, known[plain][0], kind)
        if plain in KEYED:
            raise ConfigurationError(f"--where: {plain} needs a name, e.g. {plain}.NAME")
        raise _unknown(plain, plain, NAMES)

    def compare(self, one: _Field, sign: Token, text: str) -> Test:
        get, sign_ = one.get, str(sign)
        if sign_ in ("~", "!~"):
            return _matching(one, text, wanted=sign_ == "~")
        wanted = _typed(one, text)
        if sign_ in ("=", "=="):
            return lambda subject: bool(get(subject) == wanted)
        if sign_ == "!=":
            return lambda subject: bool(get(subject) != wanted)
        if one.kind == "text":
            raise ConfigurationError(f"--where: {one.name} is a text; compare it by =, !=, in or ~, not by {sign_}")
        compare = _ORDER[sign_]

        def ordered(subject: Subject) -> bool:
            found = get(subject)
            return found is not None and compare(found, wanted)

        return ordered

    def one_of(self, one: _Field, *texts: str) -> Test:
        get, wanted = one.get, frozenset(_typed(one, text) for text in texts)
        return lambda subject: get(subject) in wanted

    def none_of(self, one: _Field, *texts: str) -> Test:
        get, wanted = one.get, frozenset(_typed(one, text) for text in texts)
        return lambda subject: get(subject) not in wanted


def _matching(one: _Field, text: str, *, wanted: bool) -> Test:
    if one.kind != "text":
        raise ConfigurationError(f"--where: {one.name} is no text, so ~ has nothing to look in")
    options = re2.Options()
    # It would write to stderr what is raised here.
    options.log_errors = False
    try:
        # Linear in the text, whatever the expression.
        pattern = re2.compile(text, options)
    except re2.error as error:
        raise ConfigurationError(f"--where: {text!r} is no regular expression ({error})") from None
    get = one.get

    def search(subject: Subject) -> bool:
        found = get(subject)
        return (isinstance(found, str) and pattern.search(found) is not None) == wanted

    return search


def _typed(one: _Field, text: str) -> Any:
    if one.kind == "number":
        try:
            number = Decimal(text)
        except InvalidOperation:
            raise ConfigurationError(f"--where: {one.name} is a number, and {text!r} is none") from None
        if not number.is_finite():
            raise ConfigurationError(f"--where: {one.name} is a number, and {text!r} is none")
        # As the event has it: 0.7 as a float is not 0.7 as a decimal.
        return float(number) if one.name.startswith("score.") else number
    if one.kind == "time":
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            raise ConfigurationError(
                f"--where: {one.name} is a time such as 2026-05-01T10:00, and {text!r} is none"
            ) from None
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    return text


def nearest(name: str, known: Any) -> str:
    """`` Did you mean …?`` for a name that is close to a known one, else which there are."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"did you mean {close[0]}?" if close else f"there are {', '.join(known)}"


def _unknown(name: str, shown: str, known: Any) -> ConfigurationError:
    return ConfigurationError(f"--where: there is no field {shown!r}; {nearest(name, known)}")


_PARSER = Lark(_GRAMMAR, parser="lalr", lexer="contextual", maybe_placeholders=False)
