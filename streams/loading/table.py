"""CSV files: a row becomes a paragraph that names its columns, so that it can be found and understood by itself."""

from __future__ import annotations

import csv
import io

from streams.loading.record import Reading, UnreadableError
from streams.loading.text import decode

_DELIMITERS = ",;\t|"
# How much of a table the delimiter is guessed from.
_SNIFFED_CHARS = 64_000


def read_table(data: bytes, *, name: str, tabs: bool = False, encoding: str = "") -> Reading:
    """A table as text; its first row names the columns. Raises ``UnreadableError`` with the line."""
    text = decode(data, encoding)
    if "\x00" in text:
        raise UnreadableError("holds a NUL character", "remove it", text.count("\n", 0, text.index("\x00")) + 1)
    rows = csv.reader(io.StringIO(text, newline=""), delimiter="\t" if tabs else _delimiter(text), strict=True)
    paragraphs: list[str] = []
    columns: list[str] = []
    try:
        for row in rows:
            if not any(cell.strip() for cell in row):
                continue
            if not columns:
                columns = [cell.strip() or f"column {number}" for number, cell in enumerate(row, start=1)]
                continue
            paragraphs.append(_paragraph(row, columns))
    except csv.Error as error:
        raise UnreadableError(f"is no CSV: {error}", "correct the line", rows.line_num) from None
    if not paragraphs:
        raise UnreadableError("has no row under its heading", "remove it or add rows")
    labels = {"columns": ", ".join(columns)[:500], "rows": str(len(paragraphs))}
    return Reading(text="\n\n".join(paragraphs) + "\n", title=name, metadata=labels)


def _paragraph(row: list[str], columns: list[str]) -> str:
    """Each cell that is filled, on a line of its own. A cell beyond the last heading is kept."""
    named = (
        (columns[at] if at < len(columns) else f"column {at + 1}", " ".join(cell.split()))
        for at, cell in enumerate(row)
    )
    return "\n".join(f"{column}: {cell}" for column, cell in named if cell)


def _delimiter(text: str) -> str:
    try:
        return csv.Sniffer().sniff(_lines(text), _DELIMITERS).delimiter
    except csv.Error:
        # One column, or nothing that repeats: a comma is what the name promises.
        return ","


def _lines(text: str) -> str:
    """Whole lines from the start: a cut one would mislead the guess."""
    if len(text) <= _SNIFFED_CHARS:
        return text
    head = text[:_SNIFFED_CHARS]
    return head[: head.rfind("\n") + 1] or head
