"""``headrace submit``: publish a file of requests, and wait for their answers if asked to."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from schemas.codec import Codec
from schemas.record import Record
from schemas.records import Answer, Meta, Request
from streams import security
from streams.answers import AnswerStream, answer_view
from streams.batch_settings import SUBMITTED_TTL_MS, goes_by_batch
from streams.claims import BlockingClaims
from streams.cli.output import console, print_json, say
from streams.publish import Publisher
from streams.reading import TopicReader
from streams.request_file import Checked, RequestFile
from streams.settings import Settings, load_settings
from streams.topics import consumer_topic, producer_topic

# An expired request has its answer by then.
GRACE_S = 60.0
MOST_NAMED = 20

Advance = Callable[[int], None]


def submit(
    file: Annotated[str, typer.Argument(help="A file with one request a line, as JSON; - for stdin.")],
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the answers and print one a line.")] = False,
    timeout: Annotated[
        float | None,
        typer.Option(min=0, help="Longest wait for all answers, in seconds. Default: the longest ttl and a minute."),
    ] = None,
    lane: Annotated[str, typer.Option(help="Lane to publish in.")] = "live",
    tenant: Annotated[str, typer.Option(help="Tenant of lines that name none.")] = "default",
    batch: Annotated[
        str | None,
        typer.Option(help="Name of this submission: the same file under the same name again pays nothing again."),
    ] = None,
    ttl: Annotated[
        float | None,
        typer.Option(
            min=0.001,
            help="Seconds for which an answer is wanted, where a line has no ttl_ms. Default: 300; in a lane that goes "
            "by batch 48 hours.",
        ),
    ] = None,
    folder: Annotated[Path | None, typer.Option(help="The embedded stack's folder.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line and nothing else.")] = False,
) -> None:
    """Publish a file of requests. Nothing is published unless every line is right.

    A line is {"query": "..."} or {"messages": [...]} as for OpenAI, with any of request_id, idempotency_key, tenant,
    team, user, session, feature, tier, priority, ttl_ms, prompt ("name", "name@n" or an object), route, model,
    temperature and other sampling parameters, response_format, tools, tool_choice, namespace(s), k, minimum_score,
    filters, retrieval (false: none), stream, metadata.

    A line that is sent again under the same request_id, idempotency_key or --batch gets the answer that was paid for;
    without any of them it is a new request with a fresh id.

    Prints the id of each request that the broker acknowledged; with --wait each answer as one JSON object, in order
    of arrival. Exit code 0: all acknowledged, with --wait all answered. 1: some were not. 2: bad file or settings.
    """
    settings = load_settings(folder=folder)
    with RequestFile(file, tenant=tenant, lane=lane, batch=batch, ttl_ms=_ttl_ms(ttl, settings, lane)) as source:
        codec = asyncio.run(security.codec(settings.registry))
        checked = _checked(source, codec, BlockingClaims(settings, codec))
        check_topics(settings, lane, checked.tenants)
        with AnswerStream(settings, codec, lane=lane, tenants=checked.tenants) if wait else nullcontext() as stream:
            report = _report_json if json else _report_id
            ids, lost = _publish(source, checked, Publisher(settings, codec, lane=lane), None if wait else report)
            done = not lost
            if stream is not None:
                longest = checked.longest_ttl_ms / 1000 + GRACE_S
                done = _await(stream, ids, timeout_s=longest if timeout is None else timeout) and done
    if not done:
        raise typer.Exit(1)


def _ttl_ms(ttl_s: float | None, settings: Settings, lane: str) -> int | None:
    """The time to live of lines that have none; ``None`` for the one of all requests."""
    if ttl_s is not None:
        return round(ttl_s * 1000)
    return SUBMITTED_TTL_MS if goes_by_batch(lane, settings.deployments.values()) else None


def check_topics(settings: Settings, lane: str, tenants: Collection[str]) -> None:
    """Raise ``ConfigurationError`` where the topics that these tenants write and read are not there."""
    readers: Collection[str | None] = tenants or (None,)
    topics = {consumer_topic(settings, lane, "answers", tenant) for tenant in readers}
    for tenant in tenants:
        topics.add(producer_topic(settings, lane, "requests", tenant))
    with TopicReader(settings) as reader:
        reader.counts(topics)


def connect(settings: Settings, lane: str, *, tenants: Collection[str] = ()) -> Codec:
    """A codec for a lane whose topics are there. Raises ``ConfigurationError`` where they are not."""
    check_topics(settings, lane, tenants)
    return asyncio.run(security.codec(settings.registry))


def _checked(source: RequestFile, codec: Codec, claims: BlockingClaims) -> Checked:
    with _bar("checking", source.size) as advance:
        checked = source.check(codec, advance, claims=claims)
    if checked.bad_lines:
        for fault in checked.faults:
            say(fault)
        say(
            f"headrace: {checked.bad_lines} of {checked.requests + checked.bad_lines} lines are wrong; nothing was sent"
        )
        raise typer.Exit(2)
    return checked


def _publish(
    source: RequestFile, checked: Checked, publisher: Publisher, report: Callable[[Meta], None] | None
) -> tuple[dict[str, str], int]:
    """Publish all; the tenant of each acknowledged request by its id (where nobody is told at once), and how many
    were not acknowledged."""
    ids: dict[str, str] = {}

    def delivered(record: Record, reason: str | None) -> None:
        if reason is not None:
            return
        meta: Meta = record.meta  # type: ignore[attr-defined]
        if report is None:
            ids[meta.request_id] = meta.tenant
        else:
            report(meta)

    with _bar("publishing", source.size) as advance:
        for request in source.requests(advance):
            publisher.publish("requests", request, request.meta.request_id, delivered=delivered)
        failures = publisher.flush()
    for failure in failures[:MOST_NAMED]:
        assert isinstance(failure.record, Request)
        say(f"not acknowledged: {failure.record.meta.request_id}: {failure.reason}")
    if failures:
        say(f"headrace: {len(failures)} of {checked.requests} requests were not acknowledged; submit them again")
    else:
        say(f"{checked.requests} requests acknowledged")
    return ids, len(failures)


def _await(stream: AnswerStream, ids: dict[str, str], *, timeout_s: float) -> bool:
    """Print the answers as they arrive; whether every request was answered."""
    started = time.monotonic()
    statuses: Counter[str] = Counter()
    missing = dict(ids)
    unanswered: list[str] = []
    with _bar("answers", len(ids), count=True) as advance:
        for answer in stream.collect(
            ids, timeout_s=timeout_s, wanted=lambda a: ids[a.meta.request_id] == a.meta.tenant
        ):
            print_json(answer_view(answer))
            if missing.pop(answer.meta.request_id, None) is not None:
                advance(1)
                statuses[answer.status] += 1
                if answer.status != "answered":
                    unanswered.append(_why(answer))
    for line in unanswered[:MOST_NAMED]:
        say(line)
    _say_missing(missing, time.monotonic() - started)
    counts = ", ".join(f"{count} {status}" for status, count in sorted(statuses.items())) or "none answered"
    say(f"{len(ids)} requests: {counts}, {len(missing)} missing, in {time.monotonic() - started:.1f} s")
    return not missing and not unanswered


def _why(answer: Answer) -> str:
    failure = answer.failure
    return f"{answer.status}: {answer.meta.request_id}" + (f": {failure.code}: {failure.message}" if failure else "")


def _say_missing(missing: dict[str, str], waited_s: float) -> None:
    for request_id in list(missing)[:MOST_NAMED]:
        say(f"no answer after {waited_s:.0f} s: {request_id}; see headrace audit {request_id}")
    if len(missing) > MOST_NAMED:
        say(f"and {len(missing) - MOST_NAMED} more without an answer")


def _report_json(meta: Meta) -> None:
    print_json({"request_id": meta.request_id, "tenant": meta.tenant, "lane": meta.lane, "event_id": meta.event_id})


def _report_id(meta: Meta) -> None:
    typer.echo(meta.request_id)


@contextmanager
def _bar(what: str, total: int, *, count: bool = False) -> Iterator[Advance]:
    """A progress bar where stderr is a terminal; else nothing."""
    middle: tuple[Any, ...] = (MofNCompleteColumn(),) if count else (TextColumn("{task.percentage:>3.0f} %"),)
    columns = (TextColumn("{task.description:<10}"), BarColumn(), *middle, TimeRemainingColumn())
    # Redirected, what is printed to stdout meanwhile would land on stderr.
    options: dict[str, Any] = {"transient": True, "redirect_stdout": False, "disable": not console.is_terminal}
    with Progress(*columns, console=console, **options) as progress:
        task = progress.add_task(what, total=total)
        yield lambda step: progress.advance(task, step)
