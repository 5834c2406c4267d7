"""One life of a worker whose calls go by batch, without a broker and in the test's own process.

It puts its requests before the stage again and again, as the events that come back, and collects batches beside it. A
fail point may end it before: nothing of it goes on then, and all that it held in memory is lost.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from decimal import Decimal
from typing import Any

from processors.batchapi.policy import BatchPolicy
from processors.budgets.postgres import PostgresBudgets
from processors.budgets.rule import Budget
from processors.cache import CachePolicy, Caches, PostgresCacheStore
from processors.clock import DatabaseClock
from processors.complete.processor import Complete
from processors.complete.purse import Guard
from processors.complete.retry import Backoff
from processors.complete.routes import Deployment, Route
from processors.control import FakeControl
from processors.journal import PostgresJournal
from processors.model import OpenAIClient
from processors.postgres import Database
from processors.prices.tariff import Price
from schemas.codec import Codec
from schemas.errors import DependencyDownError, NotYetError
from streams.batching import Batching
from streams.metrics import Metrics
from tests.support.complete_worker import digests
from tests.support.enrichments import enrichment, incoming

CODEC = Codec.offline()
DEADLINE_S = 180.0
OPEN_ITEMS = "SELECT 1 FROM batch_items WHERE lane = %s AND state <> 'done' LIMIT 1"


class Gone(BaseException):
    """The worker's life is over."""


class Ending:
    """Fail points that end this life at one of them; all that is passed behind it ends too."""

    def __init__(self, name: str | None) -> None:
        self._name, self.over = name, False

    def hit(self, name: str) -> None:
        """Pass a place."""
        self.over = self.over or name == self._name
        self.check()

    def check(self) -> None:
        """Raises where this life is over."""
        if self.over:
            raise Gone


async def run(plan: dict[str, Any]) -> dict[str, list[str]]:
    """Answer the plan's requests; the outputs of each. Raises ``Gone`` where its fail point ended it."""
    database = await Database.open(plan["dsn"])
    clock, client = DatabaseClock(), OpenAIClient()
    clock.set(await database.now())
    lane, points, owner = plan["lane"], Ending(plan.get("failpoint")), secrets.token_hex(4)
    deployment = Deployment(
        name="d1",
        model="fake",
        base_url=plan["base_url"],
        total_timeout_s=10.0,
        price=Price(prompt=Decimal(10), completion=Decimal(10)),
        batch=BatchPolicy(lanes=frozenset({lane}), max_wait_s=0.0, poll_s=0.05, again=plan.get("again", "call")),
    )
    routes = {"default": Route(name="default", deployment=deployment, max_attempts=4)}
    rules = (Budget(name=lane, period="day", only={}, hard_usd=Decimal(10)),)
    control, guard = FakeControl(), Guard(PostgresBudgets(database, rules), rules, clock=clock, hold_s=60.0)
    batching = Batching(
        routes,
        client,
        database,
        lane=lane,
        owner=owner,
        codec=CODEC,
        clock=clock,
        control=control,
        guard=guard,
        metrics=Metrics(),
        failpoints=points,
        lease_s=0.6,
        interval_s=0.05,
        look_for_s=0.5,
        # The next life waits for it.
        lead_s=4.0,
    )
    journal, cached = PostgresJournal(database, lease_s=0.6), bool(plan.get("cache"))
    policies = {"default": CachePolicy(exact=cached, single_flight=cached)}
    stage = Complete(
        journal,
        batching.handing.replies,
        routes=routes,
        codec=CODEC,
        clock=clock,
        control=control,
        owner=owner,
        timeout_s=60.0,
        failpoints=points,
        backoff=Backoff(first_s=0.01, longest_s=0.02),
        guard=guard,
        batches=batching.handing,
        caches=Caches(PostgresCacheStore(database), journal, policies=policies, codec=CODEC, clock=clock),
    )
    stage.start()
    outputs: dict[str, list[str]] = {}
    collecting, late = False, bool(plan.get("late"))
    until = time.monotonic() + DEADLINE_S
    try:
        while (late or len(outputs) < len(plan["requests"])) and time.monotonic() < until:
            for request_id in plan["requests"]:
                if request_id in outputs:
                    continue
                if request_id in plan.get("cancelled", ()):
                    control.cancel("acme", request_id)
                record = enrichment(request_id, "why?", lane=lane, expires_at=None)
                try:
                    outputs[request_id] = digests(await stage(incoming(record, CODEC)))
                except (NotYetError, DependencyDownError):
                    continue
            # All are handed over before the first batch is closed.
            if not collecting:
                batching.start()
                collecting = True
            if late and len(outputs) == len(plan["requests"]):
                late = bool(await database.execute(OPEN_ITEMS, (lane,)))
            points.check()
            await asyncio.sleep(0.02)
    finally:
        await stage.stop()
        await batching.stop()
        await client.close()
        await database.close()
    return outputs
