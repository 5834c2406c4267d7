"""A request's way past the caches: answered by another's result, waiting for one, or on to a call of its own.

What is decided is booked in the journal, as the request's own result: a redelivery gives the same bytes whatever the
caches hold by then. A result that another call paid for is in the cache with the transaction that booked it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from processors.cache.key import CacheKey, cache_key
from processors.cache.local import LocalCache
from processors.cache.observer import CacheObserver, NullCacheObserver
from processors.cache.policy import CachePolicy
from processors.cache.port import CacheStore, Failed, Found, Free, Own, Taken, Waiting, Wish
from processors.cache.serving import EXACT, SEMANTIC, cacheable, cached_completion
from processors.clock import Clock
from processors.complete import STAGE, VERSION
from processors.complete.routes import Route
from processors.embeddings import Embedder
from processors.event import Incoming
from processors.failpoints import Failpoints, Unarmed
from processors.journal.entry import AttemptRow, Busy, Claim, Done, Ended, Offer
from processors.journal.port import Journal
from processors.spending.payer import Payer, payer_of
from schemas.codec import Codec
from schemas.errors import DependencyDownError, ProviderError, UndecodableError, UnknownSchemaError, WrongRecordError
from schemas.records import Completion, Enrichment

# Of the lease on a call that is about to begin: then it is asked for again before the call is made.
_STALE = 0.6


class Caches:
    """The caches of a worker, for routes that use them.

    ``embedder`` is for routes with a semantic cache; while it is away they go on without. Nothing is asked of anybody
    for a route or a request without caches.
    """

    def __init__(
        self,
        store: CacheStore,
        journal: Journal,
        *,
        policies: Mapping[str, CachePolicy],
        codec: Codec,
        clock: Clock,
        embedder: Embedder | None = None,
        observer: CacheObserver | None = None,
        failpoints: Failpoints | None = None,
        local: LocalCache | None = None,
    ) -> None:
        self.store, self.journal, self.codec, self.clock = store, journal, codec, clock
        self.embedder, self.observer = embedder, observer or NullCacheObserver()
        self.failpoints = failpoints or Unarmed()
        self.local = local if local is not None else LocalCache()
        self._policies = policies

    def asking(self, incoming: Incoming[Enrichment], offer: Offer, classed: Route) -> Asking | None:
        """The request's way; ``None`` for one that no cache may answer. ``classed``: the route of its class."""
        own = classed.answering
        route, request = incoming.record.admission.route, incoming.record.request
        policy = self._policies.get(route)
        if policy is None or not policy.used or request.cache == "off":
            return None
        key = cache_key(incoming, sorted({one.model for one in own}), policy.scope, cascade=classed.cascade)
        names = frozenset(one.name for one in own)
        return None if key is None else Asking(self, incoming, offer, policy, key, route, names)


@dataclass(frozen=True, slots=True)
class _Hit:
    """A result that answers the request."""

    found: Found
    original: Completion
    served_by: str


