"""``headrace audit``: everything that happened to one request."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text
from rich.tree import Tree

from processors.complete import SAMPLE
from schemas.errors import PoisonError
from schemas.json_view import to_json
from schemas.wire import schema_id_of
from streams import security
from streams.audit import Audit, Auditor
from streams.auditing.background import gather_background
from streams.auditing.explain import explained
from streams.auditing.page import write_page
from streams.causes import Event
from streams.cli.audit_sections import add_sections
from streams.cli.folding import Run, describe_run, fold
from streams.cli.lines import clean, summary
from streams.cli.output import print_json, say
from streams.opened import iso, opened_view
from streams.page_file import check_folder
from streams.settings import load_settings

WIDE = 1000


def audit(
    request_id: Annotated[str, typer.Argument(help="The request's id.")],
    tenant: Annotated[str | None, typer.Option(help="Its tenant, where several use the same id.")] = None,
    lane: Annotated[str, typer.Option(help="Lane it ran in.")] = "live",
    after: Annotated[float, typer.Option(min=0, help="Minutes after its answer to look for later events.")] = 10.0,
    folder: Annotated[Path | None, typer.Option(help="The embedded stack's folder.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Show each delta and chunk of a stream on a line.")] = False,
    replays: Annotated[bool, typer.Option(help="Look into the lanes of replays, too.")] = True,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a page that needs no network, for a browser.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show every event of a request in causal order, every attempt, and why its answer says what it says.

    The prompt and what has changed in it since, the passages and their documents, what guards found, scores, and what
    was live on control. The deltas and the chunks of an attempt are one line each, without --all; --json and --html
    have them all. Texts are shown, and may hold personal data. Exit code 1: nothing found.
    """
    check_folder(html)
    settings = load_settings(folder=folder)
    codec = asyncio.run(security.codec(settings.registry))
    auditor = Auditor(settings, lane=lane, note=say, codec=codec)
    found = auditor.audit(request_id, tenant=tenant, after=timedelta(minutes=after), replays=replays)
    background = gather_background(settings, codec, found, lane=lane, note=say)
    origins = explained(found.events, background, tenant=(found.tenants or ("",))[0], request_id=request_id)
    if html is not None:
        write_page({**view(found), **origins, "lane": lane}, html)
        say(f"{html} tells the story of {request_id}")
    if json:
        print_json({**view(found), **origins})
    elif html is None and (found.events or found.known.final):
        # A file or a pipe has no width to fit into.
        shown = tree(found, every=every, origins=origins)
        Console(highlight=False, width=None if sys.stdout.isatty() else WIDE).print(shown)
    if not found.events and found.known.final is None and not found.known.attempts:
        say(f"headrace: nothing was found of {request_id} in the lane {lane}")
        raise typer.Exit(1)


def view(found: Audit) -> dict[str, Any]:
    """The audit as one JSON object."""
    return {
        "request_id": found.request_id,
        "tenant": found.tenants[0] if found.tenants else None,
        "status": found.status,
        "window": {
            "since": iso(found.since) if found.since else None,
            "until": iso(found.until) if found.until else None,
        },
        "events": [_event(event) for event in found.events],
        "attempts": list(found.known.attempts),
        "final": found.known.final,
        "evaluations": list(found.known.evaluations),
        "feedback": list(found.known.feedback),
        "deferred": list(found.known.deferred),
    }


def _event(event: Event) -> dict[str, Any]:
    first = event.first
    opened = opened_view(first)
    shown = {name: opened[name] for name in ("topic", "partition", "offset", "time")}
    shown |= {
        "event_id": event.event_id,
        "causation_id": event.causation_id,
        "stage": event.stage,
        "kind": event.kind,
        "depth": event.depth,
        "copies": [
            {"partition": one.entry.partition, "offset": one.entry.offset, "time": iso(one.entry.time)}
            for one in event.copies
        ],
        "same_bytes": event.same_bytes,
        "schema_id": _schema_id(first.entry.value),
        "record": opened["record"],
    }
    if first.fault is not None:
        shown |= {"undecodable": first.fault, "value": opened["value"]}
    if first.letter is not None:
        letter = to_json(first.letter)
        # The bytes are those of the event itself.
        shown["dead_letter"] = {
            name: value for name, value in letter.items() if name not in ("meta", "value", "headers")
        }
    return shown


