"""A catalogue of lineage: a real HTTP server in a thread of its own, and what makes an event one of OpenLineage's."""

from __future__ import annotations

import asyncio
import importlib
import json
import pkgutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import attr
from aiohttp import web

from streams.lineage import openlineage

TAKEN = 201


class Catalogue:
    """Keeps what it is sent. ``status`` is what it answers with; while ``held`` is clear it answers to nobody."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.status = TAKEN
        self.url = ""
        self.held: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def take(self, request: web.Request) -> web.Response:
        if self.held is not None:
            await self.held.wait()
        self.paths.append(request.path)
        self.headers.append(dict(request.headers))
        if self.status == TAKEN:
            self.bodies.append(await request.json())
        return web.Response(status=self.status)

    def hold(self) -> None:
        """Answer to nobody from now on."""
        self.held = asyncio.Event()

    def of(self, run_id: str) -> list[dict[str, Any]]:
        """The events of a run, in the order in which they came."""
        return [body for body in self.bodies if body["run"]["runId"] == run_id]


@contextmanager
def catalogue() -> Iterator[Catalogue]:
    """A catalogue on a port that the system chose."""
    found, ready, stop = Catalogue(), threading.Event(), asyncio.Event()
    loop = asyncio.new_event_loop()

    async def serve() -> None:
        app = web.Application()
        app.router.add_post("/{path:.*}", found.take)
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        found.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        ready.set()
        await stop.wait()
        await runner.cleanup()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),), daemon=True)
    thread.start()
    assert ready.wait(60), "the catalogue is not up"
    try:
        yield found
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(60)
        loop.close()


def checked(body: dict[str, Any]) -> dict[str, Any]:
    """The event, once all of it is what the library's types take: facets by their own schema's name."""
    assert {"eventTime", "producer", "schemaURL", "run", "job", "eventType"} <= set(body)
    assert body["schemaURL"].endswith("#/$defs/RunEvent")
    openlineage.RunEvent(
        eventType=openlineage.RunState(body["eventType"]),
        eventTime=body["eventTime"],
        run=openlineage.Run(runId=body["run"]["runId"]),
        job=openlineage.Job(namespace=body["job"]["namespace"], name=body["job"]["name"]),
        producer=body["producer"],
    )
    holders = [body["run"], body["job"]]
    for dataset in (*body.get("inputs", ()), *body.get("outputs", ())):
        assert dataset["namespace"] and dataset["name"]
        holders += [dataset, {"facets": dataset.get("inputFacets", {})}, {"facets": dataset.get("outputFacets", {})}]
    for holder in holders:
        for name, facet in holder.get("facets", {}).items():
            _check_facet(name, facet)
    json.dumps(body, allow_nan=False)
    return body


def _check_facet(name: str, facet: dict[str, Any]) -> None:
    assert facet["_producer"].startswith("urn:headrace:"), name
    kind = _FACETS[facet["_schemaURL"].rpartition("/")[2]]
    said = {key: value for key, value in facet.items() if not key.startswith("_")}
    if name.startswith("headrace_"):
        # Ours: under the schema of all facets of the kind, which takes more than it names.
        assert said, name
        return
    # Raises for a field that is missing, for one that there is not, and for a value that is none.
    kind(**said)


def _facets() -> dict[str, Any]:
    package = importlib.import_module("openlineage.client.generated")
    found = {}
    for module in pkgutil.iter_modules(package.__path__):
        for name, kind in vars(importlib.import_module(f"{package.__name__}.{module.name}")).items():
            if isinstance(kind, type) and attr.has(kind) and name.endswith("Facet"):
                found[name] = kind
    return found


_FACETS = _facets()
