"""Embedding that is paid for: every asker's part of a call is booked before it is sent, and told as a cost event."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Protocol

import numpy as np

from processors.clock import Clock
from processors.embeddings import Failure, Reply, Vector
from processors.enrich.tokens import estimate_tokens
from processors.prices import Tariff
from processors.prices.version import version_of
from processors.spending.payer import Payer
from processors.spending.port import Bought, Closing, Opened, Opening, Spends
from processors.spending.split import split
from schemas.codec import Codec
from schemas.errors import DependencyDownError
from schemas.records import Cost, Usage

PURPOSE = "embedding"
# What endpoints add to a text: its first and last token, an instruction.
_TOKENS_PER_TEXT = 16
# An attempt whose outcome nobody has booked so long after its deadline is told at its upper bound.
_LOST_AFTER_S = 60.0


class Endpoint(Protocol):
    """An embedding endpoint that says what became of a call."""

    @property
    def model(self) -> str: ...

    @property
    def dimension(self) -> int: ...

    async def ask(self, texts: Sequence[str]) -> Reply | Failure:
        """One call, with what it used. Blocks on the endpoint; raises nothing of its own."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """On what terms the endpoint is paid. ``deadline_s`` bounds one call."""

    tariff: Tariff
    provider: str = ""
    deployment: str = "embeddings"
    deadline_s: float = 30.0


@dataclass(slots=True, eq=False)
class _Part:
    """One asker's part of a call."""

    payer: Payer | None
    texts: list[str]
    opened: Opened | None = None

    @property
    def weight(self) -> int:
        return sum(estimate_tokens(text) for text in self.texts)

    @property
    def bound(self) -> int:
        """The most tokens that it can have: one for every byte."""
        return sum(len(text.encode()) + _TOKENS_PER_TEXT for text in self.texts)

    @property
    def asked(self) -> bytes:
        digest = hashlib.sha256()
        for text in self.texts:
            digest.update(hashlib.sha256(text.encode()).digest())
        return digest.digest()


