"""Printing a stream as it comes, and ``headrace stream``: a stream from its beginning, however late one looks."""

from __future__ import annotations

import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Protocol

import typer

from schemas.json_view import to_json
from schemas.records import Answer, Chunk, Request
from streams.answers import answer_view
from streams.chunks import ChunkReader, Shown, StreamText
from streams.cli.output import print_json, program, quiet_end, say
from streams.cli.submit import connect
from streams.publish import Publisher
from streams.settings import Settings, load_settings

# The last chunks of an answered request may come after its answer, which goes another way.
GRACE_S = 15.0
# Nor may the answer be there when the stream ends: the filter has the text a moment later.
ANSWER_AFTER_S = 15.0


class Screen(Protocol):
    """Where a stream is shown."""

    def show(self, chunk: Chunk, shown: Shown) -> None:
        """Show what a chunk changed."""
        ...


class TextScreen:
    """The text on stdout as it comes; what happens to it on stderr."""

    def __init__(self) -> None:
        self._open_line = False

    def show(self, chunk: Chunk, shown: Shown) -> None:
        if shown.restart:
            self.end_line()
            say("headrace: the model broke off; what stands above is void, its text begins again:")
        self.write(shown.text)
        if shown.ended:
            self.end_line()
        if chunk.kind == "failed" and shown.ended and chunk.failure is not None:
            say(f"headrace: the stream failed: {chunk.failure.message} ({chunk.failure.code})")

    def write(self, text: str) -> None:
        """Text on stdout at once. What a terminal would act on is left out."""
        if text:
            sys.stdout.write("".join(c for c in text if c.isprintable() or c in "\n\t"))
            sys.stdout.flush()
            self._open_line = not text.endswith("\n")

    def end_line(self) -> None:
        """End the line that is open, if one is."""
        if self._open_line:
            sys.stdout.write("\n")
            sys.stdout.flush()
            self._open_line = False


class JsonScreen:
    """Every chunk as one JSON object a line; one that comes again is left out."""

    def __init__(self) -> None:
        self._seen: set[str] = set()

    def show(self, chunk: Chunk, shown: Shown) -> None:  # noqa: ARG002 (who reads JSON puts the text together)
        if chunk.meta.event_id not in self._seen:
            self._seen.add(chunk.meta.event_id)
            print_json(chunk_view(chunk))


def chunk_view(chunk: Chunk) -> dict[str, Any]:
    """A chunk as ``ask --stream`` and ``stream`` print it."""
    view: dict[str, Any] = {
        "request_id": chunk.meta.request_id,
        "kind": chunk.kind,
        "attempt": chunk.attempt,
        "sequence": chunk.sequence,
        "start_char": chunk.start_char,
        "text": None if chunk.text is None else chunk.text.inline,
        "finish_reason": chunk.finish_reason,
        "event_id": chunk.meta.event_id,
    }
    if chunk.failure is not None:
        view["failure"] = to_json(chunk.failure)
    return view


def ask_streamed(
    request: Request, settings: Settings, *, timeout_s: float, screen: Screen
) -> tuple[Answer | None, StreamText]:
    """Publish the request and show its chunks as they come; its answer, and the stream as far as it came."""
    meta = request.meta
    codec = connect(settings, meta.lane, tenants=[meta.tenant])
    stream = StreamText()
    with ChunkReader(settings, codec, lane=meta.lane, from_start=False, answers=True, tenant=meta.tenant) as reader:
        publisher = Publisher(settings, codec, lane=meta.lane)
        publisher.publish("requests", request, meta.request_id)
        for failed in publisher.flush():
            say(f"headrace: the broker did not acknowledge the request: {failed.reason}")
            raise typer.Exit(1)
        answer = follow(reader, meta.request_id, stream, tenant=meta.tenant, timeout_s=timeout_s, screen=screen)
    return answer, stream


