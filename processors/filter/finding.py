"""What a detector found in a text, and how findings that touch become one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

# The kind of a union is the first of these among its parts.
KINDS = ("email", "ssn", "card", "phone")


@dataclass(frozen=True, slots=True)
class Finding:
    """A stretch of a text that is personal. Holds no text."""

    kind: str
    start: int
    end: int


def united(findings: Iterable[Finding]) -> list[Finding]:
    """The findings in order, those that overlap as one: nothing of a stretch that was found stays."""
    out: list[Finding] = []
    for found in sorted(findings, key=lambda f: (f.start, f.end)):
        if out and found.start < out[-1].end:
            last = out.pop()
            kind = min(last.kind, found.kind, key=KINDS.index)
            found = Finding(kind, last.start, max(last.end, found.end))  # noqa: PLW2901
        out.append(found)
    return out
