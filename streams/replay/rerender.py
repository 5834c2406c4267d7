"""Another prompt over what was retrieved then: the passages of the event stay, so that only the prompt differs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np

from processors.clock import Clock
from processors.control import FakeControl
from processors.embeddings import Vector
from processors.enrich.policy import EnrichPolicy
from processors.enrich.stage import Enrich
from processors.event import Incoming
from processors.passages import FakePassages, Hit, Search
from processors.prompts import PromptStore
from processors.spending.payer import Payer
from processors.text import inline
from schemas.records import Admitted, Enrichment, Passage, PromptRef, Request

_SHOWN: ContextVar[Sequence[Hit]] = ContextVar("replay_passages", default=())


class Rerender:
    """Renders the messages of enrichments with a prompt version, as the enrich stage would have."""

    def __init__(self, prompts: PromptStore, clock: Clock, policies: Mapping[str, EnrichPolicy]) -> None:
        self._enrich = Enrich(
            _Shown(), _NoVectors(), prompts=prompts, control=FakeControl(), clock=clock, routes=policies
        )

    async def __call__(self, record: Enrichment, name: str, version: int) -> Enrichment:
        """The enrichment with its messages by ``name@version``. Blocks on the prompt store once for each version.

        Raises ``RefusedError`` for a variable that is missing and for what does not fit, and ``DependencyDownError``.
        """
        old = record.grounding
        request = with_prompt(record.request, name, version)
        searched = bool(old.passages)
        asked = replace(request, retrieval=replace(request.retrieval, enabled=searched))
        admitted = Admitted(meta=record.meta, request=asked, admission=record.admission)
        token = _SHOWN.set([_hit(passage, old.index_version) for passage in old.passages])
        try:
            outputs = await self._enrich(
                Incoming(record=admitted, meta=record.meta, raw=b"", appended_at=_appended(record))
            )
        finally:
            _SHOWN.reset(token)
        [new] = [output for output in outputs if isinstance(output, Enrichment)]
        names = ("messages", "prompt_name", "prompt_version", "prompt_digest", "prompt_tokens_estimate", "truncated")
        told = {one: getattr(new.grounding, one) for one in names}
        # What did not fit any more is not shown; what was retrieved keeps its place in the index.
        grounding = replace(old, **told, passages=new.grounding.passages)
        return replace(record, request=request, grounding=grounding)


def with_prompt(request: Request, name: str, version: int) -> Request:
    """The request by this prompt version; its variables stay."""
    variables = request.prompt.variables if request.prompt is not None else {}
    return replace(request, prompt=PromptRef(name=name, version=str(version), variables=variables))


class _Shown(FakePassages):
    """Finds what the event in hand was shown, whatever is searched for."""

    async def search(self, search: Search) -> list[Hit]:  # noqa: ARG002
        return list(_SHOWN.get())


class _NoVectors:
    """Nothing is searched by a vector."""

    model, dimension = "", 1

    async def embed(self, texts: Sequence[str], payers: Sequence[Payer | None] = ()) -> list[Vector]:  # noqa: ARG002
        return [np.zeros(1, np.float32) for _ in texts]


def _hit(passage: Passage, index_version: str) -> Hit:
    return Hit(
        passage_id=passage.passage_id,
        document_id=passage.document_id,
        namespace=passage.namespace,
        title=passage.title,
        uri=passage.uri,
        text=inline(passage.text, "grounding.passages"),
        digest=passage.digest,
        document_digest=passage.document_digest,
        start_char=passage.start_char,
        end_char=passage.end_char,
        index_version=index_version,
        score=passage.score,
    )


def _appended(record: Enrichment) -> datetime:
    return record.meta.accepted_at or datetime.min.replace(tzinfo=UTC)
