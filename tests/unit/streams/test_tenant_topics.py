"""Where producers are not trusted each tenant has topics of its own, and the topic says who asks."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from pydantic import ValidationError

from processors.event import Incoming
from schemas.errors import ConfigurationError
from schemas.records import Answer, Chunk, Cost, Failure, Meta, Request
from streams.decoding import Decoder
from streams.outputs import Encoded, Publisher
from streams.stages import STAGES
from streams.topics import all_topics, consumer_topic, input_topics, kind_of, producer_topic, tenant_of
from tests.support.running import CODEC, Bench, message, request
from tests.support.settings import bare_settings, settings_of_tenants

META = Meta(event_id="e", request_id="r1", tenant="acme", lane="live")


def test_one_shared_topic_is_the_default_and_enough_for_one_tenant() -> None:
    for one in (
        bare_settings(),
        bare_settings(trust_producers=False),
        bare_settings(tenants={"a": {}, "b": {}}),
    ):
        assert one.tenant_topics == ()
        assert input_topics(one, "live", "requests") == ("live.requests",)
        assert producer_topic(one, "live", "requests", "anybody") == "live.requests"
        assert consumer_topic(one, "live", "answers", "anybody") == "live.answers"


def test_several_tenants_have_topics_of_their_own() -> None:
    own = settings_of_tenants()
    assert input_topics(own, "live", "requests") == ("live.requests.acme", "live.requests.globex")
    assert input_topics(own, "live", "answers") == ("live.answers",)
    assert producer_topic(own, "live", "requests", "acme") == "live.requests.acme"
    assert consumer_topic(own, "live", "chunks", "globex") == "live.chunks.globex"
    assert consumer_topic(own, "live", "answers", None) == "live.answers"
    names = {topic.name for topic in all_topics(own)}
    assert {"requests", "requests.acme", "answers.globex", "chunks.acme"} <= names
    for ask in (producer_topic, consumer_topic):
        with pytest.raises(ConfigurationError, match="'initech' is none of acme, globex"):
            ask(own, "live", "requests", "initech")


def test_a_tenants_topic_has_the_kind_of_the_shared_one() -> None:
    assert kind_of("p-live.answers.acme", "p-", "live") == "answers"
    assert kind_of("live.enrichments.high", "", "live") == "enrichments.high"
    assert kind_of("live.dead-letters", "", "live") == "dead-letters"
    assert tenant_of("p-live.requests.acme", "p-", "live") == "acme"
    assert (tenant_of("live.requests", "", "live"), tenant_of("live.enrichments.high", "", "live")) == ("", "")


@pytest.mark.parametrize("name", ["a.b", "", "ümlaut", "a b", "a/b"])
def test_a_tenant_whose_topics_could_be_anothers_is_an_error(name: str) -> None:
    with pytest.raises(ValidationError, match="named by letters"):
        bare_settings(trust_producers=False, tenants={"acme": {}, name: {}})


async def decoded(topic: str, claimed: str) -> Incoming[Any]:
    async def nothing(_: Incoming[Any]) -> tuple[()]:
        return ()

    bench = Bench(nothing)
    asked = replace(request(), meta=replace(META, tenant=claimed))
    decoder = Decoder(STAGES["admit"].inputs[0], bench.runner._services)
    return await decoder.decode(message(value=CODEC.encode(asked), topic=topic))


async def test_the_topic_says_who_asks() -> None:
    honest, lying, silent, shared = await asyncio.gather(
        decoded("live.requests.acme", "acme"),
        decoded("live.requests.acme", "globex"),
        decoded("live.requests.acme", ""),
        decoded("live.requests", "globex"),
    )
    assert [one.meta.tenant for one in (honest, lying, silent, shared)] == ["acme", "acme", "acme", "globex"]
    assert isinstance(lying.record, Request)
    assert lying.record.meta.tenant == "globex", "what was claimed stays to be seen"


async def published(*records: Any, tenants: frozenset[str]) -> list[tuple[str, bytes | None]]:
    async def nothing(_: Incoming[Any]) -> tuple[()]:
        return ()

    bench = Bench(nothing)
    publisher = Publisher(replace(bench.runner._services, tenants=tenants))
    await publisher.publish([Encoded(record, CODEC.encode(record)) for record in records], [], ())
    return [(one.topic, one.value) for one in bench.producer.sent]


async def test_answers_and_chunks_go_to_the_tenants_topic_too_with_the_same_bytes() -> None:
    answer = Answer(meta=META, status="failed", failure=Failure(code="c", error_class="policy", message="m"))
    records = (
        answer,
        Chunk(meta=META, kind="end"),
        Cost(meta=META, attempt_id="a", state="done", amount_usd=Decimal(1)),
    )
    sent = await published(*records, tenants=frozenset({"acme", "globex"}))
    assert sorted(topic for topic, _ in sent) == [
        "live.answers",
        "live.answers.acme",
        "live.chunks",
        "live.chunks.acme",
        "live.costs",
    ]
    values = dict(sent)
    assert values["live.answers"] == values["live.answers.acme"]
    assert values["live.chunks"] == values["live.chunks.acme"]
    # A tenant that left the settings while its request was in work is answered on the shared topic.
    assert [topic for topic, _ in await published(answer, tenants=frozenset({"globex"}))] == ["live.answers"]
