"""Admission: a request that was asked before is recognised."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

import pytest

from processors.admit import AdmitPolicy
from processors.admit.body import body_hash
from processors.clock import FakeClock
from schemas.errors import DependencyDownError
from schemas.records import (
    Admitted,
    Answer,
    Citation,
    Meta,
    Passage,
    PromptRef,
    Request,
    Sampling,
    Text,
    Usage,
)
from tests.support.admission import CODEC, Bench, request


async def test_the_same_request_published_twice_gives_the_same_bytes() -> None:
    bench = Bench()
    first = await bench.admitted(request(event_id="one", idempotency_key="k"), control_offset=5)
    bench.clock.advance(30)
    again = await bench.admitted(request(event_id="two", idempotency_key="k"), control_offset=9)
    assert CODEC.encode(again) == CODEC.encode(first)
    assert first.meta.control_offset == 5
    assert first.admission.expires_at == FakeClock().now() + timedelta(milliseconds=300_000)


async def test_a_producer_can_not_choose_event_ids_or_times() -> None:
    plain = await Bench().admitted(request())
    forged = await Bench().admitted(
        request(
            event_id="00000000-0000-0000-0000-000000000000",
            meta={"accepted_at": FakeClock().now() + timedelta(days=9), "stage": "filter", "control_offset": 77},
        )
    )
    assert forged == plain


async def test_a_copy_that_comes_the_wrong_way_can_not_end_the_request_that_came_the_right_way() -> None:
    bench = Bench()
    (admitted,) = await bench.admit(request())
    assert isinstance(admitted, Admitted)
    strange = request()
    strange = replace(strange, meta=replace(strange.meta, lane="another"))
    assert await bench.admit(strange) == []
    assert await bench.admit(request()) == [admitted]


async def test_one_request_id_stands_for_one_body() -> None:
    """A second body gets no answer of its own: it would take the place of the first one's."""
    bench = Bench()
    await bench.admitted(request())
    assert await bench.admit(request(query=Text(inline="Something else?"))) == []


async def test_a_refused_body_keeps_its_request_id_too() -> None:
    """Its answer is final: admitting another body would pay for an answer that nobody gets."""
    bench = Bench()
    await bench.refusal(request(route="nowhere"))
    assert await bench.admit(request()) == []
    again = await bench.refusal(request(route="nowhere"))
    assert again.failure is not None
    assert again.failure.code == "unknown_route"


async def test_an_expired_request_ends_before_any_work() -> None:
    answer = await Bench().refusal(request(ttl_ms=1000, idempotency_key="k"), late_s=1)
    assert answer.status == "expired"
    assert answer.failure is not None
    assert (answer.failure.code, answer.failure.field) == ("expired", "ttl_ms")


async def test_an_expired_request_does_not_use_up_its_key() -> None:
    bench = Bench()
    await bench.refusal(request(ttl_ms=1000, idempotency_key="k"), late_s=1)
    await bench.admitted(request(meta={"request_id": "r2"}, idempotency_key="k"))


async def test_a_redelivered_request_goes_on_though_it_is_late() -> None:
    """It may be in work already; the stages that spend look at its age again."""
    bench = Bench()
    first = await bench.admitted(request(ttl_ms=1000))
    bench.clock.advance(60)
    assert await bench.admitted(request(ttl_ms=1000)) == first


async def _answered(bench: Bench, request_id: str = "r1", status: str = "answered") -> Answer:
    original = Answer(
        meta=Meta(event_id=f"answer-{request_id}", request_id=request_id, tenant="default", lane="live"),
        status=status,
        user="somebody",
        text=Text(inline="A log [1]."),
        citations=(Citation(passage_id="p", document_id="d"),),
        passages=(
            Passage(passage_id="p", document_id="d", namespace="n", digest="0", score=0.5, text=Text(inline="log")),
        ),
        usage=Usage(prompt_tokens=10, completion_tokens=3),
        cost_usd=Decimal("0.25"),
        served_by="model",
        model="m",
    )
    await bench.finality.claim(original, CODEC.encode(original))
    return original


async def test_a_repeated_key_gets_a_copy_of_the_final_answer() -> None:
    bench = Bench()
    await bench.admitted(request(idempotency_key="k"))
    original = await _answered(bench)
    second = request(meta={"request_id": "r2"}, idempotency_key="k", ttl_ms=100, metadata={"try": "2"})
    (copy,) = await bench.admit(second)
    assert isinstance(copy, Answer)
    assert (copy.status, copy.text, copy.citations, copy.passages, copy.model) == (
        "answered",
        original.text,
        original.citations,
        original.passages,
        "m",
    )
    assert (copy.meta.request_id, copy.duplicate_of, copy.source_event_id) == ("r2", "r1", "answer-r1")
    assert copy.meta.event_id != original.meta.event_id
    assert (copy.cost_usd, copy.avoided_cost_usd, copy.usage) == (Decimal(0), Decimal("0.25"), Usage())
    assert (copy.served_by, copy.user, copy.metadata, copy.tier) == ("journal", "", {"try": "2"}, "standard")
    assert copy.failure is None


