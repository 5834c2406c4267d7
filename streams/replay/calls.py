"""Calls of a replay: what is paid for is what the run changes, within its own limit and behind live traffic."""

from __future__ import annotations

import os
import secrets
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

from processors.clock import Clock
from processors.complete.complexity import route_of_class
from processors.complete.payload import build_payload, payload_hash, token_limit
from processors.complete.processor import Complete
from processors.complete.routes import Deployment, Route
from processors.complete.target import narrowed
from processors.complete.worst import worst_case
from processors.control import ControlView
from processors.evaluate.replies import ReplyScorer
from processors.event import Incoming, Output
from processors.journal import CallKey, Done, PostgresJournal
from processors.model import ModelClients
from processors.postgres import Database
from processors.prompts import PgPrompts, PromptStore
from processors.routing.spare import Spare
from schemas.codec import Codec
from schemas.errors import (
    ConfigurationError,
    DependencyDownError,
    HeadraceError,
    NotYetError,
    PermanentProviderError,
)
from schemas.records import Enrichment, Usage
from streams.capacity.spare import Leftover
from streams.deployed import check_keys, routes
from streams.ports import enrich_policies
from streams.replay.changes import Changes
from streams.replay.earlier import earlier_runs
from streams.replay.embeddings import Bounds
from streams.replay.limits import Pace, Purse, Yielding
from streams.replay.rerender import Rerender
from streams.replay.run import Run
from streams.settings import Settings
from streams.stages import STAGES

# Between two tries for a place.
PAUSE_S = 1.0


@dataclass(frozen=True, slots=True)
class Prepared:
    """What is known of a call before it is made. ``reused``: the lane that has it; amounts in US dollars.

    ``error`` ends the event without a call. ``likely`` is for a single attempt with as many tokens as it may generate.
    ``deployments`` are those of its route, which it may go to at first.
    """

    model: str = ""
    input_hash: str = ""
    likely: Decimal = Decimal(0)
    most: Decimal = Decimal(0)
    reused: str | None = None
    error: HeadraceError | None = None
    deployments: tuple[str, ...] = ()

    @property
    def needs_place(self) -> bool:
        """Whether a provider is asked."""
        return bool(self.deployments) and self.reused is None and self.error is None


