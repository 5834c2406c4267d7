"""Cleaning JSON in place: strings and numbers are cleaned one by one, everything else stays as the model wrote it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import orjson

from processors.filter.cleaning import SPECIAL, Cleaned, clean
from processors.filter.finding import Finding
from processors.filter.identifiers import find_cards
from processors.filter.tokens import strip_tokens

_STRING_OR_NUMBER = re.compile(r'"(?:[^"\\]|\\.)*"|-?\d[\d.eE+-]*')
STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
_ESCAPE = re.compile(r"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|\\u[0-9a-fA-F]{4}|\\.|.", re.DOTALL)
_KEY_AFTER = re.compile(r"\s*:")


def parse(text: str) -> Any:
    """The value that the text is, by RFC 8259 strictly: no NaN, no lone surrogates. Raises ``ValueError``."""
    return orjson.loads(text)


def clean_json(text: str, regions: tuple[str, ...]) -> Cleaned:
    """The JSON text with its strings cleaned as ``clean`` does, object keys too. It stays JSON.

    A card number that is a JSON number becomes 0 or 0.0, so that the value keeps its type. A string that is JSON
    itself, as a tool's arguments are, is cleaned as JSON. Raises ``ValueError`` for a text that is no JSON without its
    special tokens.
    """
    stripped = strip_tokens(text)
    parse(stripped.text)
    findings = [Finding(SPECIAL, start, end) for start, end in stripped.removed]
    pieces: list[str] = []
    keys: set[str] = set()
    last = 0
    for match in _STRING_OR_NUMBER.finditer(stripped.text):
        if match[0].startswith('"'):
            written, found = _string(match[0], regions)
            if found and _KEY_AFTER.match(stripped.text, match.end()):
                written = _unique(written, keys)
        else:
            written, found = _number(match[0])
        if found:
            pieces += [stripped.text[last : match.start()], written]
            last = match.end()
            offset = match.start()
            findings += [Finding(f.kind, *stripped.before(offset + f.start, offset + f.end)) for f in found]
    pieces.append(stripped.text[last:])
    return Cleaned("".join(pieces), tuple(sorted(findings, key=lambda f: (f.start, f.end))))


def string_spans(text: str) -> Iterator[tuple[int, int]]:
    """Where the strings of a JSON text stand, without their quotes."""
    for match in STRING.finditer(text):
        yield match.start() + 1, match.end() - 1


def _string(written: str, regions: tuple[str, ...]) -> tuple[str, list[Finding]]:
    """A JSON string cleaned, as JSON, and the findings in terms of how it was written."""
    value = json.loads(written, strict=False)
    cleaned = _nested(value, regions) or clean(value, regions)
    if not cleaned.findings:
        return written, []
    places = _places(written)
    found = [Finding(f.kind, places[f.start], places[f.end]) for f in cleaned.findings]
    return json.dumps(cleaned.text, ensure_ascii=False), found


def _nested(value: str, regions: tuple[str, ...]) -> Cleaned | None:
    """A string that holds a JSON object or array, cleaned as such."""
    if not value.lstrip().startswith(("{", "[")):
        return None
    try:
        return clean_json(value, regions)
    except (ValueError, RecursionError):
        return None


def _number(written: str) -> tuple[str, list[Finding]]:
    if any(True for _ in find_cards(written)):
        return "0" if written.lstrip("-").isdecimal() else "0.0", [Finding("card", 0, len(written))]
    return written, []


def _places(written: str) -> list[int]:
    """Where each character of the string's value begins as it is written, and where the last one ends."""
    return [1 + m.start() for m in _ESCAPE.finditer(written[1:-1])] + [len(written) - 1]


def _unique(written: str, taken: set[str]) -> str:
    """A masked key that is not taken yet: two keys that read the same would lose one of their values."""
    key, number = written, 1
    while key in taken:
        number += 1
        key = f'{written[:-1]} {number}"'
    taken.add(key)
    return key
