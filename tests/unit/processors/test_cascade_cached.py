"""Routes with a cascade and a cache: which of the answers others may have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from processors.complete.policies import CascadePolicy
from processors.complete.routes import Group
from processors.model.port import ModelReply, SentCall
from schemas.errors import TransientProviderError
from schemas.records import Completion, Text
from tests.support.caching import CacheBench
from tests.support.cascading import completion, deployment, reply
from tests.support.completing import event

DOWN = TransientProviderError("http_503", "503", http_status=503)


class Both(CacheBench):
    """``cheap`` and ``strong`` behind a cache, which say what they are told to, in order."""

    def __init__(self, cheap: Sequence[ModelReply], strong: Sequence[ModelReply | Exception]) -> None:
        super().__init__()
        self.says: dict[str, list[ModelReply | Exception]] = {"cheap": [*cheap], "strong": [*strong]}
        self.model.script = self._say
        cascade = CascadePolicy(groups=(Group(deployments=(deployment("strong", "10"),)),), least_time_s=0.0)
        self.route = replace(self.route, deployment=deployment("cheap"), max_attempts=1, cascade=cascade)

    async def answer(self, request_id: str) -> Completion:
        return completion(await self.worker(f"worker of {request_id}")(event(request_id)))

    @property
    def went(self) -> list[str]:
        return [call.deployment for call in self.model.calls]

    def _say(self, call: SentCall) -> ModelReply | Exception:
        said = self.says[call.deployment]
        return said.pop(0) if len(said) > 1 else said[0]


async def test_an_answer_that_failed_its_check_is_given_to_nobody_later() -> None:
    bench = Both([reply("I don't know.")], [DOWN, reply("Paris.")])
    first = await bench.answer("r1")
    assert first.cascade is not None and (first.text, first.cascade.outcome) == (Text(inline="I don't know."), "stood")
    second = await bench.answer("r2")
    assert (second.text, second.served_by) == (Text(inline="Paris."), "model")
    assert bench.went == ["cheap", "strong"] * 2


async def test_the_answer_of_the_stronger_model_is_given_to_others() -> None:
    bench = Both([reply("I don't know.")], [reply("Paris.")])
    first, second = await bench.answer("r1"), await bench.answer("r2")
    assert (first.text, first.served_by) == (Text(inline="Paris."), "model")
    assert (second.text, second.served_by, second.deployment) == (first.text, "cache-exact", "strong")
    assert bench.went == ["cheap", "strong"]


async def test_another_stronger_model_answers_anew() -> None:
    bench = Both([reply("I don't know.")], [reply("Paris.")])
    await bench.answer("r1")
    other = Group(deployments=(deployment("strong", "10", model="model-newer"),))
    assert bench.route.cascade is not None
    bench.route = replace(bench.route, cascade=replace(bench.route.cascade, groups=(other,)))
    assert (await bench.answer("r2")).served_by == "model" and bench.went == ["cheap", "strong"] * 2


async def test_an_answer_that_passed_easier_checks_is_not_given_out_once_they_are_stricter() -> None:
    bench = Both([reply("Paris.")], [reply("Paris, on the Seine.")])
    first = await bench.answer("r1")
    assert (first.deployment, first.served_by) == ("cheap", "model")
    assert bench.route.cascade is not None
    bench.route = replace(bench.route, cascade=replace(bench.route.cascade, least_words=3))
    second, third = await bench.answer("r2"), await bench.answer("r3")
    assert (second.deployment, second.served_by) == ("strong", "model")
    assert (third.text, third.served_by) == (second.text, "cache-exact")
    assert bench.went == ["cheap", "cheap", "strong"]
