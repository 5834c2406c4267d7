"""How long it takes to encode and decode the events of the hot path, in microseconds."""

from __future__ import annotations

import json
import timeit

from schemas.codec import Codec
from schemas.record import Record
from schemas.records import Admission, Delta, Enrichment, Grounding, Message, Meta, Passage, Request, Text
from schemas.records import ContentPart as Part

ROUNDS = 2000
META = Meta(event_id="e", request_id="r", tenant="t", lane="live", stage="bench")
PASSAGE = Passage(
    passage_id="p", document_id="d", namespace="n", digest="0" * 64, score=0.5, text=Text(inline="word " * 200)
)
REQUEST = Request(meta=META, query=Text(inline="What does the with statement do?"))
GROUNDING = Grounding(
    question=Text(inline="What does the with statement do?"),
    messages=(Message(role="system", content=(Part(type="text", text=Text(inline="word " * 600)),)),),
    passages=(PASSAGE,) * 3,
)
RECORDS: tuple[Record, ...] = (
    Delta(meta=META, text=Text(inline="a few words")),
    REQUEST,
    Enrichment(meta=META, request=REQUEST, admission=Admission(), grounding=GROUNDING),
)


def measure(record: Record) -> dict[str, float]:
    """Bytes of one record, and microseconds to encode and decode it; the best of five runs."""
    codec = Codec.offline()
    frame = codec.encode(record)
    seconds = [
        min(timeit.repeat(work, number=ROUNDS, repeat=5)) / ROUNDS
        for work in (lambda: codec.encode(record), lambda: codec.decode(frame, type(record)))
    ]
    return {"bytes": len(frame), "encode_us": round(seconds[0] * 1e6, 1), "decode_us": round(seconds[1] * 1e6, 1)}


if __name__ == "__main__":
    print(json.dumps({"codec": {type(record).__name__: measure(record) for record in RECORDS}}))  # noqa: T201
