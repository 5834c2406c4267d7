"""The whole stream over SASL_SSL: every stage under its own principal, with the generated ACLs and no others."""

from __future__ import annotations

import asyncio
import io
import json
import os
import secrets
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import pytest
from confluent_kafka import Consumer, KafkaException, Producer, TopicCollection
from confluent_kafka.admin import AdminClient

from schemas.codec import Codec
from schemas.errors import ConfigurationError
from schemas.files import event_schemas
from schemas.records import Answer, Request
from streams import security
from streams.acls import Grant, Need, create_grants, remove_grants
from streams.answers import AnswerStream
from streams.cli import main
from streams.publish import Publisher
from streams.reading import TopicReader
from streams.requests import parse_request
from streams.settings import KafkaSettings, Settings
from streams.stages import STAGES
from streams.topics import all_topics, topic_name
from tests.faults.pipeline import Pipeline, Scene, setting_values
from tests.provider.process import ProviderProcess
from tests.support.commands import Ran
from tests.support.polling import eventually
from tests.support.secure import SecureBroker
from tests.support.stack import TestStack

pytestmark = [pytest.mark.stack, pytest.mark.timeout(600)]

TENANTS = {"acme": {"tier": "gold"}, "globex": {"tier": "standard"}}
ANSWER_S = 180.0


@dataclass
class Secured:
    """A scene whose workers run, and everybody's settings."""

    broker: SecureBroker
    place: Scene
    pipeline: Pipeline
    prefix: str

    @property
    def lane(self) -> str:
        return self.place.lane

    @property
    def admin(self) -> Settings:
        """The super user's, over the plain listener."""
        kafka = KafkaSettings(bootstrap=self.broker.plain)
        return self.place.settings.model_copy(update={"kafka": kafka})

    def as_user(self, role: str) -> Settings:
        kafka = KafkaSettings(**self.broker.sasl(f"{self.prefix}{role}"))
        return self.place.settings.model_copy(update={"kafka": kafka})

    def topic(self, kind: str) -> str:
        return topic_name("", self.lane, kind)

    def request(self, tenant: str, **fields: Any) -> Request:
        line = {"query": "What does a broker keep?", "prompt": self.place.prompt, **fields}
        return parse_request(json.dumps(line), tenant=tenant, lane=self.lane)

    def publish(self, role: str, kind: str, record: Any, key: str) -> list[str]:
        """Publish as somebody; the reasons why the broker did not take it."""
        publisher = Publisher(self.as_user(role), self.place.codec, lane=self.lane)
        publisher.publish(kind, record, key)
        return [failed.reason for failed in publisher.flush()]

    def ask(self, tenant: str, *requests: Request) -> dict[str, Answer]:
        """Publish as the tenant's producer, wait as its consumer."""
        reader = self.as_user(f"app-{tenant}")
        with AnswerStream(reader, self.place.codec, lane=self.lane, tenants=[tenant]) as stream:
            for request in requests:
                assert self.publish(f"app-{tenant}", "requests", request, request.meta.request_id) == []
            found = stream.collect([one.meta.request_id for one in requests], timeout_s=ANSWER_S)
            return {answer.meta.request_id: answer for answer in found}

    def ready(self, stage: str) -> dict[str, str]:
        """Why the stage's worker is not ready; empty when it is."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.pipeline.worker(stage).port}/readyz", timeout=30):
                return {}
        except urllib.error.HTTPError as error:
            return dict(json.load(error)["reasons"])
        except OSError as error:
            return {"http": type(error).__name__}

    def grant(self, stage: str, resource: str, name: str, operation: str) -> Grant:
        return Grant(f"User:{self.prefix}{stage}", Need(resource, name, operation))  # type: ignore[arg-type]

    def variables(self, role: str, **login: str) -> dict[str, str]:
        """The variables of somebody's command."""
        kafka = self.broker.sasl(f"{self.prefix}{role}", **login)
        return {**self.place.env, "HEADRACE_KAFKA": json.dumps(kafka)}

    def acls(self, *options: str) -> dict[str, Any]:
        """``headrace topics acls`` by the super user."""
        principals = json.loads(self.place.env["HEADRACE_KAFKA"])["principals"]
        env = {
            **self.place.env,
            "HEADRACE_KAFKA": json.dumps({"bootstrap": self.broker.plain, "principals": principals}),
        }
        prefix = f"User:{self.prefix}"
        ran = headrace("topics", "acls", "--lane", self.lane, "--principal-prefix", prefix, "--json", *options, env=env)
        assert ran.code == 0, ran.err
        return dict(json.loads(ran.out))


