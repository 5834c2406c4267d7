"""``headrace prompt``: templates, stored by content and made live by a control record."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console
from rich.table import Table

from processors.enrich import Renderer
from processors.postgres import Database
from processors.prompts import PgPrompts, StoredPrompt, digest_of, parse_reference
from schemas.errors import ConfigurationError
from schemas.records import Control, Meta
from streams.cli.author import author as made_by
from streams.cli.output import print_json, say
from streams.publish import publish_control
from streams.settings import Settings, load_settings

T = TypeVar("T")

app = typer.Typer(no_args_is_help=True, help="Prompt templates, by name and version.")

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
Folder = Annotated[Path | None, typer.Option(help="The embedded stack's folder.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON: one object, or one a line.")]


@app.command()
def push(
    file: Annotated[Path, typer.Argument(help="A Jinja2 template.")],
    name: Annotated[
        str | None, typer.Option(help="Name of the prompt; the file's, without its suffix, if left out.")
    ] = None,
    activate: Annotated[bool, typer.Option(help="Make it live for requests that name no version.")] = True,
    reason: Annotated[str, typer.Option(help="Why; kept with the control record.")] = "",
    lane: Annotated[str, typer.Option(help="Lane to make it live in.")] = "live",
    folder: Folder = None,
    json: AsJson = False,
) -> None:
    """Check a template, store it, and make it live. The same text keeps its version."""
    prompt_name, text = name or file.stem, _read(file)
    if not NAME.fullmatch(prompt_name):
        raise ConfigurationError(f"--name is {prompt_name!r}; use letters, digits, dots, dashes and underscores")
    variables = Renderer().check(text, name=str(file))
    settings = load_settings(folder=folder)
    version = _with_store(settings, lambda store: store.push(prompt_name, text))
    if activate:
        asyncio.run(publish_control(settings, _control(prompt_name, version, text, reason), lane=lane))
    if json:
        print_json(
            {
                "name": prompt_name,
                "version": version,
                "prompt": f"{prompt_name}@{version}",
                "digest": digest_of(text),
                "variables": sorted(variables),
                "live": activate,
            }
        )
        return
    needs = f"; it needs {', '.join(sorted(variables))}" if variables else ""
    say(f"{prompt_name}@{version} is {'live' if activate else 'stored'}{needs}")


@app.command("list")
def list_(folder: Folder = None, json: AsJson = False) -> None:
    """Every version of every prompt."""
    prompts = _with_store(load_settings(folder=folder), lambda store: store.list())
    if json:
        for prompt in prompts:
            print_json(_view(prompt))
        return
    table = Table("prompt", "digest", "characters", "stored")
    for prompt in prompts:
        stored = prompt.created_at.isoformat(" ", "seconds") if prompt.created_at else "shipped"
        table.add_row(prompt.reference, prompt.digest[:12], str(len(prompt.text)), stored)
    Console().print(table)


@app.command()
def show(
    prompt: Annotated[str, typer.Argument(help="NAME for its latest version, or NAME@N.")],
    folder: Folder = None,
    json: AsJson = False,
) -> None:
    """One template's text."""
    name, version = parse_reference(prompt)
    found = _with_store(load_settings(folder=folder), lambda store: store.show(name, version))
    if found is None:
        say(f"headrace: there is no prompt {prompt}; see headrace prompt list")
        raise typer.Exit(1)
    if json:
        print_json({**_view(found), "text": found.text})
    else:
        sys.stdout.write(found.text if found.text.endswith("\n") else found.text + "\n")


def _read(file: Path) -> str:
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"{file} can't be read: {error.strerror}; check the path") from None
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{file} is not UTF-8 at byte {error.start}; save it as UTF-8") from None
    if not text.strip() or "\x00" in text:
        raise ConfigurationError(f"{file} is empty or holds a NUL character; write a template")
    return text


def _with_store(settings: Settings, work: Callable[[PgPrompts], Awaitable[T]]) -> T:
    async def run() -> T:
        database = await Database.open(settings.postgres.dsn.get_secret_value(), max_size=1)
        try:
            return await work(PgPrompts(database))
        finally:
            await database.close()

    return asyncio.run(run())


def _control(name: str, version: int, text: str, reason: str) -> Control:
    return Control(
        meta=Meta(event_id="", request_id="", tenant="", lane="live", stage="producer"),
        kind="prompt",
        name=name,
        version=str(version),
        digest=digest_of(text),
        author=made_by(),
        reason=reason,
    )


def _view(prompt: StoredPrompt) -> dict[str, Any]:
    return {
        "prompt": prompt.reference,
        "name": prompt.name,
        "version": prompt.version,
        "digest": prompt.digest,
        "created_at": prompt.created_at.isoformat() if prompt.created_at else None,
    }
