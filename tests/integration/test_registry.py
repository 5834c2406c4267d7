"""The registry client against the real registry, and against servers that stand in for one that is broken."""

from __future__ import annotations

import asyncio
import io
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import fastavro
import pytest
from aiohttp import web
from confluent_kafka.schema_registry import SchemaRegistryClient
from typer.testing import CliRunner

from schemas.codec import Codec
from schemas.errors import ConfigurationError, DependencyDownError, UnknownSchemaError
from schemas.files import event_schemas
from schemas.record import to_plain
from schemas.records import Alert, Meta
from schemas.registry import Registry
from schemas.wire import header
from streams.cli.schemas import app
from tests.support.settings import settings_for
from tests.support.stack import TestStack

pytestmark = pytest.mark.stack
META = Meta(event_id="e-1", request_id="r-1", tenant="acme", lane="live")


def _record(subject: str, *fields: dict[str, Any]) -> str:
    namespace, _, name = subject.rpartition(".")
    return json.dumps({"type": "record", "name": name, "namespace": namespace, "fields": list(fields)})


def _frame(schema: str, schema_id: int, values: dict[str, Any]) -> bytes:
    out = io.BytesIO()
    fastavro.schemaless_writer(out, json.loads(schema), values)
    return header(schema_id) + out.getvalue()


async def test_registering_twice_changes_nothing_and_sets_full_transitive(stack: TestStack) -> None:
    registry = Registry(stack.registry_url)
    first = await registry.register(event_schemas())
    second = await registry.register(event_schemas())

    assert [one.schema_id for one in first] == [one.schema_id for one in second]
    assert not any(one.created for one in second)
    with SchemaRegistryClient({"url": stack.registry_url}) as client:
        assert {client.get_compatibility(name) for name in event_schemas()} == {"FULL_TRANSITIVE"}


async def test_a_connected_codec_writes_the_registrys_ids(stack: TestStack) -> None:
    ids = {one.subject: one.schema_id for one in await Registry(stack.registry_url).register(event_schemas())}

    codec = await Codec.connect(stack.registry_url)

    alert = Alert(meta=META, kind="budget")
    frame = codec.encode(alert)
    assert frame[:5] == header(ids["headrace.Alert"])
    assert codec.decode(frame, Alert) == alert


async def test_events_of_an_older_version_decode_without_a_fetch(stack: TestStack) -> None:
    older = json.loads(event_schemas()["headrace.Alert"])
    older["fields"] = [field for field in older["fields"] if field["name"] not in ("threshold", "labels")]
    registry = Registry(stack.registry_url)
    (registered,) = await registry.register({"headrace.Alert": json.dumps(older)})
    await registry.register(event_schemas())
    alert = Alert(meta=META, kind="budget", value=1.5)

    codec = await Codec.connect(stack.registry_url)

    frame = _frame(json.dumps(older), registered.schema_id, to_plain(alert))
    assert codec.decode(frame, Alert) == alert


async def test_a_version_registered_later_is_fetched_and_one_that_is_not_there_is_denied(
    stack: TestStack, lane: str
) -> None:
    registry = Registry(stack.registry_url)
    await registry.register(event_schemas())
    codec = await Codec.connect(stack.registry_url)
    subject = f"foreign.{lane}"
    schema = _record(subject, {"name": "a", "type": "string"})
    (registered,) = await registry.register({subject: schema})
    frame = _frame(schema, registered.schema_id, {"a": "x"})
    with pytest.raises(UnknownSchemaError):
        codec.record_name(frame)

    await codec.fetch(registered.schema_id)

    assert codec.record_name(frame) == subject
    with pytest.raises(UnknownSchemaError, match="987654"):
        await codec.fetch(987_654)


