"""The process that fetches and converts. What it is given may be made to hang, to crash or to fill the memory.

It reads a job a line on stdin, as JSON, and writes its result a line on stdout. Its parent kills it when a job takes
too long, and starts another.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import IO, Any
from urllib.parse import urlsplit

from streams.loading.convert import convert
from streams.loading.page import fetch
from streams.loading.record import Reading, UnreadableError
from streams.loading.text import read_text

# Address space: what libraries map and never touch counts too.
MEMORY_BYTES = 4 << 30


def main() -> None:
    """Serve jobs until stdin ends."""
    jobs, results = sys.stdin, os.fdopen(os.dup(1), "w", encoding="utf-8")
    # What a library prints must not be taken for a result.
    os.dup2(2, 1)
    _bound_memory()
    print(json.dumps({"ready": True}), file=results, flush=True)
    for line in jobs:
        if not _serve(json.loads(line), results):
            return


def _serve(job: dict[str, Any], results: IO[str]) -> bool:
    """Do a job; False when the process should not do another."""
    healthy = True
    try:
        reading = read_page(job) if "url" in job else read_file(job)
        result = asdict(reading)
        result["modified_at"] = reading.modified_at.isoformat() if reading.modified_at else None
        line = json.dumps(result)
    except UnreadableError as error:
        line = json.dumps({"what": error.what, "todo": error.todo, "line": error.line})
    except MemoryError:
        healthy, line = False, _failure("needs too much memory to be read", "split it; it may be made to do so")
    except RecursionError:
        healthy, line = False, _failure("is nested too deeply", "split it; it may be made to do so")
    except Exception as error:
        line = _failure(f"can't be converted ({type(error).__name__})", "open and save it anew")
    print(line, file=results, flush=True)
    return healthy


def read_file(job: dict[str, Any]) -> Reading:
    """A file of a kind that is converted."""
    path = Path(job["path"])
    try:
        with path.open("rb") as file:
            data = file.read(job["max_bytes"] + 1)
    except OSError as error:
        raise UnreadableError(f"can't be read: {error.strerror}", "check the path and its permissions") from None
    if len(data) > job["max_bytes"]:
        raise UnreadableError(f"is larger than {job['max_bytes']} bytes", "raise --max-mb, or split it")
    return convert(data, job["kind"], name=path.stem, suffix=path.suffix.lower())


def read_page(job: dict[str, Any]) -> Reading:
    """A web page of any kind that is read."""
    page = fetch(job["url"], max_bytes=job["max_bytes"], timeout_s=job["timeout_s"], allow_private=job["allow_private"])
    path = PurePosixPath(urlsplit(page.url).path)
    name = path.stem or urlsplit(page.url).hostname or job["url"]
    if page.kind in ("text", "markdown"):
        reading = read_text(page.data, page.kind, name=name, encoding=page.encoding)
    else:
        reading = convert(
            page.data,
            page.kind,
            name=name,
            suffix=".tsv" if page.kind == "csv" and path.suffix == ".tsv" else path.suffix.lower(),
            encoding=page.encoding,
            base=page.url,
        )
    modified_at = page.modified_at.astimezone(UTC) if page.modified_at else None
    return Reading(
        text=reading.text,
        title=reading.title,
        uri=page.url,
        media_type=reading.media_type,
        language=reading.language,
        metadata=reading.metadata,
        modified_at=modified_at,
    )


def reading_from(result: dict[str, Any]) -> Reading:
    """What the parent makes of a result. Raises ``UnreadableError`` for one that says why there is none."""
    if "what" in result:
        raise UnreadableError(result["what"], result["todo"], result.get("line"))
    moment = result.pop("modified_at")
    return Reading(**result, modified_at=datetime.fromisoformat(moment) if moment else None)


def _failure(what: str, todo: str) -> str:
    return json.dumps({"what": what, "todo": todo})


def _bound_memory() -> None:
    try:
        import resource  # noqa: PLC0415 (not on every system)

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except (ImportError, ValueError, OSError):
        # macOS bounds no address space; the time limit is there all the same.
        return


if __name__ == "__main__":
    main()
