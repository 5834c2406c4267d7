"""Reading files, folders and web pages as documents.

What can't be read is reported with its place, and the rest goes on. A document is whole or not there: a file or page
that can't be read to its end gives nothing, and a line of a JSONL file stands for itself.
"""

from streams.loading.load import Bounds, load, load_sources
from streams.loading.python_topics import load_python_topics
from streams.loading.record import LoadedFile, Owner, Problem, build_document, build_removal
from streams.loading.sources import Found, Selection, Source, find_sources

__all__ = [
    "Bounds",
    "Found",
    "LoadedFile",
    "Owner",
    "Problem",
    "Selection",
    "Source",
    "build_document",
    "build_removal",
    "find_sources",
    "load",
    "load_python_topics",
    "load_sources",
]
