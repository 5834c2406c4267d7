"""Which kinds of files are read, by suffix and by media type."""

from __future__ import annotations

from pathlib import PurePath

# Suffix to kind. Text, Markdown and lines are read in this process; the others are converted in a child.
KINDS = {
    ".txt": "text",
    ".text": "text",
    ".md": "markdown",
    ".markdown": "markdown",
    ".jsonl": "lines",
    ".ndjson": "lines",
    ".html": "html",
    ".htm": "html",
    ".xhtml": "html",
    ".pdf": "pdf",
    ".docx": "docx",
    ".csv": "csv",
    ".tsv": "csv",
}
# What a web server says it sends.
BY_MEDIA_TYPE = {
    "text/html": "html",
    "application/xhtml+xml": "html",
    "text/plain": "text",
    "text/markdown": "markdown",
    "application/pdf": "pdf",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": "docx",
    "text/csv": "csv",
    "text/tab-separated-values": "csv",
}
CONVERTED = frozenset({"html", "pdf", "docx", "csv"})
SUPPORTED = tuple(KINDS)


def kind_of_file(path: PurePath | str) -> str | None:
    """The kind of a file by its suffix; ``None`` for one that is not read."""
    return KINDS.get(PurePath(path).suffix.lower())