class Metered:
    """An ``Embedder`` over a priced endpoint. A text that several ask for at once is the first one's to pay.

    Blocks on the endpoint, and on the book once before and once after a call; raises what the endpoint's failures are,
    and ``DependencyDownError`` while the book is away: nothing is sent then.
    """

    def __init__(self, endpoint: Endpoint, spends: Spends, terms: Terms, *, codec: Codec, clock: Clock) -> None:
        self._endpoint, self._spends, self._terms = endpoint, spends, terms
        self._codec, self._clock = codec, clock

    @property
    def model(self) -> str:
        return self._endpoint.model

    @property
    def dimension(self) -> int:
        return self._endpoint.dimension

    async def embed(self, texts: Sequence[str], payers: Sequence[Payer | None] = ()) -> list[Vector]:
        parts = _parts(texts, payers)
        known = await self._open(parts)
        asking = [part for part in parts if part.opened is not None or part.payer is None]
        sent = [text for part in asking for text in part.texts]
        if sent:
            known |= await self._call(asking, sent)
        return [known[text] for text in texts]

    async def _open(self, parts: Sequence[_Part]) -> dict[str, Vector]:
        """Book the parts; the vectors of those that were bought before."""
        paying = [part for part in parts if part.payer is not None]
        known: dict[str, Vector] = {}
        if not paying:
            return known
        for part, came in zip(paying, await self._spends.open([self._opening(one) for one in paying]), strict=True):
            if isinstance(came, Bought):
                vectors = np.frombuffer(came.vectors, dtype="<f4").reshape(-1, self.dimension)
                known |= zip(part.texts, vectors, strict=True)
            else:
                part.opened = came
        return known

    async def _call(self, parts: Sequence[_Part], texts: Sequence[str]) -> dict[str, Vector]:
        reply = await self._endpoint.ask(texts)
        if isinstance(reply, Failure):
            await self._spends.close([self._failed(part, reply) for part in parts if part.opened is not None])
            raise reply.error
        vectors = dict(zip(texts, reply.vectors, strict=True))
        weights = [part.weight for part in parts]
        tokens = sum(weights) if reply.tokens is None else reply.tokens
        closings = [
            self._done(part, share, vectors, estimated=reply.tokens is None)
            for part, share in zip(parts, split(tokens, weights), strict=True)
            if part.opened is not None
        ]
        # The vectors are here, and are used: what could not be booked is told at its upper bound.
        with suppress(DependencyDownError):
            await self._spends.close(closings)
        return vectors

    def _opening(self, part: _Part) -> Opening:
        payer = part.payer
        assert payer is not None
        return Opening(
            spender=payer.spender,
            lane=payer.meta.lane,
            tenant=payer.meta.tenant,
            asked=part.asked,
            event=lambda ordinal: self._codec.encode(self._at_bound(part, ordinal, "unknown", "worker_lost")),
            due_s=self._terms.deadline_s + _LOST_AFTER_S,
        )

    def _done(self, part: _Part, tokens: int, vectors: dict[str, Vector], *, estimated: bool) -> Closing:
        cost = self._cost(part, _ordinal(part), "done", Usage(prompt_tokens=tokens, estimated=estimated))
        kept = part.payer is not None and part.payer.keeps
        data = np.stack([vectors[text] for text in part.texts]).astype("<f4").tobytes() if kept else None
        return self._closing(part, self._codec.encode(cost), data)

    def _failed(self, part: _Part, failure: Failure) -> Closing:
        if isinstance(failure.error, DependencyDownError) and failure.state == "failed":
            # It was not there, or too busy: the event waits and asks again, perhaps many times.
            return self._closing(part, None)
        ordinal, code = _ordinal(part), failure.code
        if failure.state == "unknown" or failure.maybe_paid:
            return self._closing(part, self._codec.encode(self._at_bound(part, ordinal, failure.state, code)))
        cost = replace(self._cost(part, ordinal, "failed", Usage()), error_code=code)
        return self._closing(part, self._codec.encode(cost))

    def _closing(self, part: _Part, event: bytes | None, vectors: bytes | None = None) -> Closing:
        assert part.payer is not None
        return Closing(spender=part.payer.spender, ordinal=_ordinal(part), event=event, vectors=vectors)

    def _at_bound(self, part: _Part, ordinal: int, state: str, code: str) -> Cost:
        usage = Usage(prompt_tokens=part.bound, estimated=True)
        return replace(self._cost(part, ordinal, state, usage), upper_bound=True, error_code=code)

    def _cost(self, part: _Part, ordinal: int, state: str, usage: Usage) -> Cost:
        payer, tariff, now = part.payer, self._terms.tariff, self._clock.now()
        assert payer is not None
        meta = payer.attempt(ordinal)
        return Cost(
            meta=meta,
            attempt_id=meta.event_id,
            purpose=PURPOSE,
            ordinal=ordinal,
            route=payer.route,
            deployment=self._terms.deployment,
            provider=self._terms.provider,
            model=self.model,
            state=state,
            usage=usage,
            amount_usd=tariff.amount(usage, now) if usage.prompt_tokens else Decimal(0),
            estimated=usage.estimated,
            price_source=tariff.source,
            price_version=version_of(tariff.source),
            prompt_version=payer.prompt_version,
            team=payer.team,
            user=payer.user,
            session=payer.session,
            feature=payer.feature,
            tier=payer.tier,
            arm=payer.arm,
            incurred_at=now,
        )


def _parts(texts: Sequence[str], payers: Sequence[Payer | None]) -> list[_Part]:
    """Each asker's texts, each text once. Two deliveries of one event are one asker."""
    parts: dict[str, _Part] = {}
    seen: set[str] = set()
    for number, text in enumerate(texts):
        payer = payers[number] if payers else None
        if text not in seen:
            seen.add(text)
            spender = "" if payer is None else payer.spender
            parts.setdefault(spender, _Part(payer, [])).texts.append(text)
    return list(parts.values())


def _ordinal(part: _Part) -> int:
    assert part.opened is not None
    return part.opened.ordinal
