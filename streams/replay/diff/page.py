"""A report as one self-contained HTML page: plots as SVG, no script, no network, every text escaped."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from streams.page_file import environment, write_whole
from streams.replay.diff.plots import Axis, bars, latency_lines, score_axis


def page(report: Mapping[str, Any]) -> str:
    """The page of a report's JSON object. What producers, users and models wrote is text, never markup."""
    pages = environment("streams.replay.diff")
    pages.filters |= {"figure": figure, "p": said_p, "share": said_share}
    pages.globals |= {
        "axis": Axis,
        "bars": bars,
        "score_axis": score_axis,
        "latency_lines": latency_lines,
    }
    return pages.get_template("report.html.j2").render(report=report)


def write_page(report: Mapping[str, Any], path: Path) -> None:
    """Write the page: whole or not at all. Raises ``ConfigurationError`` when it can't be written."""
    write_whole(page(report), path)


def figure(value: float | None, places: int = 4) -> str:
    """A number with so many significant places; a dash for none."""
    return "–" if value is None else f"{value:.{places}g}" if abs(value) < 10_000 else f"{value:,.0f}"


def said_p(value: float | None) -> str:
    """How likely the difference is by chance."""
    return "–" if value is None else "< 0.0001" if value < 0.0001 else f"{value:.4f}"


def said_share(value: float | None) -> str:
    """A change as a share."""
    return "–" if value is None else f"{value:+.1%}"
