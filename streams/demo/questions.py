"""What the demonstration asks: things that the Python language reference says."""

from __future__ import annotations

from pathlib import Path

from schemas.errors import ConfigurationError

QUESTIONS = (
    "What does the with statement do?",
    "How are default parameter values of a function evaluated?",
    "What is the difference between the is operator and ==?",
    "Is an empty list true or false in a boolean test?",
    "When is the else clause of a for loop executed?",
    "What does the nonlocal statement do?",
    "What does a lambda expression yield?",
    "What does a slice of a sequence select?",
    "What does the global statement mean?",
    "What happens when a generator function is called?",
    "What does the assert statement do when __debug__ is false?",
    "How does the import statement find a module?",
)


def read_questions(path: Path) -> tuple[str, ...]:
    """The questions in a text file, one a line; empty lines and lines that begin with # are passed over."""
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"--questions {path} can't be read: {error}") from None
    found = tuple(line for line in lines if line and not line.startswith("#"))
    if not found:
        raise ConfigurationError(f"--questions {path} holds no question; write one a line")
    return found
