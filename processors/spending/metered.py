"""Embedding that is paid for: every asker's part of a call is booked before it is sent, and told as a cost event."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Protocol

import numpy as np

from processors.clock import Clock
from processors.embeddings import Failure, Reply, Vector
from processors.enrich.tokens import estimate_tokens
from processors.prices import Tariff
from processors.prices.version import version_of
from processors.spending.payer import Payer
from processors.spending.port import Closing, Keeping, Kept, Opened, Opening, Spends, digests
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
    """One asker's part of a call: the ``texts`` it wants, those of them it ``owes``, and the vectors it ``had``."""

    payer: Payer | None
    texts: list[str] = field(default_factory=list)
    owes: list[str] = field(default_factory=list)
    had: dict[str, Vector] = field(default_factory=dict)
    opened: Opened | None = None

    @property
    def weight(self) -> int:
        return sum(estimate_tokens(text) for text in self.owes)

    @property
    def bound(self) -> int:
        """The most tokens that it can have: one for every byte."""
        return most_tokens(self.owes)


class Metered:
    """An ``Embedder`` over a priced endpoint. A text that several ask for at once is the first one's to pay.

    It is given once for each of them: its vector is kept for all, and none of them buys it again when it comes back.

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
        asking = [part for part in parts if part.owes and (part.opened is not None or part.payer is None)]
        sent = [text for part in asking for text in part.owes]
        if sent:
            known |= await self._call(asking, sent, known)
        await self._keep(parts, known)
        return [known[text] for text in texts]

    async def _open(self, parts: Sequence[_Part]) -> dict[str, Vector]:
        """Book the parts; the vectors that were bought for them before, which they owe no more."""
        paying = [part for part in parts if part.payer is not None and part.owes]
        known: dict[str, Vector] = {}
        if not paying:
            return known
        for part, came in zip(paying, await self._spends.open([self._opening(one) for one in paying]), strict=True):
            part.had = self._had(part, came.kept)
            part.owes = [text for text in part.owes if text not in part.had]
            part.opened = came if isinstance(came, Opened) else None
            known |= part.had
        return known

    def _had(self, part: _Part, kept: Sequence[Kept]) -> dict[str, Vector]:
        wanted, found = {self._digest(text): text for text in part.texts}, dict[str, Vector]()
        for one in kept:
            asked = digests(one.asked)
            if wanted.keys() & asked:
                vectors = np.frombuffer(one.vectors, dtype="<f4").reshape(len(asked), -1)
                found |= {
                    wanted[digest]: vector for digest, vector in zip(asked, vectors, strict=True) if digest in wanted
                }
        return found

    def _digest(self, text: str) -> bytes:
        return hashlib.sha256(f"{self.model} {self.dimension} {text}".encode()).digest()

    def _asked(self, texts: Sequence[str]) -> bytes:
        return b"".join(self._digest(text) for text in texts)

    async def _keep(self, parts: Sequence[_Part], known: Mapping[str, Vector]) -> None:
        """Keep what others paid for, for those who spent nothing."""
        keepings = []
        for part in parts:
            missing = [text for text in part.texts if text not in part.had]
            payer = part.payer
            if part.opened is None and missing and payer is not None and payer.keeps:
                kept = Kept(self._asked(missing), _packed(missing, known))
                meta = payer.meta
                keepings.append(Keeping(spender=payer.spender, lane=meta.lane, tenant=meta.tenant, kept=kept))
        if keepings:
            # The vectors are here, and are used: what could not be kept is bought when it is asked for again.
            with suppress(DependencyDownError):
                await self._spends.keep(keepings)

    async def _call(
        self, parts: Sequence[_Part], texts: Sequence[str], known: Mapping[str, Vector]
    ) -> dict[str, Vector]:
        reply = await self._endpoint.ask(texts)
        if isinstance(reply, Failure):
            await self._spends.close([self._failed(part, reply) for part in parts if part.opened is not None])
            raise reply.error
        vectors = dict(zip(texts, reply.vectors, strict=True))
        weights = [part.weight for part in parts]
        tokens = sum(weights) if reply.tokens is None else reply.tokens
        closings = [
            self._done(part, share, {**known, **vectors}, estimated=reply.tokens is None)
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
            asked=self._asked(part.texts),
            owed=self._asked(part.owes),
            event=lambda ordinal: self._codec.encode(self._at_bound(part, ordinal, "unknown", "worker_lost")),
            due_s=self._terms.deadline_s + _LOST_AFTER_S,
            asker=payer.meta.event_id,
            bound_usd=self._terms.tariff.amount(Usage(prompt_tokens=part.bound), self._clock.now()),
        )

    def _done(self, part: _Part, tokens: int, known: Mapping[str, Vector], *, estimated: bool) -> Closing:
        cost = self._cost(part, _ordinal(part), "done", Usage(prompt_tokens=tokens, estimated=estimated))
        kept = part.payer is not None and part.payer.keeps
        return self._closing(part, cost, _packed(part.texts, known) if kept else None)

    def _failed(self, part: _Part, failure: Failure) -> Closing:
        if isinstance(failure.error, DependencyDownError) and failure.state == "failed":
            # It was not there, or too busy: the event waits and asks again, perhaps many times.
            return self._closing(part, None)
        ordinal, code = _ordinal(part), failure.code
        if failure.state == "unknown" or failure.maybe_paid:
            return self._closing(part, self._at_bound(part, ordinal, failure.state, code))
        return self._closing(part, replace(self._cost(part, ordinal, "failed", Usage()), error_code=code))

    def _closing(self, part: _Part, cost: Cost | None, vectors: bytes | None = None) -> Closing:
        assert part.payer is not None
        return Closing(
            spender=part.payer.spender,
            ordinal=_ordinal(part),
            event=None if cost is None else self._codec.encode(cost),
            vectors=vectors,
            amount_usd=Decimal(0) if cost is None else cost.amount_usd,
        )

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


def most_tokens(texts: Iterable[str]) -> int:
    """The most tokens that these texts can have: one for every byte, and what an endpoint adds to each."""
    return sum(len(text.encode()) + _TOKENS_PER_TEXT for text in texts)


def _parts(texts: Sequence[str], payers: Sequence[Payer | None]) -> list[_Part]:
    """Each asker's texts, each text once and owed by the first. Two deliveries of one event are one asker."""
    parts: dict[str, _Part] = {}
    owed: set[str] = set()
    for number, text in enumerate(texts):
        payer = payers[number] if payers else None
        part = parts.setdefault("" if payer is None else payer.spender, _Part(payer))
        if text not in part.texts:
            part.texts.append(text)
        if text not in owed:
            owed.add(text)
            part.owes.append(text)
    return list(parts.values())


def _packed(texts: Sequence[str], known: Mapping[str, Vector]) -> bytes:
    """Their vectors, one after the other."""
    return np.stack([known[text] for text in texts]).astype("<f4").tobytes()


def _ordinal(part: _Part) -> int:
    assert part.opened is not None
    return part.opened.ordinal
