"""The stage filter: from a completion to an answer that a consumer may see."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from processors.answers import failure_of, final_answer, known_fields
from processors.clock import Clock
from processors.complete.streaming import buffered
from processors.event import Incoming, Output
from processors.filter.citations import Cited, citation, cite
from processors.filter.cleaning import MASKS, SPECIAL, clean
from processors.filter.finding import Finding
from processors.filter.formats import check_format
from processors.filter.json_text import clean_json, parse
from processors.filter.logprobs import shown
from processors.filter.logprobs import verdict as held_back
from processors.filter.policy import FilterPolicy
from processors.filter.several import models_behind
from processors.filter.stream import buffered_chunks, public_text
from processors.filter.tokens import strip_tokens
from processors.text import inline
from schemas.errors import RefusedError
from schemas.records import Answer, Citation, Completion, Span, Text, Verdict

STAGE = "filter"
VERSION = "1"
# A verdict counts everything and shows the first of it, so that an answer stays an event of bounded size.
_SPANS_SHOWN = 100


class Filter:
    """Checks and cleans a completion, and writes the answer.

    A verdict for every guard says what it found and did, by kind and count, with spans of the text as the model wrote
    it and never the values. Passages are carried as they are: they are the tenant's own documents under their digests.

    Citations are the passages that the text marks. A mark that names no passage stays in the text, is in no citation,
    and is counted in the verdict of the guard ``citations``. When the text marks none, every passage that the model
    was shown is cited without a place, so that a consumer can always show what an answer rests on.
    """

    def __init__(self, *, policy: FilterPolicy, clock: Clock) -> None:
        self._policy = policy
        self._clock = clock

    async def __call__(self, incoming: Incoming[Completion]) -> Sequence[Output]:
        """One ``Answer``: answered, blocked, failed or expired; with its chunks where they were wanted and the text
        did not go through a stream. Waits for nothing.
        """
        answer = self._answer(incoming)
        chunks = buffered_chunks(incoming, answer) if buffered(incoming.record) else ()
        return [*chunks, answer]

    def _answer(self, incoming: Incoming[Completion]) -> Answer:
        completion, verdicts = incoming.record, list[Verdict]()
        try:
            self._check_age(completion, verdicts)
            _check_allowed(completion)
            self._check_whole(completion, verdicts)
            return self._answered(incoming, verdicts)
        except RefusedError as refusal:
            verdicts.append(_verdict(_guard(refusal), _outcome(refusal), category=refusal.code))
            return self._refused(incoming, refusal, verdicts)

    def _check_age(self, completion: Completion, verdicts: list[Verdict]) -> None:
        expires_at = completion.admission.expires_at
        if expires_at is None or self._clock.now() < expires_at:
            return
        if self._policy.late == "expire":
            raise RefusedError("expired", "ttl_ms: the answer was ready too late", field="ttl_ms", status="expired")
        verdicts.append(_verdict("ttl", "pass", category="late", detail="ready after the time to live; delivered"))

    def _check_whole(self, completion: Completion, verdicts: list[Verdict]) -> None:
        """Refuse an empty text and one that was cut off."""
        text = strip_tokens(inline(completion.text)).text if completion.text is not None else ""
        if completion.finish_reason == "length":
            if not self._policy.allow_truncated or completion.request.response_format.type != "text":
                message = "sampling.max_tokens: the text was cut off at its token limit; raise it"
                raise RefusedError("output_truncated", message, field="sampling.max_tokens", status="failed")
            verdicts.append(_verdict("whole", "pass", category="truncated", detail="cut off at its token limit"))
        if not text.strip() and completion.tool_calls_json is None:
            raise RefusedError("empty_output", "the model wrote nothing", status="failed")

    def _answered(self, incoming: Incoming[Completion], verdicts: list[Verdict]) -> Answer:
        completion, regions = incoming.record, self._policy.phone_regions
        wanted = completion.request.response_format
        json = wanted.type != "text"
        findings: list[Finding] = []
        text = calls = None
        cited = Cited(())
        if completion.text is not None and (completion.text.inline or completion.tool_calls_json is None):
            raw = inline(completion.text)
            check_format(raw, wanted)
            cleaned = clean_json(raw, regions) if json else clean(raw, regions)
            findings += cleaned.findings
            text = Text(inline=cleaned.text)
            cited = cite(cleaned.text, completion.grounding.passages, json=json)
        if completion.tool_calls_json is not None:
            calls, found = self._calls(inline(completion.tool_calls_json, "tool_calls_json"))
            findings += found
        if json and text is not None:
            verdicts.append(_form(completion))
        logprobs = shown(completion.logprobs_json, (text.inline or "") if text is not None else "", regions)
        verdicts += models_behind(completion)
        verdicts += held_back(completion.logprobs_json, logprobs, version=VERSION, stage=STAGE)
        verdicts += _found(findings)
        if completion.streamed:
            verdicts.append(self._agreement(completion, text))
        citations = self._citations(completion, cited, verdicts) if text is not None else ()
        known = known_fields(incoming)
        known["verdicts"] = (*known["verdicts"], *verdicts)
        known["policy_version"] = self._policy.version
        return Answer(
            meta=incoming.child(STAGE, VERSION),
            status="answered",
            text=text,
            tool_calls_json=calls,
            logprobs_json=logprobs,
            citations=citations,
            decided_at=self._clock.now(),
            **known,
        )

    def _agreement(self, completion: Completion, text: Text | None) -> Verdict:
        """Whether what the release cuts, joined, is the answer."""
        shown = (text.inline or "") if text is not None else ""
        if public_text(completion, self._policy.phone_regions) == shown:
            return _verdict("stream", "pass")
        detail = "the joined chunks are not this text; the answer counts"
        return _verdict("stream", "changed", category="differs", detail=detail)

    def _calls(self, raw: str) -> tuple[Text, tuple[Finding, ...]]:
        try:
            if not isinstance(parse(strip_tokens(raw).text), list):
                raise ValueError
            cleaned = clean_json(raw, self._policy.phone_regions)
        except (ValueError, RecursionError):
            raise RefusedError("invalid_json", "the model's tool calls are no JSON array", status="failed") from None
        return Text(inline=cleaned.text), cleaned.findings

    def _citations(self, completion: Completion, cited: Cited, verdicts: list[Verdict]) -> tuple[Citation, ...]:
        passages = completion.grounding.passages
        if not passages and not cited.unknown:
            return ()
        if cited.unknown:
            detail = "marks that name no passage were not taken as citations"
            verdicts.append(
                _verdict("citations", "changed", category="unknown_mark", count=cited.unknown, detail=detail)
            )
        if cited.citations:
            return cited.citations
        verdicts.append(_verdict("citations", "pass", category="no_mark", detail="the text marks no passage"))
        return tuple(citation(passage) for passage in passages) if self._policy.cite_shown else ()

    def _refused(self, incoming: Incoming[Completion], refusal: RefusedError, verdicts: Sequence[Verdict]) -> Answer:
        answer = final_answer(
            incoming,
            stage=STAGE,
            stage_version=VERSION,
            status=refusal.status,
            failure=failure_of(refusal),
            now=self._clock.now(),
            verdicts=verdicts,
            policy_version=self._policy.version,
        )
        declined = incoming.record.refusal
        if declined is None or declined.inline is None:
            return answer
        return replace(answer, refusal=Text(inline=clean(declined.inline, self._policy.phone_regions).text))


def _check_allowed(completion: Completion) -> None:
    """Block what the provider held back or the model declined to write."""
    if completion.finish_reason == "content_filter":
        raise RefusedError("content_filter", "the provider's content filter held the text back", status="blocked")
    if completion.refusal is not None:
        raise RefusedError("model_refused", "the model declined to answer", status="blocked")


def _form(completion: Completion) -> Verdict:
    """That the text has the form that was wanted, and what it took until it had."""
    wanted, done = completion.request.response_format.type, completion.structured
    if done is None or done.outcome == "wrong":
        return _verdict("format", "pass", category=wanted)
    wrong = sum(step.outcome == "wrong" for step in done.steps)
    said = ["repaired"] if done.outcome == "repaired" else []
    said += [f"after {wrong} that did not have it"] if wrong else []
    outcome = "changed" if done.outcome == "repaired" else "pass"
    return _verdict("format", outcome, category=wanted, count=wrong, detail=", ".join(said) or None)


def _found(findings: Sequence[Finding]) -> list[Verdict]:
    """A verdict for special tokens and one for each kind of personal identifier; one that passes when there is none."""
    verdicts = []
    for kind in (SPECIAL, *MASKS):
        spans = [Span(kind=f.kind, start_char=f.start, end_char=f.end) for f in findings if f.kind == kind]
        if spans:
            guard = "special_tokens" if kind == SPECIAL else "personal_data"
            detail = "removed" if kind == SPECIAL else f"masked as {MASKS[kind]}"
            verdicts.append(_verdict(guard, "changed", category=kind, count=len(spans), spans=spans, detail=detail))
    guards = Counter(verdict.guard for verdict in verdicts)
    return verdicts + [_verdict(guard, "pass") for guard in ("special_tokens", "personal_data") if not guards[guard]]


def _verdict(
    guard: str,
    outcome: str,
    *,
    category: str | None = None,
    count: int = 0,
    spans: Sequence[Span] = (),
    detail: str | None = None,
) -> Verdict:
    return Verdict(
        guard=guard,
        version=VERSION,
        stage=STAGE,
        outcome=outcome,
        category=category,
        count=count,
        spans=tuple(spans[:_SPANS_SHOWN]),
        detail=detail,
    )


def _guard(refusal: RefusedError) -> str:
    guards = {"expired": "ttl", "output_truncated": "whole", "empty_output": "whole"}
    guards |= {"invalid_json": "format", "schema_mismatch": "format"}
    return guards.get(refusal.code, "provider")


def _outcome(refusal: RefusedError) -> str:
    return "blocked" if refusal.status == "blocked" else "failed"
