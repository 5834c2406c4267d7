"""What enrichment may use of a route's model, and what it does where a request leaves something open."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class EnrichPolicy:
    """One for each route. Tokens are by the stage's own count, which is cautious."""

    # Of the route's smallest deployment, prompt and answer together.
    context_tokens: int = 2048
    # Kept free for the answer when the request sets no limit of its own.
    answer_tokens: int = 256
    # Passages when the request does not say how many, and the most it may ask for.
    k: int = 4
    max_k: int = 50
    minimum_score: float | None = None
    namespaces: tuple[str, ...] = ("default",)
    # Template when the request names none.
    prompt: str = "answer"
    # The question is cut to this for embedding: models read a few hundred tokens and ignore the rest.
    query_chars: int = 2000
    # A passage is left out rather than cut shorter than this.
    minimum_passage_chars: int = 200
    # What a chat template adds to each message, and to open the reply.
    message_tokens: int = 5
    reply_tokens: int = 4
