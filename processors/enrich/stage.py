"""The enrich stage: an admitted request in, all that the model will be shown out."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from processors.clock import Clock
from processors.control import ControlView
from processors.embeddings import Embedder
from processors.enrich.policy import EnrichPolicy
from processors.enrich.template import Renderer, ShownPassage
from processors.enrich.tokens import estimate_tokens
from processors.enrich.window import Conversation, Fitted, KeptPassage, Window, converse
from processors.event import Incoming, Output
from processors.passages import Hit, PassageSearch, Search
from processors.prompts import PromptStore, StoredPrompt
from processors.spending.payer import Payer, payer_of
from processors.text import inline, message_text
from schemas.errors import RefusedError
from schemas.records import Admitted, ContentPart, Enrichment, Grounding, Message, Passage, Request, Text

STAGE = "enrich"
VERSION = "1"

_VERSION_FORM = re.compile(r"[0-9]{1,9}")
_NAME_FORM = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class Enrich:
    """Processor of the enrich stage. The same request, index and prompt give the same event.

    Blocks on the embedding endpoint, the passage store and, for a template not seen before, the prompt store. Raises
    ``RefusedError`` for a request that can't be served as it is, before any work when it has expired, and
    ``DependencyDownError``.
    """

    def __init__(
        self,
        passages: PassageSearch,
        embedder: Embedder,
        *,
        prompts: PromptStore,
        control: ControlView,
        clock: Clock,
        policy: EnrichPolicy | None = None,
        routes: Mapping[str, EnrichPolicy] | None = None,
        index_version: str = "",
        count_tokens: Callable[[str], int] = estimate_tokens,
    ) -> None:
        self._passages, self._embedder, self._prompts = passages, embedder, prompts
        self._control, self._clock, self._count = control, clock, count_tokens
        self._policy, self._routes = policy or EnrichPolicy(), dict(routes or {})
        self._index_version = index_version
        self._renderer = Renderer()

    async def __call__(self, incoming: Incoming[Admitted]) -> Sequence[Output]:
        admitted = incoming.record
        request, admission = admitted.request, admitted.admission
        if admission.expires_at is not None and admission.expires_at <= self._clock.now():
            raise RefusedError(
                "expired", "ttl_ms ran out before the request was served", field="ttl_ms", status="expired"
            )
        policy = self._routes.get(admission.route, self._policy)
        conversation = _conversation(request)
        prompt = await self._prompt(request, policy)
        k = _to_find(request, conversation.question, policy)
        payer = payer_of(
            incoming.meta, request, admission, stage=STAGE, version=VERSION, prompt_version=prompt.reference
        )
        hits = await self._retrieve(payer, request, conversation.question, policy, k)
        fitted = self._fit(request, conversation, prompt, hits, policy, k)
        enrichment = Enrichment(
            meta=incoming.child(STAGE, VERSION),
            request=request,
            admission=admission,
            grounding=self._grounding(conversation.question, prompt, hits, fitted, searched=k > 0),
        )
        return [enrichment]

    async def _prompt(self, request: Request, policy: EnrichPolicy) -> StoredPrompt:
        """The template that the request names, else the route's; without a version, the one that is live."""
        reference = request.prompt
        name = policy.prompt if reference is None else reference.name
        if not _NAME_FORM.fullmatch(name):
            raise _unknown_prompt(name, "prompt.name")
        version = reference.version if reference is not None and reference.version is not None else None
        field = "prompt.name" if version is None else "prompt.version"
        chosen = version or self._control.current_prompt(name) or "1"
        stored = await self._prompts.get(name, int(chosen)) if _VERSION_FORM.fullmatch(chosen) else None
        if stored is None:
            raise _unknown_prompt(name if version is None else f"{name}@{chosen}", field)
        return stored

    async def _retrieve(self, payer: Payer, request: Request, question: str, policy: EnrichPolicy, k: int) -> list[Hit]:
        if not k:
            return []
        retrieval = request.retrieval
        [vector] = await self._embedder.embed([_searched(question, policy)], (payer,))
        return await self._passages.search(
            Search(
                tenant=payer.meta.tenant,
                namespaces=tuple(retrieval.namespaces) or policy.namespaces,
                vector=vector,
                embedding_model=self._embedder.model,
                k=k,
                minimum_score=policy.minimum_score if retrieval.minimum_score is None else retrieval.minimum_score,
                filters=retrieval.filters,
            )
        )

    def _fit(
        self,
        request: Request,
        conversation: Conversation,
        prompt: StoredPrompt,
        hits: Sequence[Hit],
        policy: EnrichPolicy,
        k: int,
    ) -> Fitted:
        reference = request.prompt
        variables = {
            name: inline(value, f"prompt.variables.{name}")
            for name, value in (reference.variables if reference is not None else {}).items()
        }

        def render(passages: Sequence[ShownPassage]) -> str:
            return self._renderer.render(
                prompt.text,
                prompt.digest,
                passages=passages,
                variables=variables,
                retrieval=k > 0,
            )

        answer = policy.answer_tokens if request.sampling.max_tokens is None else request.sampling.max_tokens
        if answer >= policy.context_tokens:
            raise RefusedError(
                "context_too_long",
                f"sampling.max_tokens is {answer}; the route takes {policy.context_tokens} with the prompt; lower it",
                field="sampling.max_tokens",
            )
        window = Window(
            conversation,
            render,
            policy=policy,
            count=self._count,
            budget=policy.context_tokens - answer,
            extra=_extra(request, self._count),
        )
        return window.fit(hits)

    def _grounding(
        self, question: str, prompt: StoredPrompt, hits: Sequence[Hit], fitted: Fitted, *, searched: bool
    ) -> Grounding:
        versions = sorted({hit.index_version for hit in hits}) or [self._index_version]
        return Grounding(
            messages=(*_system(fitted.system), *fitted.messages),
            question=Text(inline=question),
            passages=tuple(_passage(number, kept) for number, kept in enumerate(fitted.passages, start=1)),
            prompt_name=prompt.name,
            prompt_version=prompt.reference,
            prompt_digest=prompt.digest,
            index_version=" ".join(versions) if searched else "",
            embedding_model=self._embedder.model if searched else "",
            prompt_tokens_estimate=fitted.tokens,
            dropped_passages=fitted.dropped_passages,
            truncated=fitted.truncated,
        )


