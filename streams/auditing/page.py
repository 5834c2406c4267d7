"""An audit as one self-contained HTML page: no script, no network, every text escaped."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from streams.page_file import environment, write_whole


def page(audit: Mapping[str, Any]) -> str:
    """The page of an audit's JSON object. What producers, users and models wrote is text, never markup."""
    pages = environment("streams.auditing")
    pages.filters |= {"pretty": _pretty, "kind_of_line": _kind_of_line}
    return pages.get_template("request.html.j2").render(audit=audit, final_answer=_final_answer(audit))


def write_page(audit: Mapping[str, Any], path: Path) -> None:
    """Write the page: whole or not at all. Raises ``ConfigurationError`` when it can't be written."""
    write_whole(page(audit), path)


def _final_answer(audit: Mapping[str, Any]) -> dict[str, Any] | None:
    """The record of the latest answer of the lane itself."""
    answers = [one["record"] for one in audit["events"] if one["kind"] == "answers" and one["record"]]
    own = [one for one in answers if not one["meta"]["run"] or one["supersedes"]] or answers
    return max(own, key=lambda one: one["revision"], default=None)


def _pretty(value: Any) -> str:
    return orjson.dumps(value, option=orjson.OPT_INDENT_2, default=str).decode()


def _kind_of_line(line: str) -> str:
    """The class of a line of a diff."""
    if line.startswith(("+++", "---", "@@")):
        return "head"
    return {"+": "added", "-": "removed"}.get(line[:1], "same")