async def test_a_missing_schema_is_named_with_the_command_that_registers_it(
    stack: TestStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    await Registry(stack.registry_url).register(event_schemas())
    changed = json.loads(event_schemas()["headrace.Chunk"])
    changed["fields"].append({"name": "later", "type": ["null", "string"], "doc": "Later", "default": None})
    newer = {**event_schemas(), "headrace.Chunk": json.dumps(changed)}
    monkeypatch.setattr("schemas.codec.event_schemas", lambda: newer)

    with pytest.raises(ConfigurationError, match=r"today's headrace\.Chunk; run `headrace schemas register`"):
        await Codec.connect(stack.registry_url)


async def test_a_change_that_breaks_readers_is_refused_by_the_registry_too(stack: TestStack, lane: str) -> None:
    registry = Registry(stack.registry_url)
    subject = f"foreign.{lane}"
    await registry.register({subject: _record(subject, {"name": "a", "type": "string"})})

    with pytest.raises(ConfigurationError, match="refused"):
        await registry.register({subject: _record(subject, {"name": "a", "type": "long"})})


def test_the_command_registers_and_says_what_was_there(stack: TestStack, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_for(stack)
    monkeypatch.setattr("streams.settings.load_settings", lambda: settings)

    assert CliRunner().invoke(app, ["register"]).exit_code == 0
    again = CliRunner().invoke(app, ["register", "--json"])
    assert again.exit_code == 0
    found = json.loads(again.stdout)
    assert (found["created"], found["unchanged"]) == (0, len(event_schemas()))
    assert {one["subject"] for one in found["registered"]} == set(event_schemas())


@asynccontextmanager
async def _serving(status: int, body: str, *, delay_s: float = 0) -> AsyncIterator[str]:
    async def answer(request: web.Request) -> web.Response:
        await asyncio.sleep(delay_s)
        return web.Response(status=status, text=body, content_type="application/json")

    server = web.Application()
    server.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(server, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
        yield f"http://127.0.0.1:{port}"
    finally:
        await runner.cleanup()


def _closed_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


async def test_a_registry_that_is_not_there_is_away() -> None:
    registry = Registry(f"http://127.0.0.1:{_closed_port()}")

    for call in (registry.fetch(1), registry.holdings(event_schemas()), registry.register(event_schemas())):
        with pytest.raises(DependencyDownError) as caught:
            await call
        assert caught.value.dependency == "registry"


@pytest.mark.parametrize("status", [500, 502, 503, 429, 401, 403])
async def test_a_registry_in_trouble_is_away_for_an_event_that_waits(status: int) -> None:
    async with _serving(status, '{"error_code": 50001, "message": "no"}') as url:
        with pytest.raises(DependencyDownError):
            await Registry(url).fetch(1)


@pytest.mark.parametrize("body", ["<html>not found</html>", "{}", '{"error_code": 404, "message": "HTTP 404"}'])
async def test_a_404_that_is_not_the_registrys_own_does_not_deny_the_id(body: str) -> None:
    async with _serving(404, body) as url:
        with pytest.raises(DependencyDownError):
            await Registry(url).fetch(1)


async def test_a_registry_that_hangs_is_away_after_the_timeout() -> None:
    async with _serving(200, "{}", delay_s=60) as url:
        with pytest.raises(DependencyDownError):
            await asyncio.wait_for(Registry(url, options={"timeout": "0.2"}).fetch(1), 30)


async def test_a_refused_credential_is_a_setting_to_mend_at_the_start() -> None:
    async with _serving(401, '{"error_code": 40101, "message": "Unauthorized"}') as url:
        with pytest.raises(ConfigurationError, match="401"):
            await Codec.connect(url)


async def test_basic_auth_is_sent_as_it_is_set() -> None:
    seen: list[str | None] = []

    async def answer(request: web.Request) -> web.Response:
        seen.append(request.headers.get("Authorization"))
        return web.json_response({"schema": '"string"'})

    server = web.Application()
    server.router.add_get("/schemas/ids/{id}", answer)
    runner = web.AppRunner(server, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
        options = {"basic.auth.user.info": "user:pass"}
        assert await Registry(f"http://127.0.0.1:{port}", options=options).fetch(1) == '"string"'
    finally:
        await runner.cleanup()
    assert seen == ["Basic dXNlcjpwYXNz"]


@pytest.mark.parametrize("options", [{"no.such.option": "x"}, {"timeout": "soon"}])
async def test_an_option_that_the_client_does_not_know_is_named(options: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError, match="|".join(options)):
        await Registry("http://127.0.0.1:9", options=options).fetch(1)
