"""A corpus that is on every machine: the reference of the Python language."""

from __future__ import annotations

from collections.abc import Iterator

from schemas.records import Document
from streams.loading.record import Owner, build_document


def load_python_topics(owner: Owner | None = None) -> Iterator[Document]:
    """The Python language reference that CPython carries: 79 topics, 465 kB."""
    from pydoc_data.topics import topics  # noqa: PLC0415 (half a megabyte, for the demo alone)

    for topic in sorted(topics):
        yield build_document(
            owner or Owner(), f"python/{topic}", topics[topic], title=topic, uri=f"python:topic/{topic}"
        )
