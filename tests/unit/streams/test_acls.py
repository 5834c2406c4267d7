"""The ACLs are the least that the declarations need, whatever stages there are."""

from __future__ import annotations

import pytest

from schemas.record import Record
from schemas.records import Admitted, Completion, Enrichment, Request
from streams.acls import Need, commands, role_needs, stage_needs, wanted_grants
from streams.outputs import kinds_of
from streams.stages import STAGES
from tests.support.settings import bare_settings, settings_of_tenants

LANE = "live"
INTERNAL = {"admitted", "completions", "deltas", "costs", "control", "enrichments.high"}

ENDED: set[type[Record]] = {Request, Admitted, Enrichment, Completion}


def topics(needs: tuple[Need, ...], operation: str) -> set[str]:
    return {need.name for need in needs if need.resource == "topic" and need.operation == operation}


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_reads_its_inputs_and_writes_its_outputs_and_no_more(name: str) -> None:
    stage = STAGES[name]
    needs = stage_needs(bare_settings(), LANE, stage)
    inputs = {f"live.{source.kind}" for source in stage.inputs}
    outputs = {f"live.{kind}" for record in stage.outputs for kind in kinds_of(record)}
    assert topics(needs, "READ") == inputs | {"live.control"}
    put_back = inputs if stage.defers or stage.puts_off else set()
    assert topics(needs, "WRITE") == outputs | put_back | {"live.dead-letters"}
    groups = {need.name for need in needs if need.resource == "group"}
    assert groups == {f"live.{stage.group_of(source)}" for source in stage.inputs}
    assert not any(need.prefixed or need.resource == "cluster" for need in needs)


def test_only_stages_that_may_end_a_request_write_answers() -> None:
    needs = {name: stage_needs(bare_settings(), LANE, stage) for name, stage in STAGES.items()}
    stages = {name for name in STAGES if "live.answers" in topics(needs[name], "WRITE")}
    assert stages == {name for name, stage in STAGES.items() if {source.record for source in stage.inputs} & ENDED}


def test_no_stage_writes_control_and_only_the_operator_does() -> None:
    writers = {
        role for role, needs in role_needs(bare_settings(), LANE).items() if "live.control" in topics(needs, "WRITE")
    }
    assert writers == {"operator"}


def test_who_produces_and_consumes_sees_nothing_of_the_inside() -> None:
    roles = role_needs(bare_settings(), LANE)
    assert topics(roles["producer"], "WRITE") == {"live.requests", "live.documents"}
    assert topics(roles["consumer"], "READ") == {"live.answers", "live.chunks", "live.evaluations"}
    for role in ("producer", "consumer"):
        assert not {f"live.{kind}" for kind in INTERNAL} & {need.name for need in roles[role]}


def test_a_tenants_programs_reach_the_tenants_own_topics_alone() -> None:
    roles = role_needs(settings_of_tenants(), LANE)
    assert {need.name for need in roles["producer-acme"]} == {"live.requests.acme"}
    assert topics(roles["consumer-acme"], "READ") == {"live.answers.acme", "live.chunks.acme"}
    assert topics(roles["consumer-acme"], "WRITE") == set()
    groups = {need.name for need in roles["consumer-acme"] if need.resource == "group" and need.prefixed}
    assert groups == {"headrace-consumer-acme."}
    # What nobody may write is read by nobody.
    assert topics(roles["producer"], "WRITE") == {"live.documents"}
    assert "live.requests" not in topics(roles["admit"], "READ")
    assert {"live.requests.acme", "live.requests.globex"} <= topics(roles["admit"], "READ")
    assert {"live.answers.acme", "live.answers.globex"} <= topics(roles["filter"], "WRITE")


def test_a_principal_has_the_user_that_the_settings_give_its_stage() -> None:
    principals = {"complete": {"sasl": {"username": "svc-complete", "password": "x"}}}
    grants = wanted_grants(bare_settings(kafka={"bootstrap": "b", "principals": principals}), LANE)
    named = {grant.principal for grant in grants}
    assert {"User:svc-complete", "User:headrace-filter"} <= named
    assert "User:headrace-complete" not in named


def test_commands_of_kafkas_own_tool_gather_the_operations_of_a_resource() -> None:
    grants = wanted_grants(bare_settings(), LANE, prefix="User:x-", idempotent_write=True)
    lines = commands(grants, bootstrap="b:9092")
    start = "kafka-acls.sh --bootstrap-server b:9092 --command-config admin.properties --add --allow-principal"
    assert f"{start} 'User:x-filter' --operation Read --topic 'live.completions'" in lines
    assert f"{start} 'User:x-producer' --operation IdempotentWrite --cluster" in lines
    (operator,) = [one for one in lines if "'User:x-operator'" in one and "--topic 'live.'" in one]
    assert operator.endswith("--topic 'live.' --resource-pattern-type prefixed")
    assert operator.count("--operation") == 6


def test_the_prefix_of_topics_is_in_every_name() -> None:
    for needs in role_needs(settings_of_tenants(prefix="prod-"), LANE).values():
        for need in needs:
            assert need.name.startswith(("prod-live.", "headrace-")), need
