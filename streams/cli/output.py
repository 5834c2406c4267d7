"""Printing: data to stdout, all else to stderr."""

from __future__ import annotations

import sys
from typing import Any

import orjson
from rich.console import Console

# Tables and progress; nothing of it lands in a pipe that reads data.
console = Console(stderr=True)


def print_json(value: Any) -> None:
    """One JSON object on one line of stdout, at once."""
    sys.stdout.write(orjson.dumps(value, default=str).decode() + "\n")
    sys.stdout.flush()


def say(text: str) -> None:
    """A line for a person, on stderr."""
    # What is said may quote a file or a field: brackets are no markup, and a path is not broken at 80 columns.
    console.print(text, highlight=False, markup=False, soft_wrap=True)