async def test_a_copy_of_a_copy_names_the_first_request() -> None:
    bench = Bench()
    await bench.admitted(request(idempotency_key="k"))
    await _answered(bench)
    copies = [(await bench.admit(request(meta={"request_id": f"r{n}"}, idempotency_key="k")))[0] for n in (2, 3)]
    assert [copy.duplicate_of for copy in copies] == ["r1", "r1"]
    assert len({copy.meta.event_id for copy in copies}) == 2


async def test_a_failed_answer_is_copied_too() -> None:
    bench = Bench()
    await bench.admitted(request(idempotency_key="k"))
    await _answered(bench, status="failed")
    (copy,) = await bench.admit(request(meta={"request_id": "r2"}, idempotency_key="k"))
    assert (copy.status, copy.duplicate_of) == ("failed", "r1")


async def test_a_repeated_key_is_refused_while_the_first_is_in_work() -> None:
    bench = Bench()
    await bench.admitted(request(idempotency_key="k"))
    answer = await bench.refusal(request(meta={"request_id": "r2"}, idempotency_key="k"))
    assert answer.failure is not None
    assert (answer.failure.code, answer.failure.retryable) == ("duplicate_in_flight", True)


async def test_a_key_with_another_body_is_refused() -> None:
    bench = Bench()
    await bench.admitted(request(idempotency_key="k"))
    other = request(meta={"request_id": "r2"}, idempotency_key="k", query=Text(inline="Something else?"))
    answer = await bench.refusal(other)
    assert answer.failure is not None
    assert (answer.failure.code, answer.failure.field) == ("idempotency_conflict", "idempotency_key")


async def test_an_invalid_request_does_not_use_up_its_key() -> None:
    bench = Bench()
    await bench.refusal(request(idempotency_key="k", route="nowhere"))
    await bench.admitted(request(meta={"request_id": "r2"}, idempotency_key="k"))


async def test_a_replay_admits_in_its_own_lane_under_its_run() -> None:
    live = Bench()
    first = await live.admitted(request(idempotency_key="k"))
    replay = Bench(policy=AdmitPolicy(lane="replay-1"), idempotency=live.idempotency)
    again = await replay.admitted(request(idempotency_key="k"), run="replay-1")
    assert (again.meta.lane, again.meta.run) == ("replay-1", "replay-1")
    assert again.meta.event_id != first.meta.event_id
    assert again.admission.body_hash == first.admission.body_hash


async def test_nothing_is_decided_while_postgres_is_away() -> None:
    bench = Bench()
    bench.idempotency.down = True
    with pytest.raises(DependencyDownError):
        await bench.admit(request())
    bench.idempotency.down = False
    await bench.admitted(request(idempotency_key="k"))
    bench.finality.down = True
    with pytest.raises(DependencyDownError):
        await bench.admit(request(meta={"request_id": "r2"}, idempotency_key="k"))


CHANGES: list[tuple[str, Callable[[Request], Request], bool]] = [
    ("meta", lambda r: replace(r, meta=replace(r.meta, event_id="x", request_id="y")), True),
    ("key", lambda r: replace(r, idempotency_key="other"), True),
    ("metadata", lambda r: replace(r, metadata={"a": "b"}), True),
    ("ttl", lambda r: replace(r, ttl_ms=1), True),
    ("priority", lambda r: replace(r, priority="low"), True),
    ("query", lambda r: replace(r, query=Text(inline="other")), False),
    ("user", lambda r: replace(r, user="kim"), False),
    ("sampling", lambda r: replace(r, sampling=Sampling(temperature=0)), False),
    ("model", lambda r: replace(r, model="m"), False),
    ("stream", lambda r: replace(r, stream=True), False),
]


@pytest.mark.parametrize(("change", "same"), [c[1:] for c in CHANGES], ids=[c[0] for c in CHANGES])
def test_the_body_is_what_was_asked(change: Callable[[Request], Request], same: bool) -> None:
    assert (body_hash(change(request())) == body_hash(request())) == same


def test_the_body_hash_is_pinned() -> None:
    """Rows hold it for days: a release that computed it otherwise would take redelivered requests for other bodies."""
    asked = request(
        sampling=Sampling(temperature=0.5, stop=("a",)), prompt=PromptRef(name="p", variables={"b": Text(inline="c")})
    )
    assert body_hash(asked) == "9eeebd49f3de34b8a14f58c9b5729d72e306923531337aac9ea4d47ee4320afc"