class Calls:
    """Prepares the calls of a run, batch by batch; then makes them by the stage's own processor."""

    def __init__(
        self,
        run: Run,
        settings: Settings,
        changes: Changes,
        *,
        database: Database,
        codec: Codec,
        clock: Clock,
        rerender: Rerender,
    ) -> None:
        """Raises ``ConfigurationError`` for a route or key that is not there."""
        check_keys(settings)
        self._run, self._settings, self._changes = run, settings, changes
        self._database, self._codec, self._clock, self._rerender = database, codec, clock, rerender
        self.routes: Mapping[str, Route] = routes(settings)
        self.prepared: dict[str, Prepared] = {}
        # By tenant and request: the lane whose call is reused.
        self.reused: dict[tuple[str, str], str] = {}
        self._lanes: list[str] | None = None

    async def prepare(self, batch: Sequence[Incoming[Any]]) -> list[Incoming[Any]]:
        """The events as they are to be asked, and what is known of their calls in ``prepared``, by event id.

        Forgets the batch before. Blocks on one query, and on the prompt store.
        """
        self.prepared, self.reused, changed = {}, {}, []
        for incoming in batch:
            try:
                ready, known = await self._one(incoming)
            except PermanentProviderError:
                # No such route or model: the stage says so.
                ready, known = incoming, Prepared()
            except HeadraceError as error:
                if error.retryable:
                    raise
                ready, known = incoming, Prepared(error=error)
            self.prepared[incoming.meta.event_id] = known
            changed.append(ready)
        await self._find_reusable(changed)
        return changed

    async def _one(self, incoming: Incoming[Any]) -> tuple[Incoming[Any], Prepared]:
        record: Enrichment = incoming.record
        prompt = self._changes.prompt
        if prompt is not None:
            record = await self._rerender(record, prompt.name, prompt.version)
            incoming = replace(incoming, record=record, raw=self._codec.encode(record))
        route = self.routes.get(record.admission.route)
        if route is None:
            return incoming, Prepared()
        # As the stage goes: by the class of what is asked now, of which the journal has the hash.
        chosen = narrowed(route_of_class(route, record), record.request.model)
        deployment, now = chosen.deployment, self._clock.now()
        tokens = Usage(
            prompt_tokens=record.grounding.prompt_tokens_estimate,
            completion_tokens=token_limit(record.request.sampling, deployment),
        )
        return incoming, Prepared(
            model=deployment.model,
            input_hash=payload_hash(build_payload(record, deployment), deployment),
            likely=deployment.price.amount(tokens, now),
            most=worst_case(record, chosen, at=now),
            deployments=tuple(one.name for one in chosen.own.deployments),
        )

    def most(self, record: Enrichment) -> Decimal:
        """The most that the call of an enrichment can cost, in US dollars, whatever its complexity is taken for."""
        route, at = self.routes.get(record.admission.route), self._clock.now()
        if route is None:
            return Decimal(0)
        ways = (replace(route, complexity=None), *(route.complexity.routes.values() if route.complexity else ()))
        found = []
        for way in ways:
            with suppress(HeadraceError):
                found.append(worst_case(record, narrowed(way, record.request.model), at=at))
        return max(found, default=Decimal(0))

    async def _find_reusable(self, batch: Sequence[Incoming[Any]]) -> None:
        asked = [(one, known) for one in batch if (known := self.prepared[one.meta.event_id]).input_hash]
        if not asked:
            return
        if self._lanes is None:
            earlier = await earlier_runs(self._database, self._run, "complete")
            self._lanes = [self._run.source_lane, *(lane for lane, _ in earlier)]
        parameters = {
            "lanes": self._lanes,
            "events": [one.meta.event_id for one, _ in asked],
            "tenants": [one.meta.tenant for one, _ in asked],
            "ids": [one.meta.request_id for one, _ in asked],
            "hashes": [known.input_hash for _, known in asked],
            "own": [_key(one).call_id for one, _ in asked],
        }
        by_event = {one.meta.event_id: (one.meta.tenant, one.meta.request_id) for one, _ in asked}
        for event_id, lane in await self._database.execute(_REUSABLE, parameters):
            self.prepared[event_id] = replace(self.prepared[event_id], reused=lane)
            self.reused[by_event[event_id]] = lane

    @property
    def deployments(self) -> Collection[Deployment]:
        """All that a call may come to."""
        return {one.name: one for route in self.routes.values() for one in route.deployments}.values()

    def processor(
        self,
        control: ControlView,
        stack: AsyncExitStack,
        *,
        scorer: ReplyScorer | None = None,
        spare: Spare | None = None,
    ) -> Callable[[Incoming[Any]], Awaitable[Any]]:
        """The complete stage, without what is for live traffic: streams, caches, budgets and times to live.

        ``spare`` is what live leaves of the deployments; an event that waits for it too long is begun once more.
        """
        client = ModelClients()
        stack.push_async_callback(client.close)
        journal = RunJournal(self._database, self, lease_s=self._settings.worker.lease_s)
        processor = Complete(
            journal,
            client,
            routes=self.routes,
            codec=self._codec,
            clock=self._clock,
            control=control,
            owner=f"{os.uname().nodename}-{os.getpid()}-{secrets.token_hex(4)}",
            timeout_s=STAGES["complete"].limit_s(self._settings),
            scorer=scorer,
            spare=spare,
        )
        processor.start()
        stack.push_async_callback(processor.stop)

        async def process(incoming: Incoming[Any]) -> Sequence[Output]:
            known = self.prepared.get(incoming.meta.event_id)
            if known is not None and known.error is not None:
                raise known.error
            return await processor(incoming)

        return waiting_for_places(process)


class RunJournal(PostgresJournal):
    """The journal as a run sees it: calls of its source lane and of other runs are looked up by what they sent."""

    def __init__(self, database: Database, calls: Calls, *, lease_s: float) -> None:
        super().__init__(database, lease_s=lease_s)
        self._calls = calls

    async def earlier_result(self, key: CallKey, input_hash: str) -> Done | None:
        lane = self._calls.reused.get((key.tenant, key.request_id))
        return None if lane is None else await super().earlier_result(replace(key, lane=lane), input_hash)