def _schema_id(value: bytes | None) -> int | None:
    try:
        return schema_id_of(value or b"")
    except PoisonError:
        return None


def tree(found: Audit, *, every: bool = True, origins: Mapping[str, Any] | None = None) -> Tree:
    """The audit for a person. Without ``every`` the deltas and the chunks of an attempt are one line each."""
    tenant = f" · tenant {found.tenants[0]}" if found.tenants else ""
    top = Tree(Text(clean(f"{found.request_id}{tenant} · {found.status}"), style="bold"))
    branches = [top]
    for shown in found.events if every else fold(found.events):
        event = shown.first if isinstance(shown, Run) else shown
        del branches[event.depth + 1 :]
        branches.append(branches[-1].add(_run(shown) if isinstance(shown, Run) else _node(shown)))
    if found.known.attempts:
        attempts = top.add(Text("attempts", style="bold"))
        for attempt in found.known.attempts:
            attempts.add(Text(clean(_attempt(attempt))))
    if found.known.evaluations:
        evaluations = top.add(Text("evaluations", style="bold"))
        for one in found.known.evaluations:
            evaluations.add(Text(clean(_evaluation(one))))
    if origins is not None:
        add_sections(top, origins)
    for told in found.known.feedback:
        if told["answer_event_id"] is None:
            top.add(Text(f"feedback {told['event_id']} of {told['received_at']} waits for its answer", style="bold"))
    for waits in found.known.deferred:
        text = f"waits for {waits['stage']} since {waits['deferred_at']} · {waits['reason']}"
        top.add(Text(clean(text), style="bold yellow"))
    final = found.known.final
    if final is not None:
        top.add(Text(f"final {final['status']} · revision {final['revision']} · {final['decided_at']}", style="bold"))
    return top


def _node(event: Event) -> Text:
    entry = event.first.entry
    node = Text(f"{event.kind} ", style="bold red" if event.first.letter or event.first.fault else "bold cyan")
    lane = event.first.meta.lane if event.first.meta is not None and event.first.meta.run else ""
    node.append(f"{lane}{' ' if lane else ''}{entry.partition}@{entry.offset} {iso(entry.time)} ", style="dim")
    node.append(clean(summary(event.first)), style="default")
    if len(event.copies) > 1:
        places = ", ".join(f"{one.entry.partition}@{one.entry.offset}" for one in event.copies)
        bytes_ = "the same bytes" if event.same_bytes else "other bytes"
        node.append(f" · {len(event.copies)} copies with {bytes_}: {places}", style="yellow")
    return node


def _run(run: Run) -> Text:
    first, last = run.first.first.entry, run.events[-1].first.entry
    node = Text(f"{run.first.kind} ", style="bold cyan")
    node.append(f"{first.partition}@{first.offset}…{last.offset} {iso(first.time)} ", style="dim")
    node.append(clean(describe_run(run)), style="default")
    if run.copies:
        node.append(f" · {run.copies} came again with the same bytes", style="yellow")
    return node


def _evaluation(one: dict[str, Any]) -> str:
    if one["done_at"] is None:
        return f"{one['source']} · expected since {one['expected_at']} and not done"
    scores = ", ".join(
        f"{score['name']} {score['failure_code'] if score['value'] is None else score['value']}"
        for score in one["scores"] or ()
    )
    return f"{one['source']} · {one['done_at']} · {scores}"


def _attempt(attempt: dict[str, Any]) -> str:
    cost = "" if attempt["cost_usd"] is None else f" · ${attempt['cost_usd']}" + (" at most" * attempt["upper_bound"])
    if attempt["booked_usd"] not in (None, attempt["cost_usd"] or "0"):
        cost += f" · booked at ${attempt['booked_usd']} since"
    error = f" · {attempt['error_class']} {attempt['error_code']}" if attempt["error_code"] else ""
    batch = f" · by batch {attempt['provider_batch'] or attempt['batch_id']}" if attempt["batch_id"] else ""
    where = f"{attempt['deployment']} {attempt['model']}{batch}"
    number = f"{attempt['call_ordinal']} attempt " if attempt["purpose"] == SAMPLE else ""
    number = f"{attempt['purpose']} {number}{attempt['ordinal']}"
    return f"{number} {attempt['state']} · {where} · {attempt['started_at']}{error}{cost}"
