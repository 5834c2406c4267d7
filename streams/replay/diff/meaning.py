"""How near changed texts are in meaning: by the embeddings that the workers use, where they cost nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import numpy as np

from processors.embeddings import Embedder, EmbeddingPolicy, OpenAIEmbedder
from processors.evaluate.scoring import start
from schemas.errors import DependencyDownError, ProviderError
from streams.deployed import embedding_terms
from streams.ports import NO_KEY
from streams.replay.diff.store import Pairs, Side
from streams.settings import Settings

# Pairs whose texts go to the endpoint together.
AT_ONCE = 16
_CHANGED = """
    SELECT tenant, request_id FROM differences WHERE edit IS NOT NULL AND NOT same_text
    ORDER BY draw, tenant, request_id LIMIT ?
"""


@asynccontextmanager
async def embedder(settings: Settings) -> AsyncIterator[Embedder | None]:
    """The embedder of the settings; ``None`` where its calls are paid, because a comparison books nothing."""
    if embedding_terms(settings) is not None:
        yield None
        return
    ours = settings.embeddings
    policy = EmbeddingPolicy(model=ours.model, dimension=ours.dimension, deadline_s=ours.timeout_s, batch=ours.batch)
    key = ours.api_key.get_secret_value() if ours.api_key else NO_KEY
    found = OpenAIEmbedder(policy, base_url=ours.base_url, api_key=key)
    try:
        yield found
    finally:
        await found.close()


async def look_at_meaning(pairs: Pairs, by: Embedder | None, *, most: int) -> str | None:
    """Note the cosine of at most so many pairs of changed texts, drawn by chance; why not all of them, if so.

    As much of each text counts as an embedding model reads. Blocks on the endpoint, a call for 16 pairs.
    """
    if not most:
        return "texts were not compared in meaning: --embed 0"
    if by is None:
        return "texts were not compared in meaning: the embedding endpoint has a price, and a comparison books nothing"
    asked = pairs.rows(_CHANGED, (most,))
    for first in range(0, len(asked), AT_ONCE):
        part = asked[first : first + AT_ONCE]
        texts = [start(pairs.said(side, *one).text) or " " for one in part for side in (Side.BASE, Side.RUN)]
        try:
            vectors = await by.embed(texts)
        except (DependencyDownError, ProviderError) as error:
            return f"only {first} of {len(asked)} changed texts were compared in meaning: {error}"
        for number, (tenant, request_id) in enumerate(part):
            base, run = vectors[2 * number].astype(np.float64), vectors[2 * number + 1].astype(np.float64)
            length = float(np.linalg.norm(base) * np.linalg.norm(run))
            pairs.set_meaning(tenant, request_id, float(base @ run) / length if length else 0.0)
    return None
