"""What a command says when something it needs is not there: most often nobody has started the embedded stack."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from infra.embedded import stack
from schemas.errors import ConfigurationError, DependencyDownError
from streams.settings import load_settings


def explain(error: DependencyDownError, arguments: Sequence[str]) -> str:
    """The error, and the command that starts the embedded stack where the settings mean one that does not run."""
    given = _folder(arguments)
    try:
        settings = load_settings(folder=given)
    except ConfigurationError:
        return str(error)
    if settings.stack != "embedded" or stack.is_running(settings.folder):
        return str(error)
    option = f" --folder {given}" if given else ""
    return f"{error}\nno stack runs in {settings.folder}; start one with: headrace up{option}"


def _folder(arguments: Sequence[str]) -> Path | None:
    """What ``--folder`` says among a command's arguments."""
    for number, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name == "--folder" and (equals or number + 1 < len(arguments)):
            return Path(value if equals else arguments[number + 1])
    return None