class Limits:
    """What holds back the events of a step. ``left`` is what live leaves of the deployments; ``bounds`` what events
    have embedded, where that is paid."""

    def __init__(
        self,
        pace: Pace,
        purse: Purse,
        yielding: Yielding | None,
        calls: Calls | None,
        left: Leftover | None = None,
        bounds: Bounds | None = None,
    ) -> None:
        self._pace, self._purse, self._yielding, self._calls, self._left = pace, purse, yielding, calls, left
        self._bounds = bounds
        # Events that were given room there.
        self._placed: set[str] = set()

    async def begin(self, incoming: Incoming[Any]) -> bool:
        """Wait until the event may begin. False: the run may spend no more. Raises ``PassedOverError``."""
        known = None if self._calls is None else self._calls.prepared[incoming.meta.event_id]
        most = Decimal(0) if known is None or known.reused else known.most
        embeddings = Decimal(0) if self._bounds is None else self._bounds.of(incoming).most_usd
        self._purse.look(most + embeddings)
        await self._pace.wait()
        if self._yielding is not None:
            await self._yielding.wait()
        if known is None and not embeddings:
            return True
        event_id = incoming.meta.event_id
        needs = self._left is not None and known is not None and known.needs_place
        if self._left is not None and known is not None and needs:
            await self._left.room(known.deployments)
        if not await self._purse.open(event_id, most + embeddings):
            return False
        if embeddings:
            self._purse.keep_for_embeddings(event_id, embeddings)
        if self._left is not None and needs:
            self._left.prepare()
            self._placed.add(event_id)
        return True

    def done(self, incoming: Incoming[Any], cost: Decimal) -> None:
        """Note what the event cost."""
        event_id = incoming.meta.event_id
        self._purse.settle(event_id, cost + self._purse.bought(event_id))
        if self._left is not None and event_id in self._placed:
            self._placed.discard(event_id)
            self._left.done()


def waiting_for_places(process: Callable[[Incoming[Any]], Awaitable[Any]]) -> Callable[[Incoming[Any]], Awaitable[Any]]:
    """The same, but that live has every place is waited for, for as long as it takes: nothing is away then."""

    async def waiting(incoming: Incoming[Any]) -> Any:
        try:
            return await process(incoming)
        except DependencyDownError as error:
            if not error.dependency.startswith("deployment "):
                raise
            raise NotYetError(PAUSE_S, error.dependency) from error

    return waiting


def calls_of(run: Run, settings: Settings, changes: Changes, database: Database, codec: Codec, clock: Clock) -> Calls:
    """The calls of a run."""
    rerender = Rerender(PgPrompts(database), clock, enrich_policies(settings))
    return Calls(run, settings, changes, database=database, codec=codec, clock=clock, rerender=rerender)


async def check_prompt(prompts: PromptStore, changes: Changes) -> None:
    """Raise ``ConfigurationError`` for a prompt version that is not there."""
    prompt = changes.prompt
    if prompt is None or await prompts.get(prompt.name, prompt.version) is not None:
        return
    known = [one.reference for one in await prompts.list() if one.name == prompt.name]
    there = f"there are {', '.join(known)}" if known else "there is none of that name; see headrace prompt list"
    raise ConfigurationError(f"--set prompt={prompt.name}@{prompt.version}: no such version; {there}")


def check_model(settings: Settings, model: str | None) -> None:
    """Raise ``ConfigurationError`` for a model that no route offers."""
    offered = {one.model for one in settings.deployments.values()}
    if model is not None and model not in offered:
        raise ConfigurationError(
            f"--set model={model}: no deployment serves it; there are {', '.join(sorted(offered))}"
        )


def _key(incoming: Incoming[Any]) -> CallKey:
    meta = incoming.meta
    return CallKey(tenant=meta.tenant, lane=meta.lane, run=meta.run, request_id=meta.request_id)


# One step of the journal's index for each lane and request. A call that the run itself began goes on.
_REUSABLE = """
    SELECT DISTINCT ON (asked.event_id) asked.event_id, calls.lane
    FROM unnest(%(events)s::text[], %(tenants)s::text[], %(ids)s::text[], %(hashes)s::text[], %(own)s::uuid[])
        WITH ORDINALITY AS asked (event_id, tenant, request_id, input_hash, own, number)
    CROSS JOIN unnest(%(lanes)s::text[]) WITH ORDINALITY AS looked (lane, rank)
    JOIN calls ON calls.tenant = asked.tenant AND calls.lane = looked.lane AND calls.request_id = asked.request_id
      AND calls.purpose = 'completion' AND calls.ordinal = 0 AND calls.state = 'done'
      AND calls.input_hash = asked.input_hash
    WHERE NOT EXISTS (SELECT FROM calls AS ours WHERE ours.call_id = asked.own)
    ORDER BY asked.event_id, looked.rank
"""
