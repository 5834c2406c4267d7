"""``headrace ask``: one question, and its answer with the passages that it cites."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
from rich.console import Console
from rich.text import Text

from processors.admit.schema import check_schema
from schemas.errors import RefusedError
from schemas.records import Answer, Request
from streams.answers import AnswerStream, answer_view
from streams.cli.output import print_json, say
from streams.cli.streaming import JsonScreen, TextScreen, ask_streamed, compare_with
from streams.cli.submit import connect
from streams.publish import Publisher
from streams.requests import BadRequestLineError, parse_request
from streams.settings import Settings, load_settings


def ask(
    text: Annotated[str, typer.Argument(help="The question.")],
    tenant: Annotated[str, typer.Option(help="Tenant that asks.")] = "default",
    namespace: Annotated[list[str] | None, typer.Option(help="Namespace to search; may be given again.")] = None,
    k: Annotated[int | None, typer.Option(min=1, help="How many passages to show the model at most.")] = None,
    prompt: Annotated[str | None, typer.Option(help="Prompt template: name, or name@n.")] = None,
    route: Annotated[str | None, typer.Option(help="Route to take.")] = None,
    lane: Annotated[str, typer.Option(help="Lane to ask in.")] = "live",
    timeout: Annotated[float, typer.Option(min=0.001, help="How long the answer is wanted, in seconds.")] = 120.0,
    stream: Annotated[bool, typer.Option("--stream", help="Print the text while the model writes it.")] = False,
    json_mode: Annotated[bool, typer.Option("--json-mode", help="The text has to be a JSON object.")] = False,
    schema: Annotated[
        Path | None, typer.Option(help="The text has to be JSON by the JSON schema in this file.")
    ] = None,
    folder: Annotated[Path | None, typer.Option(help="The embedded stack's folder.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the answer as one JSON object.")] = False,
) -> None:
    """Ask one question and wait for its answer. Exit code 1 when it is not answered.

    With --stream and --json every chunk is an object on a line of its own, with a "kind"; the last line is the answer.
    """
    given: dict[str, Any] = {"query": text, "namespaces": namespace or None, "k": k, "prompt": prompt, "route": route}
    given |= {"stream": stream or None, "response_format": _format(json_mode=json_mode, schema=schema)}
    fields = {name: value for name, value in given.items() if value is not None}
    # Nobody waits for the answer after the time out, so nothing shall be spent on it either.
    fields["ttl_ms"] = max(1, round(timeout * 1000))
    try:
        request = parse_request(orjson.dumps(fields), tenant=tenant, lane=lane)
    except BadRequestLineError as error:
        raise typer.BadParameter(str(error)) from None
    settings = load_settings(folder=folder)
    if stream:
        screen = JsonScreen() if json else TextScreen()
        answer, streamed = ask_streamed(request, settings, timeout_s=timeout, screen=screen)
        if isinstance(screen, TextScreen):
            screen.end_line()
            if answer is not None:
                compare_with(answer, streamed, screen)
    else:
        answer = _answer(request, settings, timeout_s=timeout)
    if answer is None:
        say(f"headrace: no answer after {timeout:g} s; see headrace audit {request.meta.request_id}")
        raise typer.Exit(1)
    if json:
        print_json(answer_view(answer))
    elif answer.text is not None:
        if not stream:
            Console(highlight=False).print(Text(answer.text.inline or ""))
        _show_sources(answer)
    if answer.status != "answered":
        failure = answer.failure
        say(f"headrace: {answer.status}" + (f": {failure.message} ({failure.code})" if failure else ""))
        raise typer.Exit(1)


def _format(*, json_mode: bool, schema: Path | None) -> dict[str, Any] | None:
    """The form that the answer has to have, as a line of ``headrace submit`` would say it."""
    if schema is None:
        return {"type": "json_object"} if json_mode else None
    if json_mode:
        raise typer.BadParameter("--json-mode and --schema: give one of them")
    try:
        read = orjson.loads(schema.read_bytes())
        check_schema(read, str(schema))
    except OSError as error:
        raise typer.BadParameter(f"{schema} can't be read: {error.strerror or error}") from None
    except ValueError as error:
        raise typer.BadParameter(f"{schema}: no valid JSON: {error}") from None
    except RefusedError as error:
        raise typer.BadParameter(str(error)) from None
    return {"type": "json_schema", "json_schema": {"schema": read}}


def _answer(request: Request, settings: Settings, *, timeout_s: float) -> Answer | None:
    meta = request.meta
    codec = connect(settings, meta.lane, tenants=[meta.tenant])
    with AnswerStream(settings, codec, lane=meta.lane, tenants=[meta.tenant]) as stream:
        publisher = Publisher(settings, codec, lane=meta.lane)
        publisher.publish("requests", request, meta.request_id)
        for failed in publisher.flush():
            say(f"headrace: the broker did not acknowledge the request: {failed.reason}")
            raise typer.Exit(1)
        mine = stream.collect([meta.request_id], timeout_s=timeout_s, wanted=lambda a: a.meta.tenant == meta.tenant)
        return next(mine, None)


def _show_sources(answer: Answer) -> None:
    """A line for each passage that the answer cites, and what it cost."""
    out = Console(highlight=False)
    shown = {citation.number: citation for citation in answer.citations}
    if shown:
        out.print()
    for number, citation in sorted(shown.items()):
        where = " · ".join(part for part in (citation.title, citation.uri or citation.document_id) if part)
        out.print(Text(f"[{number}] {where} ({citation.score:.2f})", style="dim"))
    usage = answer.usage
    tokens = f"{usage.prompt_tokens} + {usage.completion_tokens} tokens"
    say(f"{answer.model} · {tokens} · ${answer.cost_usd.normalize():f} · {answer.meta.request_id}")
