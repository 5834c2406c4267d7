"""Cleaning a text: special tokens out, personal identifiers masked, and a record of where, without the values."""

from __future__ import annotations

import re
from dataclasses import dataclass

from processors.filter.finding import Finding, united
from processors.filter.identifiers import find_cards, find_emails, find_ssns
from processors.filter.phones import find_phones
from processors.filter.tokens import strip_tokens

MASKS = {"email": "[EMAIL]", "ssn": "[SSN]", "card": "[CARD]", "phone": "[PHONE]"}
SPECIAL = "special_token"
# Every number that is masked has six digits with a few marks at most between them. Most texts have none, and to look
# for this alone takes a tenth of the time.
_DIGITS = re.compile(r"\d(?:\W{0,7}\d){5}")


@dataclass(frozen=True, slots=True)
class Cleaned:
    """A text that may be shown. ``findings`` are in terms of the text before it was cleaned."""

    text: str
    findings: tuple[Finding, ...] = ()


def clean(text: str, regions: tuple[str, ...]) -> Cleaned:
    """The text without special tokens and with e-mail, phone, card and social security numbers masked."""
    stripped = strip_tokens(text)
    found = find_identifiers(stripped.text, regions)
    tokens = [Finding(SPECIAL, start, end) for start, end in stripped.removed]
    personal = [Finding(f.kind, *stripped.before(f.start, f.end)) for f in found]
    return Cleaned(masked(stripped.text, found), tuple(sorted([*tokens, *personal], key=lambda f: (f.start, f.end))))


def find_identifiers(text: str, regions: tuple[str, ...]) -> list[Finding]:
    """Everything in the text that is masked, in order, none overlapping."""
    found = [*find_emails(text)] if "@" in text else []
    if _DIGITS.search(text) is not None:
        found += [*find_ssns(text), *find_cards(text), *find_phones(text, regions)]
    return united(found)


def masked(text: str, findings: list[Finding]) -> str:
    """The text with each finding replaced by its mask."""
    pieces, last = [], 0
    for found in findings:
        pieces += [text[last : found.start], MASKS[found.kind]]
        last = found.end
    return "".join([*pieces, text[last:]])
