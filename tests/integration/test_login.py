"""Every way to log in reaches every client, and a refused login says which setting to look at."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from schemas.errors import ConfigurationError, DependencyDownError
from streams import login
from streams.app import create_app
from streams.producer import Outgoing, Producer
from streams.reading import TopicReader
from streams.settings import KafkaSettings, Settings
from streams.topics import apply, compare, topic_name
from tests.support.secure import PLAIN_PASSWORD, ROOT, SecureBroker, password_of, unsecured_token
from tests.support.settings import settings_for
from tests.support.stack import TestStack

pytestmark = pytest.mark.stack

CLIENT_SECRET = "of-the-client"


@pytest.fixture(scope="module")
def token_url() -> Iterator[str]:
    """A provider of tokens that knows one client."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            known = self.headers["Authorization"] == "Basic aGVhZHJhY2U6b2YtdGhlLWNsaWVudA=="
            body = json.dumps({"access_token": unsecured_token(), "expires_in": 300} if known else {}).encode()
            self.send_response(200 if known else 401)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            return None

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/token"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def ways(secure_broker: SecureBroker, token_url: str) -> dict[str, dict[str, Any]]:
    """The section ``kafka`` for each way to log in as root."""
    broker = secure_broker
    broker.users(ROOT)
    broker.users(ROOT, mechanism="SCRAM-SHA-256")
    token = broker.folder / "token"
    token.write_text(unsecured_token())
    pair = broker.authority.sign(ROOT, password="locked")
    oauth = {"mechanism": "OAUTHBEARER", "token_url": token_url, "client_id": "headrace"}

    def sasl(**changes: Any) -> dict[str, Any]:
        return {**broker.sasl(ROOT), "sasl": changes}

    trusted = {"ca_file": str(broker.authority.file)}
    certificate = {"certificate_file": str(pair.certificate), "key_file": str(pair.key), "key_password": "locked"}
    return {
        "scram-256": broker.sasl(ROOT, mechanism="SCRAM-SHA-256"),
        "scram-512": broker.sasl(ROOT),
        "plain": sasl(mechanism="PLAIN", username=ROOT, password=PLAIN_PASSWORD),
        "token file": sasl(mechanism="OAUTHBEARER", token_file=str(token)),
        "token url": sasl(**oauth, client_secret=CLIENT_SECRET),
        "certificate": {"bootstrap": broker.tls, "tls": {**trusted, **certificate}},
        "wrong password": broker.sasl(ROOT, password="wrong-secret"),
        "wrong mechanism": broker.sasl("nobody", mechanism="PLAIN"),
        "wrong client": sasl(**oauth, client_secret="wrong-secret"),
        "no certificate": {"bootstrap": broker.tls, "tls": trusted},
        "stranger's broker": {**broker.sasl(ROOT), "tls": {}},
        "other host": {**broker.sasl(ROOT), "bootstrap": broker.sasl_ssl.replace("127.0.0.1", "localhost")},
        "no encryption": {**broker.sasl(ROOT), "tls": None},
        "nobody there": {**broker.sasl(ROOT), "bootstrap": "127.0.0.1:9"},
    }


def settings_of(stack: TestStack, way: dict[str, Any]) -> Settings:
    return settings_for(stack, kafka=way)


@pytest.mark.parametrize("name", ["scram-256", "scram-512", "plain", "token file", "token url", "certificate"])
def test_both_clients_log_in(stack: TestStack, ways: dict[str, dict[str, Any]], lane: str, name: str) -> None:
    settings = settings_of(stack, ways[name])
    assert asyncio.run(login.refusal(settings.kafka)) is None
    apply(settings, lane, compare(settings, lane, ["requests"]))
    topic = topic_name("", lane, "requests")
    asyncio.run(send(settings.kafka, topic))
    with TopicReader(settings) as reader:
        assert [entry.value for entry in reader.read(reader.ends(reader.places([topic])))] == [b"sent"]


@pytest.mark.parametrize("name", ["token url", "certificate"])
async def test_a_stage_logs_in(stack: TestStack, ways: dict[str, dict[str, Any]], lane: str, name: str) -> None:
    settings = settings_of(stack, ways[name])
    await asyncio.to_thread(lambda: apply(settings, lane, compare(settings, lane, ["requests"])))
    topic = topic_name("", lane, "requests")
    await send(settings.kafka, topic)
    taken: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def take(event: Any) -> None:
        event.ack()
        taken.set_result(event.message.value)

    app = create_app(settings, group=f"{topic}.group", topics=[topic], slot="0", concurrency=1, take=take)
    await app.start()
    try:
        assert await asyncio.wait_for(taken, 60) == b"sent"
    finally:
        await app.stop()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("wrong password", "refused the user root by SCRAM-SHA-512; check kafka.sasl.username, its password"),
        ("wrong mechanism", "refused the user nobody by PLAIN"),
        ("wrong client", "kafka.sasl.token_url refused the client (HTTP 401); check kafka.sasl.client_id"),
        ("no certificate", "kafka.tls.certificate_file"),
        ("stranger's broker", "kafka.tls: "),
        ("other host", "Hostname mismatch"),
        ("no encryption", "this client speaks SASL_PLAINTEXT: set kafka.tls"),
    ],
)
def test_a_refused_login_names_the_setting(
    stack: TestStack, ways: dict[str, dict[str, Any]], name: str, said: str
) -> None:
    settings = settings_of(stack, ways[name])
    for attempt in (lambda: TopicReader(settings), lambda: asyncio.run(Producer(settings.kafka).start())):
        with pytest.raises(ConfigurationError) as refused:
            attempt()
        assert said in str(refused.value)
        assert "-secret" not in str(refused.value)
        assert password_of(ROOT) not in str(refused.value)


def test_a_broker_that_is_away_is_no_refusal(stack: TestStack, ways: dict[str, dict[str, Any]]) -> None:
    settings = settings_of(stack, ways["nobody there"])
    login.check_login(settings.kafka)
    with pytest.raises(DependencyDownError, match="kafka is not reachable"):
        asyncio.run(Producer(settings.kafka).start())


async def send(kafka: KafkaSettings, topic: str) -> None:
    producer = Producer(kafka)
    await producer.start()
    try:
        await producer.ping()
        await producer.send([Outgoing(topic, b"key", b"sent", [])])
    finally:
        await producer.stop()
