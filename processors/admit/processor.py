"""The stage admit: from a request to an admitted one, or to its refusal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Protocol, cast

import structlog

from processors.admit.body import body_hash
from processors.admit.limiting import Limiting
from processors.admit.policy import AdmitPolicy
from processors.admit.rules import admission, check_origin, check_request
from processors.age import too_old
from processors.answers import copy_answer, failure_of, final_answer
from processors.clock import Clock
from processors.event import Incoming, Output
from processors.finality import Finality
from processors.idempotency import Claimant, Idempotency, Reservation
from processors.ruling import UNASKED, Ruling
from schemas.errors import PoisonError, RefusedError
from schemas.ids import request_event_id
from schemas.record import Record, RecordT
from schemas.records import Admitted, Answer, Request

STAGE = "admit"
VERSION = "1"

# What Postgres can index, with room for the other parts of a key. Longer ids have no row to be answered under.
_INDEXABLE_CHARS = 400

log = structlog.get_logger(__name__)


class AnswerDecoder(Protocol):
    """What admission needs of the codec, to copy an answer that was stored."""

    async def decode_fetching(self, data: bytes, expected: type[RecordT]) -> RecordT: ...


class Admit:
    """Checks a request, recognises one that was asked before, and admits it.

    A producer's ``meta`` is not believed: the lane is checked, the time is the broker's, and the first event id is
    derived from (tenant, lane, request id). So the same request published twice is admitted under one event id, and
    the time and control offset of its first delivery, kept with its reservation, make it the same bytes.

    A request id stands for one body. A second publication under the same id with another body gets no answer of its
    own, because the id already has, or will have, the first one's: it is dropped and logged. That holds for a first
    body that was refused, too: correct it and send it under a new id.

    ``stream`` is taken as a wish: the whole answer is published to ``answers`` in any case, and chunks of it as well
    where a worker releases them.
    """

    def __init__(
        self,
        *,
        policy: AdmitPolicy,
        clock: Clock,
        idempotency: Idempotency,
        finality: Finality,
        codec: AnswerDecoder,
        limiting: Limiting,
    ) -> None:
        self._limiting = limiting
        self._policy = policy
        self._clock = clock
        self._idempotency = idempotency
        self._finality = finality
        self._codec = codec

    async def __call__(self, incoming: Incoming[Request]) -> Sequence[Output]:
        """One ``Admitted``, or the ``Answer`` that refuses or repeats; nothing for a second body under one id.

        Waits for one round trip to Postgres, two with an idempotency key, and for its limits where it has some. Raises
        ``DependencyDownError``, ``NotYetError`` for a request that its limits let in later, and ``PoisonError`` for
        one whose id can't be a key.
        """
        incoming = self._trusted(incoming)
        stranger = self._stranger(incoming)
        late = too_old(incoming.meta, self._policy.horizon, self._clock.now())
        if stranger is None and late is not None:
            # Before anything is reserved: the rows that would know this request may be gone.
            return [self._refusal(incoming, late)]
        claimant = _claimant(incoming, self._policy.lane, stranger=stranger is not None)
        opening = UNASKED if stranger is not None else self._opening(incoming)
        reservation = await self._idempotency.reserve(claimant, claimant.request_id, scope="request", ruling=opening)
        if reservation.outcome == "conflict":
            log.warning("refused duplicate", request_id=claimant.request_id, tenant=claimant.tenant, code="id_reused")
            return []
        incoming = _as_first_delivered(incoming, reservation)
        if stranger is not None:
            return [self._refusal(incoming, stranger)]
        try:
            check_request(incoming.record, self._policy)
            admitted = self._admitted(incoming, claimant.body_hash)
            # Whoever was not let in before can be too late, and is charged nothing then.
            if reservation.new or reservation.ruling.verdict in ("open", "queued"):
                self._check_age(admitted)
            paid = await self._limiting.enter(admitted, claimant, reservation.ruling, known=not reservation.new)
        except RefusedError as refusal:
            return [self._refusal(incoming, refusal)]
        output = await self._once(incoming, admitted, claimant)
        if output is not admitted:
            self._limiting.give_back(paid)
        return [output]

    def _opening(self, incoming: Incoming[Request]) -> Ruling:
        policy, request = self._policy, replace(incoming.record, meta=incoming.meta)
        tier = policy.tenants.get(incoming.meta.tenant, policy.default_tier)
        return self._limiting.opening(request, tier=tier, route=request.route or policy.default_route)

    def _stranger(self, incoming: Incoming[Request]) -> RefusedError | None:
        """Why the request may not come this way, if it may not."""
        try:
            check_origin(incoming.meta, incoming.record.meta, self._policy)
        except RefusedError as refusal:
            return refusal
        return None

    def _trusted(self, incoming: Incoming[Request]) -> Incoming[Request]:
        """The event with a meta that holds nothing a producer could make up, but tenant and request id."""
        claimed, meta = incoming.record.meta, incoming.meta
        for name, value in (("meta.request_id", meta.request_id), ("meta.tenant", meta.tenant)):
            if not value.isprintable() or len(value) > _INDEXABLE_CHARS:
                limit = f"at most {_INDEXABLE_CHARS} printable characters"
                raise PoisonError(f"{name} must be {limit}: nobody could be answered")
        if not meta.request_id:
            raise PoisonError("meta.request_id is empty: nobody could be answered")
        lane = self._policy.lane
        trusted = replace(
            meta,
            event_id=request_event_id(tenant=meta.tenant, lane=lane, request_id=meta.request_id),
            run="" if meta.run == claimed.run else meta.run,
            causation_id="",
            stage="producer",
            stage_version="",
            accepted_at=incoming.appended_at,
            control_offset=-1,
        )
        return replace(incoming, meta=trusted)

    def _admitted(self, incoming: Incoming[Request], digest: str) -> Admitted:
        asked_at = incoming.redriven_at or incoming.meta.accepted_at
        assert asked_at is not None
        request = replace(incoming.record, meta=incoming.meta)
        decided = admission(request, self._policy, accepted_at=asked_at, body_hash=digest)
        return Admitted(meta=incoming.child(STAGE, VERSION), request=request, admission=decided)

    def _check_age(self, admitted: Admitted) -> None:
        """Only the first delivery can be too late here: a redelivered request may be in work already."""
        expires_at = admitted.admission.expires_at
        if expires_at is not None and self._clock.now() >= expires_at:
            raise RefusedError(
                "expired", "ttl_ms: the request was read after its time to live", field="ttl_ms", status="expired"
            )

    async def _once(self, incoming: Incoming[Request], admitted: Admitted, claimant: Claimant) -> Record:
        """The admitted request, unless another one holds its idempotency key."""
        key = incoming.record.idempotency_key
        if key is None:
            return admitted
        reservation = await self._idempotency.reserve(claimant, key)
        if reservation.outcome == "mine":
            return admitted
        # From here on the request is known as it was admitted: tier, route and priority included.
        known = cast("Incoming[Admitted]", replace(cast("Incoming[Any]", incoming), record=admitted))
        if reservation.outcome == "conflict":
            message = "idempotency_key: was used for another body; use a new key"
            return self._refusal(known, RefusedError("idempotency_conflict", message, field="idempotency_key"))
        original = await self._final(claimant, reservation.request_id)
        if original is None:
            message = f"idempotency_key: request {reservation.request_id} with this key and body is not answered yet"
            return self._refusal(known, RefusedError("duplicate_in_flight", message, field="idempotency_key"))
        return copy_answer(original, known, stage=STAGE, stage_version=VERSION, now=self._clock.now())

    async def _final(self, claimant: Claimant, request_id: str) -> Answer | None:
        stored = await self._finality.get(claimant.tenant, claimant.lane, request_id)
        return None if stored is None else await self._codec.decode_fetching(stored.value, Answer)

    def _refusal(self, incoming: Incoming[Request] | Incoming[Admitted], refusal: RefusedError) -> Answer:
        lane = self._policy.lane
        return final_answer(
            replace(incoming, meta=replace(incoming.meta, lane=lane)),
            stage=STAGE,
            stage_version=VERSION,
            status=refusal.status,
            failure=failure_of(refusal),
            now=self._clock.now(),
            policy_version=self._policy.version,
        )


def _claimant(incoming: Incoming[Request], lane: str, *, stranger: bool) -> Claimant:
    """Who asks. What came the wrong way is another body, so that it can't end a request that came the right way."""
    meta = incoming.meta
    digest = body_hash(incoming.record)
    return Claimant(
        tenant=meta.tenant,
        lane=lane,
        request_id=meta.request_id,
        body_hash=f"stranger/{digest}" if stranger else digest,
        control_offset=incoming.control_offset,
        # Postgres keeps microseconds.
        accepted_at=incoming.appended_at.astimezone(UTC),
    )


def _as_first_delivered(incoming: Incoming[Request], reservation: Reservation) -> Incoming[Request]:
    accepted_at: datetime = reservation.accepted_at
    return replace(
        incoming,
        meta=replace(incoming.meta, accepted_at=accepted_at),
        control_offset=reservation.control_offset,
    )
