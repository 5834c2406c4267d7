"""Finding phone numbers: by what the numbering plans allow, by how people write them, and by the words around them.

A number that a plan allows is not always meant as one (ten digits in a row are many things), and a number that is
meant as one is not always valid (a typo, an example). So digits alone never decide: a candidate needs a country code,
a plan that allows it and a phone-like form, a form that nothing else has, or a word like "phone" before it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from ipaddress import ip_address

import phonenumbers

from processors.filter.finding import Finding

_SPACE = r"[ \t\u00a0\u2009\u202f]"
_CANDIDATE = re.compile(
    r"(?<![\w./-])(?<!\d,)(?:\+|\(\+?)?\d(?:" + _SPACE + r"{0,2}[-.()/\u2010-\u2015]{0,3}" + _SPACE + r"?\d){5,24}"
    r"(?:" + _SPACE + r"?(?:x|ext\.?)" + _SPACE + r"?(?P<extension>\d{1,6}))?(?!\w)",
    re.IGNORECASE,
)
_DATE = re.compile(r"\d{4}[-./]\d{1,2}[-./]\d{1,2}|\d{1,2}[-./]\d{1,2}[-./]\d{4}")
_DECIMAL = re.compile(r"\+?\d+\.\d+")
_WORDS = re.compile(
    r"(?:\b(?:tele)?phone|\btel|\bmobile|\bcell|\bfax|\bcall(?:ed|ing)?|\bdial(?:led|ing)?|\breach|\btext(?:ed|ing)?"
    r"|\bwhats ?app|\bsms|\bhotline|\bhelpline|\blandline|\bdesk|\bring|\banswering|\bmessages to|\bcontact)"
    r"\b[^\d\n]{0,24}\n?[^\d\n]{0,4}$",
    re.IGNORECASE,
)
# The first of two words that count together, and what may go on as a number's extension.
_FIRST_WORD = re.compile(r"\b(?:whats|messages) \Z", re.IGNORECASE)
_EXTENSION = re.compile(r"\d\W{0,2}(?:x|ext)\W{0,3}\Z", re.IGNORECASE)
# A number at the end of a line, which a label on the next line would name.
_NUMBER_ENDS = re.compile(r"(?:\d[^\w\n]{0,7}){6}(?:(?:x|ext)\W{0,3}\d{1,6})?\W{0,8}\Z", re.IGNORECASE)
_DIGIT_ENDS = re.compile(r"\d\W{0,8}\Z")
_LABEL_AFTER = re.compile(r"\s?[-(]?\s?(?:office|fax|mobile|home|work|cell|desk)\b", re.IGNORECASE)
_NANP = re.compile(r"(?:(?:\+?1|001)[-. ])?(?:\(\d{3}\) ?|\d{3}[-. ])\d{3}[-. ]\d{4}")
_PARENTHESES = re.compile(r"\(\d{2,4}\) ?\d{3,4}[- ]\d{3,4}")
_LEADING_ZERO = re.compile(r"0\d{1,4}(?:[-. ]\d{2,8}){1,5}")
_PLAIN = re.compile(r"\d+")


def find_phones(text: str, regions: tuple[str, ...]) -> Iterator[Finding]:
    """Phone numbers, extensions included. ``regions`` are those of numbers without a country code."""
    for match in _CANDIDATE.finditer(text):
        number = match[0] if match["extension"] is None else text[match.start() : match.start("extension")]
        digits = sum(c.isdigit() for c in number)
        if digits > 15:
            yield from _inside(text, match.start(), match.end(), regions)
        elif _is_phone(text, match, number.rstrip("xXetET. \t"), digits, regions):
            yield Finding("phone", match.start(), match.end())


def awaits_digits(before: str) -> bool:
    """Whether what follows this text may make a phone number of it, or be one because of its last words."""
    if before.endswith("\n"):
        # No number goes on over the end of a line.
        if _NUMBER_ENDS.search(before, max(0, len(before) - 72)):
            return True
    elif _DIGIT_ENDS.search(before, max(0, len(before) - 10)):
        return True
    if _EXTENSION.search(before, max(0, len(before) - 12)) or _FIRST_WORD.search(before, max(0, len(before) - 12)):
        return True
    return _WORDS.search(before, max(0, len(before) - 48)) is not None


def _is_phone(text: str, match: re.Match[str], number: str, digits: int, regions: tuple[str, ...]) -> bool:
    if _is_something_else(number):
        return False
    if number.startswith(("+", "(+")):
        return digits >= 7 and _possible(number)
    if match["extension"] is not None and digits >= 7:
        return True
    if _NANP.fullmatch(number) or (_PARENTHESES.fullmatch(number) and digits >= 8):
        return True
    if _LEADING_ZERO.fullmatch(number) and digits in range(9, 12):
        return True
    named = _WORDS.search(text, max(0, match.start() - 48), match.start()) is not None
    if named or _LABEL_AFTER.match(text, match.end()):
        return True
    return _PLAIN.fullmatch(number) is None and any(_valid(number, region) for region in regions)


def _is_something_else(number: str) -> bool:
    if _DATE.search(number) or _DECIMAL.fullmatch(number):
        return True
    try:
        ip_address(number)
    except ValueError:
        return False
    return True


def _inside(text: str, start: int, end: int, regions: tuple[str, ...]) -> Iterator[Finding]:
    """Several numbers in a row, or none: only what the library finds valid and grouped as such is taken."""
    for region in regions[:1]:
        matcher = phonenumbers.PhoneNumberMatcher(text[start:end], region, phonenumbers.Leniency.STRICT_GROUPING)
        for match in matcher:
            if _PLAIN.fullmatch(match.raw_string) is None:
                yield Finding("phone", start + match.start, start + match.end)


def _possible(number: str) -> bool:
    parsed = _parsed(number, None)
    return parsed is not None and phonenumbers.is_possible_number(parsed)


def _valid(number: str, region: str) -> bool:
    parsed = _parsed(number, region)
    if parsed is None or not phonenumbers.is_valid_number(parsed):
        return False
    # Grouped as its own plan groups it: any digits with a dash somewhere are valid in some country.
    written = re.sub(r"\D+", " ", number).split()
    national = re.sub(r"\D+", " ", phonenumbers.format_number(parsed, phonenumbers.PhoneNumberFormat.NATIONAL)).split()
    return written == national


def _parsed(number: str, region: str | None) -> phonenumbers.PhoneNumber | None:
    try:
        return phonenumbers.parse(number.replace("(+", "+"), region)
    except phonenumbers.NumberParseException:
        return None
