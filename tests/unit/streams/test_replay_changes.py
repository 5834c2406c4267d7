"""What ``--set`` changes."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from schemas.errors import ConfigurationError
from streams.replay.changes import NEEDED, changes_for, check_sets, lacking, remedy
from tests.support.enrichments import enrichment
from tests.support.replaying import completion


def test_short_names_and_paths_change_fields_of_the_event() -> None:
    changes = changes_for("complete", {"temperature": "0.2", "model": "m2", "admission.route": "fast"})
    changed = changes.apply(enrichment("r1"))
    assert changed.request.sampling.temperature == 0.2
    assert (changed.request.model, changed.admission.route) == ("m2", "fast")


def test_fields_are_changed_in_what_the_first_stage_reads_alone() -> None:
    assert changes_for("filter", {"temperature": "0.2"}, first=False).edits == ()


@pytest.mark.parametrize(
    ("stages", "name", "value", "says"),
    [
        (("complete",), "temprature", "1", "did you mean temperature"),
        (("complete",), "temperature", "warm", "is no number"),
        (("complete",), "max_tokens", "1.5", "is no whole number"),
        (("complete",), "admission.rout", "x", "did you mean admission.route"),
        (("complete",), "meta.tenant", "x", "no such plain field"),
        (("complete",), "prompt", "support", "NAME@N"),
        (("filter",), "prompt", "support@7", "renders a prompt"),
        (("filter",), "policy.allow_trunkated", "true", "did you mean allow_truncated"),
        (("filter",), "policy.allow_truncated", "yes", "true or false"),
        (("account",), "policy.rate", "1", "it has none"),
        (("filter",), "polcy.allow_truncated", "true", r"did you mean policy\.allow_truncated"),
        (("filter",), "polcy.truncated", "true", r"did you mean policy\.allow_truncated"),
        (("filter", "evaluate"), "polcy.rate", "1", r"did you mean policy\.rate"),
    ],
)
def test_a_change_that_none_of_the_stages_takes_is_named(
    stages: tuple[str, ...], name: str, value: str, says: str
) -> None:
    with pytest.raises(ConfigurationError, match=says):
        check_sets(stages, {name: value})


def test_a_field_that_an_old_event_lacks_is_named_and_can_be_supplied() -> None:
    old = changes_for("complete", {"admission.route": ""}).apply(enrichment("r1"))
    assert lacking("complete", old) == "admission.route"
    assert lacking("complete", changes_for("complete", {"admission.route": "default"}).apply(old)) is None
    assert lacking("filter", completion(1, "live")) is None


@pytest.mark.parametrize(("stage", "path"), [(stage, path) for stage, paths in NEEDED.items() for path in paths])
def test_a_set_that_is_advised_for_a_field_is_taken(stage: str, path: str) -> None:
    advised = re.findall(r"--set (\S+)=", remedy(path))
    for name in advised:
        check_sets((stage,), {name: "support@7" if name == "prompt" else "x"})
    assert advised


def test_messages_are_not_lacking_where_a_prompt_renders_them() -> None:
    whole = enrichment("r1")
    old = replace(whole, grounding=replace(whole.grounding, messages=()))
    assert lacking("complete", old) == "grounding.messages"
    assert lacking("complete", old, changes_for("complete", {"prompt": "support@7"}).prompt) is None
    assert "--stage enrich --through complete" in remedy("grounding.messages")


def test_what_is_supplied_goes_to_events_that_lack_it_alone() -> None:
    has = changes_for("complete", {"admission.route": "fast"}).apply(enrichment("r1"))
    old = changes_for("complete", {"admission.route": ""}).apply(enrichment("r1"))
    supplied = changes_for("complete", {}, fills={"admission.route": "default"})
    assert supplied.apply(has).admission.route == "fast"
    assert supplied.apply(old).admission.route == "default"
    assert changes_for("filter", {}, first=False, fills={"admission.route": "default"}).edits == ()