def searched_for(request: Request, policy: EnrichPolicy) -> tuple[str, int]:
    """The text that is embedded for the request, and how many passages are looked for with it: 0 embeds nothing.

    Raises ``RefusedError`` as the stage does.
    """
    question = _conversation(request).question
    return _searched(question, policy), _to_find(request, question, policy)


def _searched(question: str, policy: EnrichPolicy) -> str:
    return question[: policy.query_chars]


def _to_find(request: Request, question: str, policy: EnrichPolicy) -> int:
    # A picture alone asks nothing that could be searched for.
    return _passages_wanted(request, policy) if question.strip() else 0


def _conversation(request: Request) -> Conversation:
    """The request's messages, its query being the last user message where it is set."""
    messages = list(request.messages)
    if request.query is not None:
        question, field = inline(request.query, "query"), "query"
        messages.append(_message("user", question))
        return converse(messages, question, field, len(messages) - 1)
    for number in range(len(messages) - 1, -1, -1):
        if messages[number].role == "user":
            field = f"messages[{number}]"
            return converse(messages, message_text(messages[number], field), field, number)
    raise RefusedError("invalid_request", "messages holds none of role user, and query is not set", field="messages")


def _passages_wanted(request: Request, policy: EnrichPolicy) -> int:
    """How many passages to look for; 0 where retrieval is off."""
    k = policy.k if request.retrieval.k is None else request.retrieval.k
    if not 0 <= k <= policy.max_k:
        raise RefusedError(
            "invalid_request", f"retrieval.k is {k}; it must be 0 to {policy.max_k}", field="retrieval.k"
        )
    return k if request.retrieval.enabled else 0


def _extra(request: Request, count: Callable[[str], int]) -> int:
    """Tokens of what is sent beside the messages."""
    sent = {"tools_json": request.tools_json, "response_format.schema_json": request.response_format.schema_json}
    return sum(count(inline(text, field)) for field, text in sent.items() if text is not None)


def _system(text: str) -> tuple[Message, ...]:
    return (_message("system", text),) if text else ()


def _message(role: str, text: str) -> Message:
    return Message(role=role, content=(ContentPart(type="text", text=Text(inline=text)),))


def _passage(number: int, kept: KeptPassage) -> Passage:
    hit = kept.hit
    return Passage(
        passage_id=hit.passage_id,
        document_id=hit.document_id,
        namespace=hit.namespace,
        number=number,
        title=hit.title,
        uri=hit.uri,
        digest=hit.digest,
        document_digest=hit.document_digest,
        score=hit.score,
        text=Text(inline=kept.text),
        start_char=hit.start_char,
        end_char=hit.start_char + len(kept.text),
        truncated=kept.truncated,
    )


def _unknown_prompt(reference: str, field: str) -> RefusedError:
    return RefusedError(
        "unknown_prompt",
        f"{field}: there is no prompt {reference[:100]!r}, or none of it is live; see headrace prompt list",
        field=field,
    )