def headrace(*arguments: str, env: Mapping[str, str]) -> Ran:
    """A command under these variables alone."""
    out, err = io.StringIO(), io.StringIO()
    clean = {name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_")}
    with (
        patch.dict(os.environ, {**clean, **env}, clear=True),
        patch("sys.argv", ["headrace", *arguments]),
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        try:
            main()
            code = 0
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 1
    return Ran(code, out.getvalue(), err.getvalue())


@pytest.fixture(scope="module")
def secured(
    stack: TestStack, secure_broker: SecureBroker, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Secured]:
    """Users, ACLs by a super user, topics by the operator, then a worker for each stage under its own user."""
    broker, folder, lane = secure_broker, tmp_path_factory.mktemp("secured"), f"t{secrets.token_hex(4)}"
    prefix = f"{lane}-"
    broker.users(*(f"{prefix}{role}" for role in [*STAGES, "operator", "app-acme", "app-globex", "hostile"]))
    users = {stage: stage for stage in STAGES}
    # A tenant's program asks and listens under one user.
    users |= {f"{role}-{tenant}": f"app-{tenant}" for role in ("producer", "consumer") for tenant in TENANTS}
    principals = {role: {"sasl": broker.sasl(f"{prefix}{user}")["sasl"]} for role, user in users.items()}
    kafka = {**broker.sasl(f"{prefix}operator"), "principals": principals, "produce_timeout_s": 10.0}
    provider = ProviderProcess(folder / "provider.jsonl")
    try:
        values = setting_values(stack, provider.base_url, "answer")
        values |= {"kafka": kafka, "trust_producers": False, "tenants": TENANTS}
        settings = Settings(**values)
        place = Scene(
            folder=folder,
            lane=lane,
            tenant="acme",
            prompt="answer",
            settings=settings,
            env={f"HEADRACE_{name.upper()}": v if isinstance(v, str) else json.dumps(v) for name, v in values.items()},
            codec=asyncio.run(registered(settings)),
            provider=provider,
        )
        running = Secured(broker, place, Pipeline(place, tuple((stage,) for stage in STAGES)), prefix)
        assert running.acls("--apply")["unwanted"] == []
        assert headrace("topics", "apply", "--lane", lane, env=place.env).code == 0
        with running.pipeline:
            yield running
    finally:
        provider.stop()


async def registered(settings: Settings) -> Codec:
    await security.registry(settings.registry).register(event_schemas())
    return await security.codec(settings.registry)


def test_every_stage_answers_under_its_own_principal(secured: Secured) -> None:
    asked = {tenant: [secured.request(tenant) for _ in range(3)] for tenant in TENANTS}
    for tenant, requests in asked.items():
        answers = secured.ask(tenant, *requests)
        assert {answer.status for answer in answers.values()} == {"answered"}, answers
        assert len(answers) == len(requests)
        assert {answer.tier for answer in answers.values()} == {TENANTS[tenant]["tier"]}
    mine = {request.meta.request_id for request in asked["acme"]}
    assert mine & keys(secured, "answers.globex") == set(), "an answer went to another tenant"
    assert mine <= keys(secured, "answers"), "the shared topic holds every tenant's answers"


def test_a_request_that_claims_another_tenant_is_rejected_to_the_topics_own(secured: Secured) -> None:
    request = secured.request("globex")
    record = secured.place.codec.encode(request)
    producer = Producer(security.librdkafka(secured.as_user("app-acme").kafka, {"log_level": 2}))
    reader = secured.as_user("app-acme")
    with AnswerStream(reader, secured.place.codec, lane=secured.lane, tenants=["acme"]) as stream:
        producer.produce(secured.topic("requests.acme"), value=record, key=request.meta.request_id.encode())
        assert producer.flush(30) == 0
        (answer,) = stream.collect([request.meta.request_id], timeout_s=ANSWER_S)
    assert (answer.status, answer.meta.tenant) == ("rejected", "acme")
    assert answer.failure is not None and answer.failure.code == "tenant_mismatch"
    assert request.meta.request_id not in keys(secured, "answers.globex")


def test_the_command_line_asks_as_a_tenant_and_shows_what_was_asked(secured: Secured) -> None:
    env = secured.variables("app-acme")
    asked = headrace("ask", "What is a topic?", "--tenant", "acme", "--lane", secured.lane, "--json", env=env)
    assert asked.code == 0, asked.err
    request_id = json.loads(asked.out)["request_id"]
    shown = headrace("audit", request_id, "--lane", secured.lane, "--json", env=secured.place.env)
    found = json.loads(shown.out)
    assert (found["status"], found["events"][0]["topic"]) == ("answered", secured.topic("requests.acme"))
    options = ("--tenant", "acme", "--from", "earliest", "--no-follow", "--json", "--lane", secured.lane)
    told = headrace("tail", "answers", *options, env=env)
    assert {json.loads(line)["topic"] for line in told.out.splitlines()} == {secured.topic("answers.acme")}
    streamed = headrace("ask", "And a log?", "--stream", "--tenant", "acme", "--lane", secured.lane, "--json", env=env)
    assert streamed.code == 0, streamed.err
    *chunks, answer = streamed.objects
    assert (chunks[-1]["kind"], answer["status"]) == ("end", "answered")
    stranger = headrace("ask", "Who?", "--tenant", "initech", "--lane", secured.lane, env=env)
    assert (stranger.code, "initech" in stranger.err) == (2, True)


def test_a_hostile_principal_may_do_nothing(secured: Secured) -> None:
    topics = [topic_name("", secured.lane, topic.name) for topic in all_topics(secured.place.settings)]
    groups = [f"{secured.lane}.{stage.group_of(one)}" for stage in STAGES.values() for one in stage.inputs]
    assert set(granted(secured.as_user("hostile"), topics, groups).values()) == {"refused"}
    # A tenant's program is a stranger to the other's topics, and to the stream's own.
    mine = {
        name: told for name, told in granted(secured.as_user("app-acme"), topics, groups).items() if told != "refused"
    }
    assert mine == {
        secured.topic("requests.acme"): "DESCRIBE WRITE",
        secured.topic("answers.acme"): "DESCRIBE READ",
        secured.topic("chunks.acme"): "DESCRIBE READ",
    }


@pytest.mark.parametrize("user", ["hostile", "app-acme"])
def test_what_is_not_granted_is_refused_when_it_is_done(secured: Secured, user: str) -> None:
    settings = secured.as_user(user)
    for kind in ("answers", "answers.acme", "control", "costs", "requests.globex"):
        assert "TOPIC_AUTHORIZATION_FAILED" in write_error(settings, secured.topic(kind))
    assert join_error(settings, secured.topic("requests.acme"), f"{secured.lane}.admit") == "GROUP_AUTHORIZATION_FAILED"
    for kind in ("answers", "answers.globex"):
        with TopicReader(settings) as reader, pytest.raises(ConfigurationError, match="hidden"):
            reader.counts([secured.topic(kind)])
    assert "hostile" not in keys(secured, "answers") | keys(secured, "control") | keys(secured, "costs")


@pytest.mark.parametrize(
    ("stage", "resource", "name", "operation"),
    [
        ("filter", "topic", "answers.acme", "WRITE"),
        ("filter", "topic", "completions", "READ"),
        ("filter", "group", "filter", "READ"),
        # The release writes with a producer of its own.
        ("release", "topic", "chunks.acme", "WRITE"),
    ],
)
def test_a_stage_waits_for_a_grant_that_is_missing_and_nothing_is_lost(
    secured: Secured, stage: str, resource: str, name: str, operation: str
) -> None:
    grant = secured.grant(stage, resource, secured.topic(name), operation)
    request, worker = secured.request("acme", stream=stage == "release"), secured.pipeline.worker(stage)
    reader = secured.as_user("app-acme")

    def told() -> bool:
        if operation == "READ" and worker.code is not None:
            # What reads for it ended, and the process with it; a supervisor starts it again.
            worker.start()
        reasons = secured.ready(stage)
        # A life that is about to end says it too; the next one waits before it has started.
        said = reasons.get("worker", "") if operation == "READ" else " ".join(reasons.values())
        return f"{operation} of {resource} {grant.need.name} is not granted" in said

    with AnswerStream(reader, secured.place.codec, lane=secured.lane, tenants=["acme"]) as stream:
        remove_grants(secured.admin, [grant])
        try:
            assert secured.publish("app-acme", "requests", request, request.meta.request_id) == []
            eventually(told, "the stage says that it waits")
            assert worker.code is None, "it waits, and does not end"
        finally:
            create_grants(secured.admin, [grant])
        (answer,) = stream.collect([request.meta.request_id], timeout_s=ANSWER_S)
    assert answer.status == "answered"
    eventually(lambda: secured.ready(stage) == {}, "the stage is ready again")
    if stage == "release":
        eventually(lambda: request.meta.request_id in keys(secured, name), "its chunks came")
    assert keys(secured, "dead-letters") == set()


def test_no_secret_is_told(secured: Secured) -> None:
    for worker in secured.pipeline.workers.values():
        assert "-secret" not in worker.log.read_text(), worker.log
    wrong = secured.variables("operator", password="wrong-secret")
    refused = headrace("tail", "answers", "--no-follow", "--lane", secured.lane, env=wrong)
    assert refused.code == 2
    assert f"refused the user {secured.prefix}operator by SCRAM-SHA-512; check kafka.sasl.username" in refused.err
    assert "-secret" not in refused.out + refused.err


def test_what_is_there_and_not_wanted_is_listed_and_only_pruned_when_asked(secured: Secured) -> None:
    extra = secured.grant("filter", "topic", secured.topic("costs"), "READ")
    foreign = Grant("User:somebody", Need("topic", secured.topic("costs"), "READ"))
    create_grants(secured.admin, [extra, foreign])
    found = secured.acls("--apply")
    assert ([one["principal"] for one in found["unwanted"]], found["created"]) == ([extra.principal], [])
    assert [one["principal"] for one in found["foreign"]] == [foreign.principal]
    assert secured.acls("--apply", "--prune")["pruned"]
    found = secured.acls("--apply")
    assert (found["unwanted"], [one["principal"] for one in found["foreign"]]) == ([], [foreign.principal])
    refused = headrace("topics", "acls", "--apply", "--lane", secured.lane, env=secured.place.env)
    assert (refused.code, "super users" in refused.err) == (2, True)


def keys(secured: Secured, kind: str) -> set[str]:
    """The keys on a topic, read by a super user."""
    with TopicReader(secured.admin) as reader:
        ends = reader.ends(reader.places([secured.topic(kind)]))
        return {(entry.key or b"").decode() for entry in reader.read(ends)}


def granted(settings: Settings, topics: Sequence[str], groups: Sequence[str]) -> dict[str, str]:
    """What the broker says that this principal may do with each."""
    admin = AdminClient(security.librdkafka(settings.kafka, {"log_level": 0}))
    asked = {
        **admin.describe_topics(TopicCollection(list(topics)), include_authorized_operations=True),
        **admin.describe_consumer_groups(list(groups), include_authorized_operations=True),
    }
    told = {}
    for name, future in asked.items():
        try:
            told[name] = " ".join(sorted(operation.name for operation in future.result(30).authorized_operations))
        except KafkaException as error:
            assert error.args[0].name() in ("TOPIC_AUTHORIZATION_FAILED", "GROUP_AUTHORIZATION_FAILED")
            told[name] = "refused"
    return told


def join_error(settings: Settings, topic: str, group: str) -> str:
    """How a consumer fails that joins a group."""
    consumer = Consumer(security.librdkafka(settings.kafka, {"group.id": group, "log_level": 0}))
    try:
        consumer.subscribe([topic])
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            message = consumer.poll(0.2)
            if message is not None and message.error().name() != "TOPIC_AUTHORIZATION_FAILED":
                return str(message.error().name())
        return "nothing in 120 s"
    finally:
        consumer.close()


def write_error(settings: Settings, topic: str) -> str:
    """How a producer fails."""
    told: list[str] = []
    producer = Producer(security.librdkafka(settings.kafka, {"log_level": 0, "message.timeout.ms": 60_000}))
    producer.produce(
        topic, value=b"x", key=b"hostile", on_delivery=lambda error, _: told.append(error and error.name())
    )
    producer.flush(90)
    return str(told)
