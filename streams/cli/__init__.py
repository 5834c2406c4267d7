"""The command line. Data goes to stdout, all else to stderr; exit codes: 0 done, 1 failed, 2 bad usage or settings."""

from __future__ import annotations

import importlib
import sys
from importlib.metadata import version
from typing import Annotated

import typer

from schemas.errors import ConfigurationError, DependencyDownError, HeadraceError

# Command to module and function: a module is imported only when its command runs, so that help is quick.
COMMANDS = {
    "demo": ("streams.cli.demo", "demo"),
    "up": ("streams.cli.stack", "up"),
    "down": ("streams.cli.stack", "down"),
    "status": ("streams.cli.status", "status"),
    "top": ("streams.cli.top", "top"),
    "doctor": ("streams.cli.doctor", "doctor"),
    "migrate": ("streams.cli.prepare", "migrate"),
    "prepare": ("streams.cli.prepare", "prepare_stack"),
    "purge": ("streams.cli.purge", "purge"),
    "worker": ("streams.cli.worker", "worker"),
    "ingest": ("streams.cli.ingest", "ingest"),
    "ask": ("streams.cli.ask", "ask"),
    "stream": ("streams.cli.streaming", "stream"),
    "submit": ("streams.cli.submit", "submit"),
    "tail": ("streams.cli.tail", "tail"),
    "pause": ("streams.cli.pause", "pause"),
    "resume": ("streams.cli.pause", "resume"),
    "drain": ("streams.cli.pause", "drain"),
    "cancel": ("streams.cli.cancel", "cancel"),
    "feedback": ("streams.cli.feedback", "feedback"),
    "budgets": ("streams.cli.budgets", "budgets"),
    "export": ("streams.cli.exports", "export"),
    "import": ("streams.cli.exports", "import_"),
    "batches": ("streams.cli.batches", "batches"),
    "eval": ("streams.cli.eval", "evaluations"),
}
GROUPS = {
    "audit": ("streams.cli.audit_group", "app"),
    "topics": ("streams.cli.topics", "app"),
    "schemas": ("streams.cli.schemas", "app"),
    "prompt": ("streams.cli.prompt", "app"),
    "dlq": ("streams.cli.dlq", "app"),
    "costs": ("streams.cli.costs", "app"),
    "replay": ("streams.cli.replay", "app"),
}


def build(arguments: list[str]) -> typer.Typer:
    """The command line's app, with the commands that these arguments may need."""
    app = typer.Typer(
        name="headrace",
        help="LLM calls as a replayable Kafka stream.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )
    first = next((argument for argument in arguments if not argument.startswith("-")), None)
    known = COMMANDS | GROUPS
    wanted = [first] if first in known else list(known)
    # A single command would become the whole app.
    app.callback()(_root)
    for name in wanted:
        module, attribute = known[name]
        target = getattr(importlib.import_module(module), attribute)
        if name in GROUPS:
            app.add_typer(target, name=name)
        else:
            app.command(name)(target)
    return app


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"headrace {version('headrace')}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    """LLM calls as a replayable Kafka stream."""


def main() -> None:
    """Run the command line; errors of ours end in one line and an exit code."""
    try:
        build(sys.argv[1:])()
    except ConfigurationError as error:
        sys.stderr.write(f"headrace: {error}\n")
        raise SystemExit(2) from None
    except DependencyDownError as error:
        from streams.cli.away import explain  # noqa: PLC0415  (slow to import; needed only then)

        sys.stderr.write(f"headrace: {explain(error, sys.argv[1:])}\n")
        raise SystemExit(1) from None
    except HeadraceError as error:
        sys.stderr.write(f"headrace: {error}\n")
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
