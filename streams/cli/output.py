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
    console.print(text, highlight=False)
