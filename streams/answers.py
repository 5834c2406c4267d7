"""Waiting for answers: a reader that stands at the end of the answers before anything is asked."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Iterator
from typing import Any

import orjson

from schemas.codec import Codec
from schemas.errors import PoisonError, UnknownSchemaError
from schemas.json_view import to_json
from schemas.record import Record
from schemas.records import Answer
from streams.claims import BlockingClaims
from streams.reading import POLL_S, Entry, TopicReader
from streams.settings import Settings
from streams.topics import consumer_topic


class AnswerStream:
    """Answers from the moment it is made: make it before publishing and no answer is missed.

    Blocking; run it in a thread where there is an event loop. Use it in a ``with`` block.
    """

    def __init__(self, settings: Settings, codec: Codec, *, lane: str, tenants: Collection[str] = ()) -> None:
        """Finds the ends of the lane's answers: of these tenants alone, where they have topics of their own.

        Raises ``DependencyDownError``, and ``ConfigurationError`` for a lane that has no topics.
        """
        self._codec, self._claims = codec, BlockingClaims(settings, codec)
        self._seen: set[str] = set()
        self._reader = TopicReader(settings)
        try:
            readers: Collection[str | None] = tenants or (None,)
            topics = {consumer_topic(settings, lane, "answers", tenant) for tenant in readers}
            ends = self._reader.ends(self._reader.places(topics))
            self._reader.start({place: stretch.end for place, stretch in ends.items()})
        except BaseException:
            self._reader.close()
            raise

    def __enter__(self) -> AnswerStream:
        return self

    def __exit__(self, *_: object) -> None:
        self._reader.close()

    def collect(
        self,
        request_ids: Collection[str],
        *,
        timeout_s: float,
        wanted: Callable[[Answer], bool] | None = None,
    ) -> Iterator[Answer]:
        """The answers to these requests in order of arrival; an event that comes again is left out.

        Blocks on Postgres for an answer that was too large for its topic; raises ``DependencyDownError`` where that is
        away. Ends when every request has one, or after ``timeout_s``. ``wanted`` may refuse an answer, e.g. another
        tenant's under the same request id. What comes while nobody collects is kept by the broker.
        """
        missing = {request_id.encode() for request_id in request_ids}
        keys = frozenset(missing)
        deadline = time.monotonic() + timeout_s
        while missing and (left := deadline - time.monotonic()) > 0:
            for entry in self._reader.poll(min(POLL_S, left), wanted=keys.__contains__):
                answer = self._answer(entry)
                if answer is None or answer.meta.event_id in self._seen or (wanted and not wanted(answer)):
                    continue
                self._seen.add(answer.meta.event_id)
                missing.discard(entry.key or b"")
                yield answer

    def _answer(self, entry: Entry) -> Answer | None:
        try:
            record = decoded(self._codec, entry.value)
        except PoisonError:
            return None
        if not isinstance(record, Answer) or record.meta.request_id.encode() != entry.key:
            return None
        return self._claims.whole(record, entry.value or b"")


def decoded(codec: Codec, value: bytes | None) -> Record:
    """The record in a frame; a schema that the codec does not hold is asked of the registry.

    Blocks on the registry at most once a schema. Raises ``PoisonError`` for what can't be decoded.
    """
    frame = value or b""
    try:
        return codec.decode_any(frame)
    except UnknownSchemaError as unknown:
        asyncio.run(codec.fetch(unknown.schema_id))
        return codec.decode_any(frame)


def answer_view(answer: Answer) -> dict[str, Any]:
    """An answer as ``ask`` and ``submit`` print it.

    ``tool_calls`` and ``logprobs`` are there when the answer has them, ``failure`` when it was not answered.
    """
    record = to_json(answer)
    view = {
        "request_id": answer.meta.request_id,
        "status": answer.status,
        "text": record["text"],
        "citations": record["citations"],
        "model": answer.model,
        "prompt_version": answer.prompt_version,
        "usage": record["usage"],
        "cost_usd": record["cost_usd"],
        "timings_ms": {
            timing.stage: {"waited": round(timing.waited_ms, 3), "service": round(timing.service_ms, 3)}
            for timing in answer.timings
        },
        "verdicts": record["verdicts"],
        "event_id": answer.meta.event_id,
    }
    for name, told in (("tool_calls", answer.tool_calls_json), ("logprobs", answer.logprobs_json)):
        if told is not None and told.inline is not None:
            view[name] = orjson.loads(told.inline)
    if answer.failure is not None:
        view["failure"] = record["failure"]
    return view
