"""What the stage makes of one event: the call to offer, and the task once it is granted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from processors.clock import Clock
from processors.complete import SAMPLE
from processors.complete.cancellation import Cancellation
from processors.complete.cascade import Checks, Standing
from processors.complete.complexity import complexity_of, route_of_class
from processors.complete.judging import accept_all
from processors.complete.payload import build_payload, payload_hash
from processors.complete.records import completion_of
from processors.complete.resort import resorted
from processors.complete.retry import STREAM_BROKEN
from processors.complete.routes import Route
from processors.complete.streaming import streams, wants_stream
from processors.complete.target import narrowed, offer_of, route_of_sample
from processors.complete.task import Task
from processors.evaluate.replies import ReplyScorer
from processors.event import Incoming
from processors.journal import AttemptRow, CallKey, Granted, Offer, Settled
from processors.model.port import ModelReply
from processors.routing import Seat, Unavailable
from processors.structured.judge import judge_of
from schemas.codec import Codec
from schemas.errors import PermanentProviderError
from schemas.records import Completion, Complexity, Enrichment, Hedge


class Tasks:
    """Makes offers and tasks.

    ``can_stream``: whether there is anywhere to send live text. ``scorer`` is for routes that check groundedness.
    """

    def __init__(
        self,
        routes: Mapping[str, Route],
        codec: Codec,
        clock: Clock,
        *,
        can_stream: bool,
        scorer: ReplyScorer | None = None,
    ) -> None:
        self._routes, self._codec, self._clock, self._can_stream = routes, codec, clock, can_stream
        self._scorer = scorer

    def offer(self, incoming: Incoming[Enrichment], *, sample: int | None = None) -> Offer:
        """The call that the event asks for, or one of its samples.

        Raises ``PermanentProviderError``: no such route or model.
        """
        route = self.route(incoming.record, sample=sample)
        # Nobody knows how much of the text was public when its worker was lost.
        broken = route.on_break == "failed" and self.streams(incoming.record, route)
        lost = STREAM_BROKEN if broken else None
        key = key_of(incoming) if sample is None else sample_key(key_of(incoming), sample)
        return offer_of(incoming, key, route, if_lost=lost, at=self._clock.now())

    def task(
        self,
        incoming: Incoming[Enrichment],
        granted: Granted,
        seat: Seat | Unavailable,
        ends: float,
        cancellation: Cancellation,
        *,
        affordable: bool = True,
        sample: int | None = None,
    ) -> Task:
        """What to call with: the journal's input, whatever this delivery says.

        ``affordable``: whether the call's budgets hold a stronger model's call too. ``sample``: which one it is.
        """
        stored = self.as_stored(incoming, granted.input)
        route = self.route(stored.record, sample=sample)
        payload = build_payload(stored.record, seat.deployment if isinstance(seat, Seat) else route.deployment)
        input_hash = payload_hash(build_payload(stored.record, route.deployment), route.deployment)
        streamed, hard = self.streams(stored.record, route), self._complexity(stored.record)
        judge, checks = judge_of(stored.record.request, route, payload), None
        if route.cascade is not None:
            checks = Checks(route, route.cascade, stored, self._scorer, affordable=affordable)
            if granted.kept is not None:
                checks.take_up(granted.kept, granted.earlier)

        def encode(
            reply: ModelReply, attempts: tuple[AttemptRow, ...], settled: Settled, *, hedge: Hedge | None = None
        ) -> bytes:
            completion = completion_of(stored, reply, attempts, settled, input_hash=input_hash)
            return finished(replace(completion, hedge=hedge), attempts)

        def noted(completion: Completion) -> Completion:
            return replace(completion, streamed=streamed, complexity=hard)

        def stand(kept: Standing, attempts: tuple[AttemptRow, ...], settled: Settled) -> bytes:
            completion = completion_of(stored, kept.reply, attempts, settled, input_hash=input_hash, by=kept.row)
            return finished(completion, attempts)

        def finished(completion: Completion, attempts: tuple[AttemptRow, ...]) -> bytes:
            checked = None if judge is None else judge.record(attempts)
            weighed = None if checks is None else checks.record(attempts)
            return self._codec.encode(replace(noted(completion), structured=checked, cascade=weighed))

        def resort(attempts: tuple[AttemptRow, ...], settled: Settled, code: str) -> bytes:
            completion = resorted(stored, attempts, settled, route=route, code=code, input_hash=input_hash)
            weighed = None if checks is None else checks.record(attempts, answered=False)
            return self._codec.encode(replace(noted(completion), cascade=weighed))

        return Task(
            route=route,
            seat=seat if isinstance(seat, Seat) else None,
            resort=None if route.last_resort is None else resort,
            payload=payload,
            stored=stored,
            streamed=streamed,
            cancellation=cancellation,
            ends=ends,
            encode=encode,
            judge=judge or accept_all,
            checks=checks,
            stand=None if checks is None else stand,
        )

    def streams(self, enrichment: Enrichment, route: Route) -> bool:
        """Whether a call by this route is streamed."""
        return self._can_stream and streams(enrichment.request, route_streams=route.live)

    def streamed(self, enrichment: Enrichment) -> bool:
        """Whether a call that failed may have streamed; without its route, whether it was asked to."""
        route = self._routes.get(enrichment.admission.route)
        if route is None:
            return wants_stream(enrichment.request)
        return self.streams(enrichment, route_of_class(route, enrichment))

    def _complexity(self, enrichment: Enrichment) -> Complexity | None:
        """How hard the request is taken to be, where its route has rules for that."""
        policy = self._routes[enrichment.admission.route].complexity
        return None if policy is None else complexity_of(enrichment, policy)

    def as_stored(self, incoming: Incoming[Enrichment], data: bytes) -> Incoming[Enrichment]:
        """This delivery with the record that the journal has."""
        if data == incoming.raw:
            return incoming
        record = self._codec.decode(data, Enrichment)
        accepted_at = record.meta.accepted_at or incoming.meta.accepted_at
        return replace(incoming, record=record, meta=replace(record.meta, accepted_at=accepted_at), raw=data)

    def sample_input(self, incoming: Incoming[Enrichment], number: int) -> Incoming[Enrichment]:
        """What a sample is asked: as the request is, but that a seed is another one for each of several samples."""
        request, fan_out = incoming.record.request, self.route(incoming.record).fan_out
        seed = request.sampling.seed
        if not number or seed is None or fan_out is None or fan_out.members:
            return incoming
        record = replace(
            incoming.record, request=replace(request, sampling=replace(request.sampling, seed=seed + number))
        )
        return replace(incoming, record=record, raw=self._codec.encode(record))

    def route(self, enrichment: Enrichment, *, sample: int | None = None) -> Route:
        """The route, with what serves the model asked for, or what it is for one of its samples.

        Raises ``PermanentProviderError``: there is none.
        """
        name, model = enrichment.admission.route, enrichment.request.model
        route = self._routes.get(name)
        if route is None:
            raise PermanentProviderError("unknown_route", f"route {name!r} is not in this worker's settings")
        route = route_of_class(route, enrichment)
        whole = narrowed(route, model)
        return whole if sample is None else route_of_sample(whole, sample)


def sample_key(key: CallKey, number: int) -> CallKey:
    """The call of one sample of a request."""
    return replace(key, purpose=SAMPLE, ordinal=number)


def key_of(incoming: Incoming[Enrichment]) -> CallKey:
    """The call that answers the request itself."""
    meta = incoming.meta
    return CallKey(tenant=meta.tenant, lane=meta.lane, run=meta.run, request_id=meta.request_id)
