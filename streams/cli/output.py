"""Printing: data to stdout, all else to stderr."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import typer
from rich.console import Console

# Tables and progress; nothing of it lands in a pipe that reads data.
console = Console(stderr=True)


# Of a file or a pipe, which has no width to fit into.
WIDE = 1000


def page() -> Console:
    """Stdout for what a person reads as a command's result: as wide as its terminal, else as wide as it needs."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else WIDE)


def tell(text: str) -> None:
    """A line of a command's result for a person, on stdout."""
    page().print(text, markup=False, soft_wrap=True)


def program() -> str:
    """How this command can be typed again: its name where it is on PATH, else where it lies."""
    if shutil.which("headrace"):
        return "headrace"
    path = Path(sys.argv[0])
    return os.path.relpath(path) if path.name == "headrace" else "headrace"


def print_json(value: Any) -> None:
    """One JSON object on one line of stdout, at once."""
    sys.stdout.write(orjson.dumps(value, default=str).decode() + "\n")
    sys.stdout.flush()


def say(text: str) -> None:
    """A line for a person, on stderr."""
    # What is said may quote a file or a field: brackets are no markup, and a path is not broken at 80 columns.
    console.print(text, highlight=False, markup=False, soft_wrap=True)


@contextmanager
def quiet_end() -> Iterator[None]:
    """Ctrl-C, or a reader of our output that has enough, ends the command without a word."""
    try:
        yield
    except KeyboardInterrupt:
        raise typer.Exit(0) from None
    except BrokenPipeError:
        # Else the interpreter flushes stdout at its end and complains.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(0) from None
