"""What the demonstration shows on stderr: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.padding import Padding
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from schemas.records import Answer
from streams.cli.output import console, program, say
from streams.costs import Spent
from streams.demo.asking import OnArrival
from streams.demo.corpus import Ingested, OnIngested
from streams.demo.summary import Arrival, Quantiles, Summary, plain_number

# Every so many documents a line, where there is no terminal.
STEP = 20


@contextmanager
def ingestion(documents: int, chars: int) -> Iterator[OnIngested]:
    """Shows how far the index is: a bar by characters, because documents differ in size."""
    if not console.is_terminal:
        yield _ingestion_lines(documents)
        return
    columns = (
        TextColumn("indexing"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %  {task.fields[told]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bars:
        bar = bars.add_task("", total=chars, told="")

        def show(now: Ingested) -> None:
            told = f"{now.documents}/{documents} documents, {now.passages} passages"
            bars.update(bar, completed=now.chars, told=told)

        yield show


@contextmanager
def answering(questions: int) -> Iterator[OnArrival]:
    """Shows each answer as it arrives, with a bar below on a terminal."""
    if not console.is_terminal:
        yield show_arrival
        return
    columns = (TextColumn("answering"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bars:
        bar = bars.add_task("", total=questions)

        def show(question: str, arrival: Arrival) -> None:
            show_arrival(question, arrival)
            bars.advance(bar)

        yield show


def show_arrival(question: str, arrival: Arrival) -> None:
    """A question, its answer and where it comes from."""
    answer = arrival.answer
    console.print()
    console.print(Text(question, style="bold"))
    console.print(Padding(_body(answer), (0, 0, 0, 2)))
    for citation in answer.citations:
        console.print(Text(f"  [{citation.number}] {citation.title}  (score {citation.score:.2f})", style="cyan"))
    told = f"  {answer.status} in {arrival.latency_ms / 1000:.1f} s"
    if answer.usage.completion_tokens:
        told += f", {answer.usage.prompt_tokens} + {answer.usage.completion_tokens} tokens"
    console.print(Text(told, style="dim"))


def show_summary(summary: Summary, *, priced: bool) -> None:
    """The counts, then where the time went."""
    console.print()
    table = Table("stage", box=None, pad_edge=False, title="Latency in milliseconds", title_justify="left")
    for name in ("waited p50", "waited p95", "service p50", "service p95"):
        table.add_column(name, justify="right")
    for stage in summary.waited:
        table.add_row(stage, *_cells(summary.waited[stage]), *_cells(summary.service[stage]))
    console.print(table)
    p50, p95 = _cells(summary.latency)
    say(f"end to end: p50 {p50} ms, p95 {p95} ms, from publishing to the answer in hand")
    console.print()
    say(
        f"{summary.requests} request(s): {summary.answered} answered, {summary.rejected} rejected,"
        f" {summary.failed} failed, {summary.lost} lost"
    )
    cited = summary.citations_per_answer
    if cited is not None:
        say(f"{cited:g} citations an answer")
    note = "" if priced else " (the local model has no price)"
    say(f"{summary.prompt_tokens} + {summary.completion_tokens} tokens, {plain_number(summary.cost_usd)} USD{note}")


def show_ledger(total: Spent) -> None:
    """What the ledger holds of the lane, from this run and those before it."""
    # A person counts what was billed; the books keep twelve digits.
    amount = plain_number(total.total_usd) if total.total_usd else "0"
    say(f"ledger: {total.attempts} attempts for {total.requests} requests, {amount} USD in all")


def show_next(namespace: str, request_id: str, *, stopped: bool, option: str) -> None:
    """How to go on. ``option`` names the folder where it is not the usual one."""
    typed = program()
    lines = [
        ("ask", f'{typed} ask "What is a context manager?" --namespace {namespace}{option}'),
        ("look", f"{typed} tail answers{option}"),
        ("", f"{typed} audit {request_id}{option}"),
        ("", f"{typed} costs --by model{option}"),
        ("", f"{typed} status{option}"),
        ("stop", f"{typed} down{option}"),
    ]
    if stopped:
        lines = [("again", f"{typed} demo{option}"), ("start", f"{typed} up{option}")]
    console.print()
    for name, command in lines:
        console.print(f"  {name:6} {command}", markup=False, highlight=False, soft_wrap=True)


def _body(answer: Answer) -> Text:
    if answer.text is not None:
        return Text((answer.text.inline or "").strip())
    if answer.failure is not None:
        return Text(f"{answer.failure.code}: {answer.failure.message}", style="red")
    return Text("(no text)", style="dim")


def _cells(quantiles: Quantiles) -> tuple[str, str]:
    p50, p95 = (_cell(value) for value in (quantiles.p50, quantiles.p95))
    return p50, p95


def _cell(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def _ingestion_lines(documents: int) -> OnIngested:
    told = -STEP

    def show(now: Ingested) -> None:
        nonlocal told
        if now.documents - told >= STEP or (now.documents == documents and told != documents):
            told = now.documents
            say(f"indexed {now.documents}/{documents} documents, {now.passages} passages")

    return show
