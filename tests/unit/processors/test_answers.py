"""Answers that end a request early know whatever their event knew."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from processors.answers import FINAL_ORDINAL, failure_of, final_answer
from processors.clock import FakeClock
from processors.event import Incoming
from processors.text import inline, question
from schemas.codec import Codec
from schemas.errors import (
    CrashLoopError,
    DependencyDownError,
    PermanentProviderError,
    PoisonError,
    RefusedError,
    TransientProviderError,
)
from schemas.ids import request_event_id
from schemas.records import (
    Admission,
    Admitted,
    Attempt,
    Completion,
    ContentPart,
    Document,
    Enrichment,
    Failure,
    Grounding,
    Message,
    Meta,
    Passage,
    Request,
    Text,
    Timing,
    Usage,
    Verdict,
)

META = Meta(event_id="cause", request_id="r", tenant="acme", lane="live", accepted_at=FakeClock().now())
REQUEST = Request(
    meta=META,
    query=Text(inline="Why?"),
    user="kim",
    team="care",
    session="s",
    feature="chat",
    metadata={"a": "b"},
    idempotency_key="k",
    route="fast",
)
ADMISSION = Admission(
    route="fast", tier="gold", priority="low", arm="b", verdicts=(Verdict(guard="g", outcome="pass"),)
)
GROUNDING = Grounding(
    question=Text(inline="Why, then?"),
    messages=(Message(role="user"),),
    passages=(Passage(passage_id="p", document_id="d", namespace="n", digest="0", score=1, text=Text(inline="x")),),
    prompt_version="p@1",
)
FAILURE = Failure(code="c", error_class="permanent", message="m")


def ended(record: Any, **options: Any) -> Any:
    incoming: Incoming[Any] = Incoming(
        record=record,
        meta=record.meta,
        raw=b"",
        appended_at=FakeClock().now(),
        control_offset=3,
        timings=(Timing(stage="admit"),),
    )
    answer = final_answer(
        incoming,
        **{
            "stage": "complete",
            "stage_version": "1",
            "status": "failed",
            "failure": FAILURE,
            "now": FakeClock().now(),
            **options,
        },
    )
    Codec.offline().encode(answer)
    return answer


def test_every_event_of_a_request_gives_what_it_knows() -> None:
    request = ended(REQUEST)
    admitted = ended(Admitted(meta=META, request=REQUEST, admission=ADMISSION))
    enrichment = ended(Enrichment(meta=META, request=REQUEST, admission=ADMISSION, grounding=GROUNDING))
    for answer in (request, admitted, enrichment):
        assert (answer.user, answer.team, answer.session, answer.feature) == ("kim", "care", "s", "chat")
        assert (answer.metadata, answer.idempotency_key, answer.route) == ({"a": "b"}, "k", "fast")
        assert (answer.status, answer.failure, answer.text) == ("failed", FAILURE, None)
        assert answer.timings == (Timing(stage="admit"),)
        assert answer.decided_at == FakeClock().now()
        assert answer.meta.control_offset == 3
    assert (request.tier, admitted.tier, admitted.priority, admitted.arm) == ("", "gold", "low", "b")
    assert (request.question, enrichment.question) == (Text(inline="Why?"), Text(inline="Why, then?"))
    assert (enrichment.passages, enrichment.messages) == (GROUNDING.passages, GROUNDING.messages)
    assert enrichment.prompt_version == "p@1"


def test_attempts_that_failed_are_paid_in_the_answer() -> None:
    record = Enrichment(meta=META, request=REQUEST, admission=ADMISSION, grounding=GROUNDING)
    attempts = (
        Attempt(attempt_id="0", state="failed", cost_usd=Decimal("0.1"), deployment="a", model="m"),
        Attempt(attempt_id="1", state="unknown", cost_usd=Decimal("0.2"), estimated=True, deployment="b", model="n"),
        Attempt(attempt_id="2", state="failed", deployment="b", model="n"),
    )
    answer = ended(record, attempts=attempts, verdicts=(Verdict(guard="h", outcome="failed"),))
    assert (answer.cost_usd, answer.estimated, answer.attempts) == (Decimal("0.3"), True, attempts)
    assert (answer.deployment, answer.model) == ("b", "n")
    assert [v.guard for v in answer.verdicts] == ["g", "h"]


def test_a_completion_that_is_refused_keeps_its_cost() -> None:
    record = Completion(
        meta=META,
        request=REQUEST,
        admission=ADMISSION,
        grounding=GROUNDING,
        text=Text(inline="unfiltered"),
        cost_usd=Decimal("0.1"),
        usage=Usage(prompt_tokens=5),
        attempts=(Attempt(attempt_id="0", state="done"),),
    )
    answer = ended(record)
    assert (answer.cost_usd, answer.usage.prompt_tokens, len(answer.attempts)) == (Decimal("0.1"), 5, 1)
    assert answer.text is None


def test_an_answer_that_ends_a_request_shares_no_id_with_the_stages_outputs() -> None:
    record = Admitted(meta=META, request=REQUEST, admission=ADMISSION)
    incoming = Incoming(record=record, meta=META, raw=b"", appended_at=FakeClock().now())
    ids = {incoming.child("complete", "1", ordinal).event_id for ordinal in range(100)}
    answer = ended(record)
    assert answer.meta.event_id not in ids
    assert answer.meta.event_id == incoming.child("complete", "1", FINAL_ORDINAL).event_id
    assert answer.meta.causation_id == "cause"


def test_the_answer_to_a_request_does_not_hang_on_its_producers_event_id() -> None:
    one, two = ended(REQUEST), ended(replace(REQUEST, meta=replace(META, event_id="other")))
    assert one.meta == two.meta
    assert one.meta.causation_id == request_event_id(tenant="acme", lane="live", request_id="r")


def test_what_belongs_to_no_request_can_not_be_answered() -> None:
    with pytest.raises(PoisonError, match="no request"):
        ended(Document(meta=META, document_id="d"))


def test_an_early_end_is_never_an_answered_one() -> None:
    with pytest.raises(ValueError, match="without a text"):
        ended(REQUEST, status="answered")


@pytest.mark.parametrize(
    ("error", "code", "error_class", "field", "retryable"),
    [
        (RefusedError("expired", "m", field="ttl_ms"), "expired", "policy", "ttl_ms", True),
        (RefusedError("invalid_request", "m", field="user"), "invalid_request", "policy", "user", False),
        (TransientProviderError("http_429", "m"), "http_429", "transient-provider", None, True),
        (PermanentProviderError("http_400", "m"), "http_400", "permanent", None, False),
        (CrashLoopError("m"), "crash_loop", "poison", None, False),
        (DependencyDownError("postgres", "m"), "dependency_down", "transient-infrastructure", None, True),
    ],
)
def test_an_error_says_how_a_request_failed(
    error: Any, code: str, error_class: str, field: str | None, retryable: bool
) -> None:
    failure = failure_of(error)
    assert (failure.code, failure.error_class, failure.field, failure.retryable) == (
        code,
        error_class,
        field,
        retryable,
    )
    assert failure.message == str(error)


def said(role: str, *texts: str) -> Message:
    return Message(role=role, content=tuple(ContentPart(type="text", text=Text(inline=text)) for text in texts))


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (Request(meta=META, query=Text(inline="q")), Text(inline="q")),
        (
            Request(meta=META, messages=(said("user", "a"), said("user", "b", "c"), said("tool", "d"))),
            Text(inline="b\nc"),
        ),
        (Request(meta=META, messages=(said("system", "a"),)), None),
        (Request(meta=META), None),
    ],
)
def test_the_question_is_the_query_or_the_last_thing_the_user_said(request_: Request, expected: Text | None) -> None:
    assert question(request_) == expected


@pytest.mark.parametrize(
    ("text", "field"),
    [
        (Text(ref="x"), "a.ref"),
        (Text(sealed=b"x"), "a.sealed"),
        (Text(), "a.inline"),
        (Text(inline="t", ref="x"), "a.ref"),
    ],
)
def test_a_text_that_is_not_inline_is_refused_by_its_field(text: Text, field: str) -> None:
    with pytest.raises(RefusedError) as raised:
        inline(text, "a")
    assert raised.value.field == field
