"""Embedding: texts to vectors, over any OpenAI-compatible endpoint."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import openai
from numpy.typing import NDArray
from openai.types import CreateEmbeddingResponse

from processors.model.cause import never_sent
from schemas.errors import DependencyDownError, PermanentProviderError, ProviderError, TransientProviderError

if TYPE_CHECKING:
    from processors.spending.payer import Payer

Vector = NDArray[np.float32]
# Away, or asked to come again later: the endpoint is infrastructure here, so the event waits. Any other failure may be
# the text's own doing, and is counted, lest one text hold up all behind it.
_AWAY = frozenset({408, 425, 429, 502, 503, 504})
# Of these, said by what stands before the model: it may have done the work.
_UNSEEN = frozenset({408, 502, 504})
_CONNECT_S = 5.0


class Embedder(Protocol):
    """Turns texts into vectors of one length."""

    @property
    def model(self) -> str: ...

    @property
    def dimension(self) -> int: ...

    async def embed(self, texts: Sequence[str], payers: Sequence[Payer | None] = ()) -> list[Vector]:
        """One vector a text, in order. Blocks on the endpoint. ``payers``: who pays for each text, where that is asked.

        Raises ``DependencyDownError("embeddings")`` when it can not be connected to or says that it is away or busy,
        ``PermanentProviderError`` when it refuses, and ``TransientProviderError`` when it fails, does not reply within
        the deadline, breaks off, or replies what makes no sense.
        """
        ...


@dataclass(frozen=True, slots=True)
class Reply:
    """What a call brought: the vectors in the order of its texts, and the tokens that the endpoint counted, if any."""

    vectors: list[Vector]
    tokens: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why a call brought nothing. ``unknown``: it was sent and may have been paid, and no whole reply was read.

    ``maybe_paid``: a reply came, though none that can be used.
    """

    error: ProviderError | DependencyDownError
    state: Literal["failed", "unknown"] = "failed"
    maybe_paid: bool = False

    @property
    def code(self) -> str:
        """The error's code, as cost events say it."""
        return self.error.code if isinstance(self.error, ProviderError) else "provider_away"


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingPolicy:
    """Which model is asked, and within what limits."""

    model: str
    dimension: int
    # Texts in one call; most servers take more, but a batch must end within the deadline on a CPU too.
    batch: int = 32
    # For one batch. A CPU does some 25 passages/s.
    deadline_s: float = 30.0


class OpenAIEmbedder:
    """Adapter for an OpenAI-compatible ``/embeddings`` endpoint; the SDK's own retries are off."""

    def __init__(self, policy: EmbeddingPolicy, *, base_url: str, api_key: str) -> None:
        self._policy = policy
        timeout = openai.Timeout(None, connect=min(_CONNECT_S, policy.deadline_s / 2))
        self._client = openai.AsyncOpenAI(
            base_url=base_url,
            api_key=api_key,
            max_retries=0,
            timeout=timeout,
            # A redirect or a proxy would take the key and the texts to an endpoint that nobody configured.
            http_client=openai.DefaultAioHttpClient(timeout=timeout, follow_redirects=False, trust_env=False),
        )

    @property
    def model(self) -> str:
        return self._policy.model

    @property
    def dimension(self) -> int:
        return self._policy.dimension

    async def embed(self, texts: Sequence[str], payers: Sequence[Payer | None] = ()) -> list[Vector]:  # noqa: ARG002
        reply = await self.ask(texts)
        if isinstance(reply, Failure):
            raise reply.error
        return reply.vectors

    async def ask(self, texts: Sequence[str]) -> Reply | Failure:
        """The vectors, or why there are none, with what the call used. More texts than a batch are several calls."""
        vectors: list[Vector] = []
        tokens: int | None = 0
        for start in range(0, len(texts), self._policy.batch):
            reply = await self._batch(texts[start : start + self._policy.batch])
            if isinstance(reply, Failure):
                return replace(reply, maybe_paid=True) if start else reply
            vectors += reply.vectors
            tokens = None if tokens is None or reply.tokens is None else tokens + reply.tokens
        return Reply(vectors, tokens)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def _batch(self, texts: Sequence[str]) -> Reply | Failure:
        try:
            async with asyncio.timeout(self._policy.deadline_s):
                reply = await self._client.embeddings.create(
                    model=self._policy.model, input=list(texts), encoding_format="float"
                )
        except TimeoutError:
            text = f"the embedding endpoint did not reply within {self._policy.deadline_s:g} s"
            return Failure(error=TransientProviderError("embedding_timeout", text), state="unknown")
        except openai.APIError as error:
            return _failure(error)
        except ValueError:
            text = "the embedding endpoint's reply is not JSON"
            return Failure(error=TransientProviderError("embedding_reply", text), maybe_paid=True)
        try:
            return Reply(self._vectors(reply, len(texts)), _counted(reply))
        except ProviderError as error:
            return Failure(error=error, maybe_paid=True)

    def _vectors(self, reply: CreateEmbeddingResponse, expected: int) -> list[Vector]:
        try:
            # A server that leaves the index out keeps the order.
            rows = sorted(reply.data, key=lambda row: row.index or 0)
            vectors = [_numbers(row.embedding) for row in rows]
        except (AttributeError, TypeError, ValueError):
            raise TransientProviderError("embedding_reply", "the embedding endpoint's reply holds no vectors") from None
        if len(vectors) != expected:
            raise TransientProviderError(
                "embedding_reply", f"{len(vectors)} vectors came back for {expected} texts; check the embedding server"
            )
        for vector in vectors:
            self._check(vector)
        return vectors

    def _check(self, vector: Vector) -> None:
        if vector.shape != (self.dimension,):
            raise PermanentProviderError(
                "embedding_dimension",
                f"{self.model} gives vectors of shape {vector.shape}, settings say {self.dimension}: correct the"
                " setting, or migrate a database of that dimension",
            )
        if not np.isfinite(vector).all() or not vector.any():
            raise PermanentProviderError("embedding_reply", f"{self.model} gave a vector that is zero or not finite")


