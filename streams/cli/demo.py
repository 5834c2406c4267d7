"""``headrace demo``: the whole stream on this machine, from nothing to answers with their sources."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from infra.embedded import stack
from streams import security
from streams.cli.output import print_json, say
from streams.cli.stack import DEFAULT_FOLDER, Folder, bring_up, exit_on_failure, progress
from streams.costs import Selection, Spent, look_up
from streams.demo.asking import GROUP, GROUP_TIMEOUT_S, Asked, Manner, ask_all
from streams.demo.corpus import chars_of, ingest
from streams.demo.failure import dead_letters, failure
from streams.demo.questions import QUESTIONS, read_questions
from streams.demo.screen import answering, ingestion, show_ledger, show_next, show_summary
from streams.demo.summary import Summary, summarise
from streams.loading import Owner, load_python_topics
from streams.publish import Publisher
from streams.settings import Settings, load_settings

LANE = "live"
NAMESPACE = "python-reference"
# Cost events are told before answers: the ledger is a moment behind at most.
LEDGER_S = 5.0


def demo(
    folder: Folder = DEFAULT_FOLDER,
    questions: Annotated[Path | None, typer.Option(help="A text file of your own questions, one a line.")] = None,
    down: Annotated[bool, typer.Option("--down", help="Stop everything at the end.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Start the stack, index the Python language reference, ask about it and show where the time went.

    Exit 1 when an answer is lost or none came. The stack keeps running, for more questions, unless --down is given.
    """
    asking = read_questions(questions) if questions else QUESTIONS
    joins = stack.is_running(folder)
    with exit_on_failure():
        try:
            with progress() as on_progress:
                state = bring_up(folder, on_progress=on_progress)
            settings = load_settings(folder=folder)
            asked = run(settings, asking)
            summary = summarise(asked.questions, asked.arrivals)
            if json:
                print_json(summary.to_json(state.versions))
            show_summary(summary, priced=bool(summary.cost_usd))
            show_ledger(booked(settings, summary.answered))
            _judge(settings, asked, summary)
        except KeyboardInterrupt:
            # What was running before goes on.
            down = down or not joins
            raise
        finally:
            if down:
                say("\nstopping the stack")
                stack.down(folder)
    option = "" if folder == DEFAULT_FOLDER else f" --folder {folder}"
    show_next(NAMESPACE, next(iter(asked.questions)), stopped=down, option=option)


def run(settings: Settings, questions: Sequence[str]) -> Asked:
    """Index the corpus and ask the questions, on a stack that is up. Shows progress and answers on stderr."""
    codec = asyncio.run(security.codec(settings.registry))
    publisher = Publisher(settings, codec, lane=LANE)
    documents = list(load_python_topics(Owner(namespace=NAMESPACE, lane=LANE)))
    chars = sum(chars_of(document) for document in documents)
    say(f"\nindexing the Python language reference: {len(documents)} documents, {chars / 1000:.0f} kB")
    started = time.monotonic()
    with ingestion(len(documents), chars) as on_ingested:
        done = ingest(settings, publisher, documents, lane=LANE, on_progress=on_ingested)
    say(
        f"{done.documents} documents in {done.passages} passages, {done.embedded} of them embedded now;"
        f" {time.monotonic() - started:.0f} s"
    )
    manner = Manner(namespace=NAMESPACE, lane=LANE)
    say(f"\nasking {len(questions)} question(s), {GROUP} at a time")
    with answering(len(questions)) as on_arrival:
        return ask_all(settings, codec, publisher, questions, manner=manner, on_arrival=on_arrival)


def booked(settings: Settings, answered: int) -> Spent:
    """The ledger's total once it holds as many requests as were answered; blocks for a few seconds at most."""
    dsn, deadline = settings.postgres.dsn.get_secret_value(), time.monotonic() + LEDGER_S
    while True:
        found = asyncio.run(look_up(dsn, (), Selection(lane=LANE))).total
        if found.requests >= answered or time.monotonic() > deadline:
            return found
        time.sleep(0.1)


def _judge(settings: Settings, asked: Asked, summary: Summary) -> None:
    if summary.good:
        return
    if asked.lost:
        reason = f"no answer within {GROUP_TIMEOUT_S:.0f} s to {len(asked.lost)} requests: {', '.join(asked.lost)}"
    else:
        failures = {one.answer.failure.message for one in asked.arrivals if one.answer.failure is not None}
        reason = f"no request was answered ({'; '.join(sorted(failures)) or 'no reason given'})"
    suspects = ("complete", "flow") if asked.lost else ("complete",)
    raise failure(settings.folder, reason, suspects=suspects, letters=dead_letters(settings, lane=LANE))
