"""Offsets of a topic that was just created are asked for until it has its leaders."""

from __future__ import annotations

from typing import Any, cast

import pytest
from confluent_kafka import KafkaError, KafkaException

from schemas.errors import DependencyDownError
from streams import reading
from streams.reading import Stretch, TopicReader
from tests.support.settings import bare_settings


class Consumer:
    """Has no leader for a while, then the offsets 3 to 7."""

    def __init__(self, *codes: int) -> None:
        self.codes = list(codes)

    def get_watermark_offsets(self, _place: Any, timeout: float) -> tuple[int, int]:
        if self.codes:
            raise KafkaException(KafkaError(self.codes.pop(0)))
        return 3, 8


def reader_of(*codes: int) -> TopicReader:
    reader = object.__new__(TopicReader)
    reader._kafka, reader._consumer = bare_settings().kafka, cast("Any", Consumer(*codes))
    return reader


def test_no_leader_yet_is_no_broker_that_is_away() -> None:
    reader = reader_of(KafkaError.LEADER_NOT_AVAILABLE, KafkaError.NOT_LEADER_FOR_PARTITION)
    assert reader.ends([("t", 0)]) == {("t", 0): Stretch(3, 8)}


def test_no_leader_for_long_and_anything_else_is(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DependencyDownError):
        reader_of(KafkaError._TRANSPORT).ends([("t", 0)])
    monkeypatch.setattr(reading, "LEADERS_S", 0.0)
    with pytest.raises(DependencyDownError):
        reader_of(*[KafkaError.NOT_LEADER_FOR_PARTITION] * 1_000).ends([("t", 0)])