class Asking:
    """One delivery of one request. Not shared."""

    def __init__(
        self,
        caches: Caches,
        incoming: Incoming[Enrichment],
        offer: Offer,
        policy: CachePolicy,
        key: CacheKey,
        route: str,
        own: frozenset[str],
    ) -> None:
        # A fallback's answer, and one that failed the check of a cascade and stands all the same, is for those who
        # waited for it, and for nobody later.
        self._own = own
        self._caches, self._incoming, self._offer = caches, incoming, offer
        self._policy, self._key, self._route = policy, key, route
        self._awaited: str | None = None
        # Whether the request may wait for a batch.
        self._patient = False
        # Makes its own call, whatever others do.
        self._alone = False
        self._taken_at: float | None = None
        self._called = False
        self._newer_than: datetime | None = None

    def called(self) -> None:
        """Hear that the request's own call was made: what remains is to read the journal."""
        self._called = True

    @property
    def awaited(self) -> str | None:
        """The call that is waited for; empty where it is not known which."""
        return self._awaited

    async def ahead(self, awaited: str | None) -> Claim | None:
        """As ``claim``, for a request that goes by batch where nothing answers it; waits for other batches, too.

        ``awaited``: the call that it waited for until now.
        """
        self._awaited, self._patient = awaited, True
        return await self.claim(math.inf)

    async def claim(self, latest: float) -> Claim | None:
        """What answers the request: ``Done`` as the journal has it now, ``Busy`` while another's call is open.

        ``None``: the call is the request's own to make. Blocks on one or two statements, none when it leads or is
        alone. ``latest``: the monotonic time until which waiting makes sense; raises ``DependencyDownError`` after it.
        """
        if self._alone or self._called:
            return None
        if self._taken_at is not None:
            return await self._confirm()
        known = self._caches.local.get(self._key.exact, self._wish().fresh_after)
        if known is not None:
            return await self._serve(known, EXACT)
        waited = self._awaited is not None
        answer = await self._ask()
        if isinstance(answer, Found) and not waited and not self._serves(answer):
            # One that later requests can't have: this request's takes its place.
            self._newer_than = answer.at
            answer = await self._ask()
        if isinstance(answer, Found):
            return await self._serve(answer, EXACT)
        if isinstance(answer, Waiting):
            return self._wait(answer, latest)
        if isinstance(answer, Taken):
            if not waited:
                self._tell("exact", "miss")
            self._taken_at = time.monotonic()
            return await self._nearest()
        if isinstance(answer, Failed):
            self._tell("flight", "alone")
        # An ended call of its own: the journal says what became of it.
        self._alone = True
        return None

    async def settle(self, claim: Claim | None) -> None:
        """Hear what became of the request's own call: its result is kept here too. Raises ``DependencyDownError``."""
        if self._taken_at is None or isinstance(claim, Busy) or claim is None:
            return
        if isinstance(claim, Done):
            original = self._decoded(claim.result)
            if original is not None and self._keeps(original) and claim.ended_at is not None:
                self._caches.local.put(self._key.exact, Found(result=claim.result, at=claim.ended_at))
        elif not isinstance(claim, Ended):
            # It came too late, or was cancelled: whoever waits makes the call.
            await self._leave()

    async def put_off(self) -> None:
        """Hear that the request waits for longer: whoever waits for its answer makes the call."""
        if self._taken_at is not None:
            await self._leave()

    async def _ask(self) -> Found | Taken | Own | Waiting | Failed:
        """Join, or look after the call that was waited for; the store's answer."""
        store, wish = self._caches.store, self._wish()
        if self._awaited is None:
            return await store.join(wish)
        seen = await store.look(wish, self._awaited)
        return await store.join(wish) if isinstance(seen, Free) else seen

    def _wait(self, answer: Waiting, latest: float) -> Busy | None:
        if not self._policy.single_flight or (answer.batched and not self._patient):
            self._alone = True
            self._tell("exact", "miss")
            return None
        if self._awaited is None:
            self._tell("flight", "wait")
        self._awaited = answer.call_id
        if time.monotonic() > latest:
            raise DependencyDownError(f"route {self._route}", "the call of an identical request is still open")
        return Busy(answer.remaining_s)

    async def _confirm(self) -> Claim | None:
        """Make sure that the call is still this request's when it took long to get a slot for it."""
        assert self._taken_at is not None
        if time.monotonic() - self._taken_at < _STALE * self._caches.journal.lease_s:
            return None
        answer = await self._caches.store.join(self._wish())
        if isinstance(answer, Taken | Own):
            self._taken_at = time.monotonic()
            return None
        self._taken_at = None
        if isinstance(answer, Found):
            return await self._serve(answer, EXACT)
        self._awaited = answer.call_id
        return Busy(answer.remaining_s)

    async def _nearest(self) -> Claim | None:
        """The answer to a question that is near enough. Without embeddings it is as if there were none."""
        embedder, scope = self._caches.embedder, self._key.scope
        if not self._policy.semantic or embedder is None or scope is None:
            return None
        try:
            [vector] = await embedder.embed([self._key.question], (self._payer(),))
        except (DependencyDownError, ProviderError):
            self._tell("semantic", "down")
            return None
        near = await self._caches.store.nearest(self._wish(), scope, vector)
        if near is None or near.similarity < self._policy.similarity or not self._serves(near.found):
            self._tell("semantic", "miss")
            return None
        # First, so that nobody takes what is served here for the answer of a call.
        await self._leave()
        return await self._serve(near.found, SEMANTIC)

    async def _serve(self, found: Found, served_by: str) -> Claim | None:
        """Book the result as this request's own. ``None`` for one that can't be given to others."""
        original = self._decoded(found.result)
        if original is None or not (self._keeps(original) or (self._awaited is not None and cacheable(original))):
            self._alone = True
            return None
        hit = _Hit(found, original, served_by)
        claim = await self._caches.journal.serve(self._offer, lambda lost: self._encoded(hit, lost))
        self._caches.failpoints.hit("after_finish")
        if isinstance(claim, Done):
            if served_by == EXACT and self._keeps(original):
                self._caches.local.put(self._key.exact, found)
            self._tell("exact" if served_by == EXACT else "semantic", "hit")
            if self._awaited is not None:
                self._tell("flight", "hit")
            self._caches.observer.on_avoided(self._route, original.cost_usd)
        return claim

    def _serves(self, found: Found) -> bool:
        original = self._decoded(found.result)
        return original is not None and self._keeps(original)

    def _keeps(self, original: Completion) -> bool:
        """Whether later requests may have it."""
        stands = original.cascade is not None and original.cascade.outcome == "stood"
        return cacheable(original) and original.deployment in self._own and not stands

    def _encoded(self, hit: _Hit, lost: tuple[AttemptRow, ...]) -> bytes:
        completion = cached_completion(
            self._incoming, hit.original, lost, served_by=hit.served_by, input_hash=self._offer.input_hash
        )
        return self._caches.codec.encode(completion)

    def _decoded(self, result: bytes) -> Completion | None:
        """The completion; ``None`` for one that was written by a release whose schema is not known here."""
        try:
            return self._caches.codec.decode(result, Completion)
        except (UndecodableError, UnknownSchemaError, WrongRecordError):
            return None

    async def _leave(self) -> None:
        await self._caches.store.leave(self._wish())
        self._taken_at = None

    def _payer(self) -> Payer:
        record = self._incoming.record
        prompt = record.grounding.prompt_version
        return payer_of(
            self._incoming.meta, record.request, record.admission, stage=STAGE, version=VERSION, prompt_version=prompt
        )

    def _wish(self) -> Wish:
        incoming, policy = self._incoming, self._policy
        fresh_after = incoming.appended_at
        if policy.exact:
            fresh_after = min(fresh_after, self._caches.clock.now() - timedelta(seconds=policy.ttl_s))
        if self._newer_than is not None:
            fresh_after = max(fresh_after, self._newer_than + timedelta(microseconds=1))
        return Wish(
            key=self._key.exact,
            call=self._offer.key,
            route=self._route,
            fresh_after=fresh_after,
            lease_s=self._caches.journal.lease_s,
        )

    def _tell(self, cache: str, outcome: str) -> None:
        self._caches.observer.on_cache(self._route, cache, outcome)
