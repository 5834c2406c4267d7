"""``headrace feedback``: what a user thought of an answer."""

from __future__ import annotations

import asyncio
import uuid
from pathlib import Path
from typing import Annotated, Any

import typer

from schemas.errors import ConfigurationError
from schemas.records import Feedback, Text
from streams.cli.output import print_json, say
from streams.cli.submit import connect
from streams.known import Known, look_up
from streams.publish import Publisher, producer_meta
from streams.settings import Settings, load_settings

CHANNEL = "command line"


def feedback(
    request_id: Annotated[str, typer.Argument(help="The request whose answer it is about.")],
    rating: Annotated[int | None, typer.Option(min=1, max=5, help="1 (worst) to 5 (best).")] = None,
    comment: Annotated[str | None, typer.Option(help="In the user's words.")] = None,
    correction: Annotated[str | None, typer.Option(help="What the answer should have been.")] = None,
    label: Annotated[list[str] | None, typer.Option(help="A reason; may be given again.")] = None,
    user: Annotated[str, typer.Option(help="Who says it.")] = "",
    answer: Annotated[
        str | None, typer.Option(help="event_id of the answer it is about; the latest if left out.")
    ] = None,
    tenant: Annotated[str | None, typer.Option(help="Its tenant, where several use the same id.")] = None,
    lane: Annotated[str, typer.Option(help="Lane the request ran in.")] = "live",
    folder: Annotated[Path | None, typer.Option(help="The embedded stack's folder.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Say what a user thought of an answer. Exit code 1 when the request is not known.

    Feedback for a request that is not answered yet waits for its answer.
    """
    if rating is None and not comment and not correction and not label:
        raise typer.BadParameter("say something: --rating, --comment, --correction or --label")
    settings = load_settings(folder=folder)
    known = _known(settings, lane, request_id, tenant)
    if not known.tenants:
        say(f"headrace: no request {request_id} is known in the lane {lane}; correct the id, --lane or --tenant")
        raise typer.Exit(1)
    meta = producer_meta(tenant=known.tenants[0], lane=lane, request_id=request_id, cause=str(uuid.uuid4()))
    _publish(
        settings,
        Feedback(
            meta=meta,
            answer_event_id=answer,
            rating=rating,
            comment=Text(inline=comment) if comment else None,
            correction=Text(inline=correction) if correction else None,
            user=user,
            channel=CHANNEL,
            labels=tuple(label or ()),
        ),
    )
    final = known.final
    if json:
        about = None if final is None else {name: final[name] for name in ("event_id", "revision", "status")}
        shown: dict[str, Any] = {"request_id": request_id, "tenant": meta.tenant, "event_id": meta.event_id}
        print_json({**shown, "rating": rating, "answer": about})
    elif final is None:
        say("headrace: taken; the request is not answered yet, and it will be joined to its answer")
    else:
        say(f"headrace: taken for the answer of {final['decided_at']} ({final['status']})")


def _known(settings: Settings, lane: str, request_id: str, tenant: str | None) -> Known:
    tenants = [tenant] if tenant else {*settings.tenants, "default"}
    dsn = settings.postgres.dsn.get_secret_value()
    known = asyncio.run(look_up(dsn, lane=lane, request_id=request_id, tenants=tenants))
    if len(known.tenants) > 1:
        raise ConfigurationError(
            f"{request_id} was used by the tenants {', '.join(known.tenants)}; name one with --tenant"
        )
    return known


def _publish(settings: Settings, record: Feedback) -> None:
    lane = record.meta.lane
    publisher = Publisher(settings, connect(settings, lane), lane=lane)
    publisher.send(record)
    for failed in publisher.flush():
        say(f"headrace: the broker did not acknowledge the feedback: {failed.reason}")
        raise typer.Exit(1)
