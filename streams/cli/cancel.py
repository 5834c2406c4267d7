"""``headrace cancel``: end a request, whatever stage has it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from streams import controlling
from streams.cli.author import author
from streams.cli.output import print_json, say
from streams.controlling import Asked
from streams.settings import Settings, load_settings

POLL_S = 0.25


def cancel(
    request_id: Annotated[str, typer.Argument(help="The request's id.")],
    tenant: Annotated[str | None, typer.Option(help="Its tenant, where several used the id or none did.")] = None,
    reason: Annotated[str, typer.Option(help="Why; kept with the control record.")] = "",
    wait: Annotated[float, typer.Option(min=0, help="Seconds to wait for the request's end.")] = 10.0,
    lane: Annotated[str, typer.Option(help="Lane of the request.")] = "live",
    folder: Annotated[Path | None, typer.Option(help="The embedded stack's folder.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Cancel a request: it ends `failed` with the code `cancelled`, and nothing more is spent on it.

    Exit code 0: it is cancelled, or will be as soon as a stage has it. 1: it has another final answer.
    """
    settings = load_settings(folder=folder)
    before = controlling.look_up(settings, request_id, lane=lane, tenant=tenant)
    offset = None
    asked = before
    if before.status is None:
        offset = controlling.cancel(settings, before, request_id, lane=lane, author=author(), reason=reason)
        asked = _end(settings, before, request_id, lane, wait)
    outcome = _outcome(before, asked)
    if json:
        print_json(_view(request_id, asked, outcome, offset, known=before.known))
    else:
        say(_line(request_id, asked, outcome))
    if outcome in ("final_before", "final_first"):
        raise typer.Exit(1)


def _end(settings: Settings, asked: Asked, request_id: str, lane: str, wait_s: float) -> Asked:
    """The request with its answer, if it comes in time. A request that nobody has seen is not waited for."""
    ends = time.monotonic() + wait_s
    while asked.known:
        asked = controlling.final_of(settings, asked.tenant, request_id, lane=lane)
        if asked.status is not None or time.monotonic() >= ends:
            break
        time.sleep(min(POLL_S, max(0.0, ends - time.monotonic())))
    return asked


def _outcome(before: Asked, after: Asked) -> str:
    if after.cancelled:
        return "cancelled_before" if before.cancelled else "cancelled"
    if after.status is not None:
        return "final_first" if before.status is None else "final_before"
    return "recorded" if after.known else "unknown"


def _line(request_id: str, asked: Asked, outcome: str) -> str:
    final = f"{asked.status}: {asked.code}" if asked.code else f"{asked.status}"
    lines = {
        "cancelled": "is cancelled",
        "cancelled_before": "was cancelled before",
        "final_before": f"is final already ({final}) and can't be cancelled",
        "final_first": f"got its answer ({final}) before a stage read the cancel",
        "recorded": "will be cancelled by the stage that has it; none has ended it yet",
        "unknown": "is not known: nothing was admitted under this id; it will be cancelled if it comes later",
    }
    return f"{request_id} of tenant {asked.tenant} {lines[outcome]}"


def _view(request_id: str, asked: Asked, outcome: str, offset: int | None, *, known: bool) -> dict[str, Any]:
    return {
        "request_id": request_id,
        "tenant": asked.tenant,
        "outcome": outcome,
        "known": known,
        "status": asked.status,
        "code": asked.code,
        "control_offset": offset,
    }