def follow(
    reader: ChunkReader,
    request_id: str,
    stream: StreamText,
    *,
    tenant: str | None,
    timeout_s: float,
    screen: Screen,
    answer_s: float | None = None,
) -> Answer | None:
    """Show a request's chunks as they come, and take them into ``stream``, until both it and the request are over.

    The request's answer, if there was one in ``timeout_s``. ``answer_s``: how long it is waited for once the stream
    has ended; for as long as there is time by default.
    """
    answer, deadline, patience = None, time.monotonic() + timeout_s, 0.0
    for record in reader.read(request_id, tenant=tenant, deadline=deadline):
        if isinstance(record, Chunk):
            was = stream.ended
            screen.show(record, stream.add(record))
            if stream.ended and not was and answer is None and answer_s is not None:
                patience = time.monotonic() + answer_s
        elif record is not None and (answer is None or record.revision > answer.revision):
            answer = record
            patience = time.monotonic() + _grace_s(answer, stream, late=reader.reads_history)
        if reader.reads_history:
            continue
        over = time.monotonic() >= patience
        if answer is not None and (stream.ended or over):
            break
        if answer is None and stream.ended and answer_s is not None and over:
            break
    return answer


def _grace_s(answer: Answer, stream: StreamText, *, late: bool) -> float:
    """How long chunks of an answered request may still be on their way. ``late``: the answer was there before us."""
    # A request that was refused early never had a stream.
    if stream.attempt < 0 and answer.status != "answered":
        return 0.0
    age = datetime.now(UTC) - answer.decided_at if late and answer.decided_at else timedelta()
    return max(0.0, GRACE_S - age.total_seconds())


def compare_with(answer: Answer, stream: StreamText, screen: TextScreen) -> None:
    """Say where the final answer is not what was shown, and show it then: it is the answer that counts."""
    screen.end_line()
    text = answer.text.inline if answer.text is not None else None
    if answer.status != "answered":
        if stream.text:
            say("headrace: the text above had been shown before the request ended without an answer; it is void")
        return
    if stream.ended and stream.failure is None and stream.text == (text or ""):
        return
    if stream.text:
        say("headrace: the final answer is not what was streamed above; this is the answer:")
    elif stream.failure is None:
        say("headrace: no chunks came; this is the answer:")
    screen.write(text or "")
    screen.end_line()


def stream(
    request_id: Annotated[str, typer.Argument(help="Request whose stream is wanted.")],
    tenant: Annotated[str | None, typer.Option(help="Only this tenant's request of that id.")] = None,
    lane: Annotated[str, typer.Option(help="Lane to read.")] = "live",
    timeout: Annotated[float, typer.Option(min=0.001, help="Longest wait for the stream's end, in seconds.")] = 120.0,
    folder: Annotated[Path | None, typer.Option(help="The embedded stack's folder.")] = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object a chunk; the last is the answer.")
    ] = False,
) -> None:
    """Print a request's stream from its first chunk on, and what still comes of it until it ends.

    Ends at once for a request that is over, with its status. Chunks are kept for a day by default; older answers are
    in ``audit``. Exit code 1: it is not answered, the stream failed, or neither ended in time.
    """
    settings = load_settings(folder=folder)
    codec = connect(settings, lane, tenants=[tenant] if tenant else ())
    found, screen = StreamText(), JsonScreen() if json else TextScreen()
    with quiet_end(), ChunkReader(settings, codec, lane=lane, from_start=True, answers=True, tenant=tenant) as reader:
        answer = follow(
            reader, request_id, found, tenant=tenant, timeout_s=timeout, screen=screen, answer_s=ANSWER_AFTER_S
        )
        if isinstance(screen, TextScreen):
            screen.end_line()
        if answer is not None:
            end_with(answer, found, screen)
            return
    if not found.ended:
        what = "has not ended" if found.attempt >= 0 else "has no chunk here"
        say(f"headrace: the stream {what} after {timeout:g} s; see {program()} audit {request_id}")
    if not found.ended or found.failure is not None:
        raise typer.Exit(1)


def end_with(answer: Answer, stream: StreamText, screen: TextScreen | JsonScreen) -> None:
    """Show what the answer adds to its stream. Ends the command with 1 when it is not answered."""
    if isinstance(screen, TextScreen):
        compare_with(answer, stream, screen)
    else:
        print_json(answer_view(answer))
    if answer.status != "answered":
        failure = answer.failure
        say(f"headrace: {answer.status}" + (f": {failure.message} ({failure.code})" if failure else ""))
        raise typer.Exit(1)
