"""Headers of an event: CloudEvents in binary mode, W3C trace context, and the timings of the stages before."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Sequence
from datetime import datetime
from math import isfinite

import orjson

from schemas.record import Record
from schemas.records import Meta, Timing

Headers = list[tuple[str, bytes]]

CONTENT_TYPE = b"application/vnd.apache.avro+confluent"
TIMINGS = "headrace-timings"
# Which export a record comes from, and which of its kind it is.
IMPORTED = "headrace-import"
TRACEPARENT = "traceparent"
# Handed on as they came.
CARRIED = ("tracestate", "baggage")
# W3C baggage allows as much; what is longer is dropped, because it would count towards every later event's size.
LONGEST_CARRIED = 8_192
LONGEST_TIMINGS = 2_048
_TRACEPARENT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")


def header(headers: Iterable[tuple[str, bytes]] | None, name: str) -> bytes | None:
    """The last header of this name."""
    found = [value for key, value in headers or () if key == name]
    return found[-1] if found else None


def event_headers(
    record: Record, meta: Meta, *, time: datetime, cause: Sequence[tuple[str, bytes]], timings: Sequence[Timing]
) -> Headers:
    """The headers of an event that ``cause``'s event led to."""
    # The last of each name.
    known, subject = dict(cause), meta.request_id.encode()
    headers = [
        ("ce_specversion", b"1.0"),
        ("ce_id", meta.event_id.encode()),
        ("ce_source", f"headrace/{meta.lane}/{meta.stage}".encode()),
        ("ce_type", record.AVRO_NAME.encode()),
        ("ce_time", time.isoformat().encode()),
        ("ce_subject", subject),
        ("ce_correlationid", subject),
        ("ce_causationid", meta.causation_id.encode()),
        (TRACEPARENT, _child(known.get(TRACEPARENT)).encode()),
        ("content-type", CONTENT_TYPE),
    ]
    for name in CARRIED:
        value = known.get(name)
        if value is not None and len(value) <= LONGEST_CARRIED:
            headers.append((name, value))
    if timings:
        headers.append((TIMINGS, dump_timings(timings)))
    return headers


def _child(parent: bytes | None) -> str:
    """A span of its own in the trace of ``parent``, or in a new trace where there is none."""
    match = _TRACEPARENT.fullmatch((parent or b"").decode("ascii", "replace"))
    trace, flags = (match[1], match[3]) if match else (secrets.token_hex(16), "00")
    return f"00-{trace}-{secrets.token_hex(8)}-{flags}"


def trace_id(headers: Iterable[tuple[str, bytes]] | None) -> str | None:
    """The trace that an event belongs to."""
    match = _TRACEPARENT.fullmatch((header(headers, TRACEPARENT) or b"").decode("ascii", "replace"))
    return match[1] if match else None


def dump_timings(timings: Sequence[Timing]) -> bytes:
    """Timings as a header's value."""
    return orjson.dumps([[t.stage, round(t.waited_ms, 3), round(t.service_ms, 3)] for t in timings])


def load_timings(headers: Iterable[tuple[str, bytes]] | None) -> tuple[Timing, ...]:
    """Timings from headers; none where the header is missing, not ours, or longer than a stage would write it."""
    raw = header(headers, TIMINGS) or b"[]"
    if len(raw) > LONGEST_TIMINGS:
        return ()
    try:
        rows = orjson.loads(raw)
        timings = tuple(Timing(stage=str(s), waited_ms=float(w), service_ms=float(d)) for s, w, d in rows)
    except (orjson.JSONDecodeError, TypeError, ValueError):
        return ()
    return timings if all(isfinite(t.waited_ms) and isfinite(t.service_ms) for t in timings) else ()