def _numbers(embedding: Any) -> Vector:
    """A vector from numbers, or from their bytes in base64, which some endpoints send whatever they are asked for."""
    if isinstance(embedding, str):
        return np.frombuffer(base64.b64decode(embedding, validate=True), dtype="<f4").astype(np.float32)
    return np.asarray(list(embedding), dtype=np.float32)


def _counted(reply: CreateEmbeddingResponse) -> int | None:
    """The tokens that the endpoint counted; some count none."""
    tokens = getattr(reply.usage, "prompt_tokens", None) or getattr(reply.usage, "total_tokens", None)
    return tokens if isinstance(tokens, int) and tokens > 0 else None


def _failure(error: openai.APIError) -> Failure:
    """Our failure for the SDK's error; none of the provider's text goes on."""
    if isinstance(error, openai.APIConnectionError):
        if never_sent(error):
            return Failure(error=DependencyDownError("embeddings", "it could not be connected to"))
        text = "the connection to the embedding endpoint broke after sending"
        return Failure(error=TransientProviderError("connection_lost", text), state="unknown")
    if not isinstance(error, openai.APIStatusError):
        text = "the embedding endpoint's reply does not parse"
        return Failure(error=TransientProviderError("embedding_reply", text), maybe_paid=True)
    status = error.status_code
    if status in _AWAY:
        away = DependencyDownError("embeddings", f"it replied with HTTP {status}")
        return Failure(error=away, state="unknown" if status in _UNSEEN else "failed")
    if status >= 500 or status == 409:
        text = f"the embedding endpoint failed with HTTP {status}"
        return Failure(error=TransientProviderError(f"http_{status}", text, http_status=status))
    text = f"the embedding endpoint refused with HTTP {status}; check its address, key and model"
    return Failure(error=PermanentProviderError(f"http_{status}", text, http_status=status))


class CachedEmbedder:
    """Remembers the vectors of the texts last asked for; for queries, which repeat."""

    def __init__(self, embedder: Embedder, *, size: int = 1024) -> None:
        self._embedder, self._size = embedder, size
        self._known: OrderedDict[str, Vector] = OrderedDict()

    @property
    def model(self) -> str:
        return self._embedder.model

    @property
    def dimension(self) -> int:
        return self._embedder.dimension

    async def embed(self, texts: Sequence[str], payers: Sequence[Payer | None] = ()) -> list[Vector]:
        found = {text: self._known[text] for text in texts if text in self._known}
        missing = [text for text in dict.fromkeys(texts) if text not in found]
        if missing:
            paying = dict(zip(reversed(texts), reversed(payers), strict=True)) if payers else {}
            theirs = [paying[text] for text in missing] if payers else ()
            found |= zip(missing, await self._embedder.embed(missing, theirs), strict=True)
        for text in texts:
            self._known[text] = found[text]
            self._known.move_to_end(text)
        while len(self._known) > self._size:
            self._known.popitem(last=False)
        return [found[text] for text in texts]


class HashingEmbedder:
    """Fake: a text's vector is the sum of its words' pseudo-random vectors, so that shared words mean nearness."""

    def __init__(self, *, dimension: int = 384, model: str = "hashing") -> None:
        self.model, self.dimension = model, dimension
        self.embedded: list[str] = []
        self.payers: list[Payer | None] = []
        # Raised by the next call, once.
        self.failure: Exception | None = None

    async def embed(self, texts: Sequence[str], payers: Sequence[Payer | None] = ()) -> list[Vector]:
        if self.failure is not None:
            failure, self.failure = self.failure, None
            raise failure
        self.embedded += texts
        self.payers += payers
        return [self._vector(text) for text in texts]

    def _vector(self, text: str) -> Vector:
        words = re.findall(r"\w+", text.lower()) or [text]
        total = np.sum([self._word(word) for word in words], axis=0)
        return np.asarray(total / np.linalg.norm(total), dtype=np.float32)

    def _word(self, word: str) -> NDArray[np.float64]:
        seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:8], "big")
        return np.random.default_rng(seed).standard_normal(self.dimension)
