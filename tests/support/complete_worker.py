"""One life of a complete stage without a broker: ``python -m tests.support.complete_worker`` reads a plan as JSON.

Processes one event and prints the sha256 of every output, one a line. A fail point may end it before. ``run`` is such a
life in the test's own process, ``start`` and ``die`` are processes of their own.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any

from processors.budgets.postgres import PostgresBudgets
from processors.budgets.rule import Budget
from processors.cache import CachePolicy, Caches, PostgresCacheStore
from processors.clock import DatabaseClock
from processors.complete.policies import CascadePolicy, FanOutPolicy
from processors.complete.processor import Complete
from processors.complete.purse import Guard
from processors.complete.retry import Backoff
from processors.complete.routes import Deployment, Group, HedgePolicy, Route
from processors.control import FakeControl
from processors.event import Output, Recorded
from processors.failpoints import failpoints
from processors.journal import PostgresJournal
from processors.model import OpenAIClient
from processors.postgres import Database
from processors.prices.tariff import Price
from schemas.codec import Codec
from schemas.records import ResponseFormat, Text
from tests.provider.process import ROOT
from tests.support.enrichments import enrichment, incoming

CODEC = Codec.offline()
# Far more than a life takes on a busy machine.
_PATIENCE_S = 120.0


async def start(plan: dict[str, Any]) -> asyncio.subprocess.Process:
    """A process that works on the plan; what it prints can be read."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.support.complete_worker",
        cwd=ROOT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps(plan).encode())
    process.stdin.close()
    return process


async def die(plan: dict[str, Any], failpoint: str) -> None:
    """Work on the plan in a process that the fail point kills before it has printed anything."""
    process = await start(plan | {"failpoint": failpoint})
    assert process.stdout is not None
    async with asyncio.timeout(_PATIENCE_S):
        printed = await process.stdout.read()
        await process.wait()
    assert (process.returncode, printed) == (-signal.SIGKILL, b"")


async def run(plan: dict[str, Any]) -> list[str]:
    """Process the plan's event; the digests of the outputs."""
    database = await Database.open(plan["dsn"])
    client = OpenAIClient()
    clock = DatabaseClock()
    clock.set(await database.now())
    price = Price(prompt=Decimal(plan.get("price", "0")), completion=Decimal(plan.get("price", "0")))
    deployment = Deployment(name="d1", model="fake", base_url=plan["base_url"], total_timeout_s=10.0, price=price)
    rules = (Budget(name=plan["budget"], period="day", only={}, hard_usd=Decimal(10)),) if "budget" in plan else ()
    budgets = PostgresBudgets(database, rules)
    journal = PostgresJournal(database, lease_s=plan["lease_s"])
    caches = Caches(
        PostgresCacheStore(database),
        journal,
        policies={"default": CachePolicy(exact=plan.get("cache", False), single_flight=plan.get("cache", False))},
        codec=CODEC,
        clock=clock,
        failpoints=failpoints(plan.get("failpoint")),
    )
    stage = Complete(
        journal,
        client,
        routes={"default": _route(deployment, plan)},
        codec=CODEC,
        clock=clock,
        control=FakeControl(),
        owner=secrets.token_hex(4),
        timeout_s=60.0 + plan["lease_s"],
        failpoints=failpoints(plan.get("failpoint")),
        backoff=Backoff(first_s=0.01, longest_s=0.02),
        caches=caches,
        guard=Guard(budgets, rules, clock=clock, hold_s=plan.get("hold_s", 60.0)),
    )
    stage.start()
    record = enrichment(plan.get("request_id", plan["lane"]), plan["text"], lane=plan["lane"], expires_at=None)
    if "schema" in plan:
        wanted = ResponseFormat(type="json_schema", schema_json=Text(inline=plan["schema"]))
        record = replace(record, request=replace(record.request, response_format=wanted))
    try:
        return digests(await stage(incoming(record, CODEC)))
    finally:
        await stage.stop()
        await client.close()
        await database.close()


def _route(deployment: Deployment, plan: dict[str, Any]) -> Route:
    """The route, with a second deployment for the hedging or the cascade that the plan wants."""
    route = Route(name="default", deployment=replace(deployment, **plan.get("first", {})), max_attempts=4)
    if "fan_out" in plan:
        return replace(route, max_attempts=1, fan_out=FanOutPolicy(**plan["fan_out"]))
    other = replace(deployment, name="d2", weight=0.0)
    if "cascade" in plan:
        # As many attempts as there are models: no repeat makes up for what a crash has cost.
        stronger = CascadePolicy(groups=(Group(deployments=(other,)),), least_time_s=0.0)
        return replace(route, max_attempts=plan["cascade"], cascade=stronger)
    if "hedge" not in plan:
        return route
    return replace(route, others=(other,), hedge=HedgePolicy(share=1.0, **plan["hedge"]))


def digests(outputs: Sequence[Output]) -> list[str]:
    """Name and sha256 of the bytes of every output."""
    values = [(o.record, o.value) if isinstance(o, Recorded) else (o, CODEC.encode(o)) for o in outputs]
    return [f"{type(record).__name__} {hashlib.sha256(value).hexdigest()}" for record, value in values]


if __name__ == "__main__":
    for line in asyncio.run(run(json.load(sys.stdin))):
        print(line)  # noqa: T201
