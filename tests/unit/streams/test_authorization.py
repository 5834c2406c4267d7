"""When a worker asks the broker again what it grants."""

from __future__ import annotations

import time

import pytest

from schemas.errors import DependencyDownError
from streams.authorization import Authorization
from streams.producer import FakeProducer
from streams.settings import KafkaSettings


@pytest.mark.parametrize("refused", [0, 1])
async def test_a_refusal_of_any_producer_has_the_broker_asked_at_once(
    monkeypatch: pytest.MonkeyPatch, refused: int
) -> None:
    missing: list[str] = []
    asked: list[int] = []

    def look(_self: Authorization) -> tuple[list[str], bool]:
        asked.append(1)
        return missing, True

    monkeypatch.setattr(Authorization, "_missing", look)
    producers = [FakeProducer(), FakeProducer()]
    authorization = Authorization(KafkaSettings(bootstrap="127.0.0.1:9"), (), producers=producers)
    await authorization.probe()
    await authorization.probe()
    assert len(asked) == 1, "nothing was refused"
    missing.append("WRITE of topic chunks is not granted")
    producers[refused].refused_at = time.monotonic()
    with pytest.raises(DependencyDownError, match="WRITE of topic chunks is not granted"):
        await authorization.probe()
