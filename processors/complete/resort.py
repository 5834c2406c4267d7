"""The answer of last resort: a route's template, when no deployment could be had or all of them failed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from functools import lru_cache

from jinja2 import StrictUndefined, Template, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from processors.complete import STAGE, VERSION
from processors.complete.records import attempt_of, in_order
from processors.complete.routes import Route
from processors.event import Incoming
from processors.journal import AttemptRow, Settled
from processors.journal.protocol import close
from schemas.errors import ConfigurationError
from schemas.records import Completion, Enrichment, Text, Usage

SERVED_BY = "template"
# A question may be as long as an event; an answer repeats no more of it than this.
_QUESTION_CHARS = 2_000


def check_resort(template: str) -> None:
    """Raises ``ConfigurationError`` for a template that can't be rendered with what it is given."""
    try:
        _parsed(template).render(question="", route="", code="", request_id="")
    except TemplateError as error:
        raise ConfigurationError(f"is no template that can be rendered: {error.message}") from None


def resorted(
    incoming: Incoming[Enrichment],
    attempts: Sequence[AttemptRow],
    settled: Settled,
    *,
    route: Route,
    code: str,
    input_hash: str,
) -> Completion:
    """The completion that the template makes. The last of ``attempts`` is the open one, closed by ``settled``.

    It goes through the filter as any other text. No tokens of it were generated; what the attempts cost stays.
    """
    enrichment, last = incoming.record, attempts[-1]
    # Its end is the database's to say; events don't hold it.
    rows = (*attempts[:-1], close(last, settled, last.started_at))
    booked = in_order(attempt_of(row) for row in rows)
    question = enrichment.grounding.question.inline or ""
    assert route.last_resort is not None
    text = _parsed(route.last_resort).render(
        question=question[:_QUESTION_CHARS], route=route.name, code=code, request_id=incoming.meta.request_id
    )
    return Completion(
        meta=incoming.child(STAGE, VERSION),
        request=enrichment.request,
        admission=enrichment.admission,
        grounding=replace(enrichment.grounding),
        text=Text(inline=text),
        finish_reason="stop",
        model="",
        provider="",
        deployment="",
        usage=Usage(),
        cost_usd=sum((one.cost_usd or Decimal(0) for one in booked), Decimal(0)),
        estimated=any(one.estimated for one in booked),
        attempts=booked,
        served_by=SERVED_BY,
        input_hash=input_hash,
    )


@lru_cache(maxsize=64)
def _parsed(template: str) -> Template:
    return ImmutableSandboxedEnvironment(undefined=StrictUndefined, autoescape=False).from_string(template)
