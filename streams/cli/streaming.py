"""Printing a stream as it comes, and ``headrace stream``: a stream from its beginning, however late one looks."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated, Any, Protocol

import typer

from schemas.json_view import to_json
from schemas.records import Answer, Chunk, Request
from streams.chunks import ChunkReader, Shown, StreamText
from streams.cli.output import print_json, program, quiet_end, say
from streams.cli.submit import connect
from streams.publish import Publisher
from streams.settings import Settings, load_settings

# The last chunks of an answered request may come after its answer, which goes another way.
GRACE_S = 15.0


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
    stream, answer = StreamText(), None
    with ChunkReader(settings, codec, lane=meta.lane, from_start=False, answers=True, tenant=meta.tenant) as reader:
        publisher = Publisher(settings, codec, lane=meta.lane)
        publisher.publish("requests", request, meta.request_id)
        for failed in publisher.flush():
            say(f"headrace: the broker did not acknowledge the request: {failed.reason}")
            raise typer.Exit(1)
        deadline, patience = time.monotonic() + timeout_s, 0.0
        for record in reader.read(meta.request_id, tenant=meta.tenant, deadline=deadline):
            if isinstance(record, Chunk):
                screen.show(record, stream.add(record))
            elif record is not None and answer is None:
                answer = record
                # A request that was refused early never had a stream.
                begun = stream.attempt >= 0 or record.status == "answered"
                patience = time.monotonic() + (GRACE_S if begun else 0.0)
            if answer is not None and (stream.ended or time.monotonic() >= patience):
                break
    return answer, stream


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
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object a chunk.")] = False,
) -> None:
    """Print a request's stream from its first chunk on, and what still comes of it until it ends.

    Chunks are kept for a day by default; the answer is in ``audit``. Exit code 1: it failed, or did not end in time.
    """
    settings = load_settings(folder=folder)
    codec = connect(settings, lane, tenants=[tenant] if tenant else ())
    found, screen = StreamText(), JsonScreen() if json else TextScreen()
    with quiet_end(), ChunkReader(settings, codec, lane=lane, from_start=True, answers=False, tenant=tenant) as reader:
        for record in reader.read(request_id, tenant=tenant, deadline=time.monotonic() + timeout):
            if isinstance(record, Chunk):
                screen.show(record, found.add(record))
            if found.ended:
                break
    if isinstance(screen, TextScreen):
        screen.end_line()
    if not found.ended:
        what = "has not ended" if found.attempt >= 0 else "has no chunk here"
        say(f"headrace: the stream {what} after {timeout:g} s; see {program()} audit {request_id}")
    if not found.ended or found.failure is not None:
        raise typer.Exit(1)
