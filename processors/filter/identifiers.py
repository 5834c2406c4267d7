"""Finding e-mail addresses, payment cards and US social security numbers.

All patterns are linear in the text: a model's output is as long as it likes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from processors.filter.finding import Finding

# The domain is searched first; the local part is what stands before it. Searching the other way round takes
# quadratic time on a long text without "@".
_DOMAIN = re.compile(r"@(?:[^\W_](?:[\w-]{0,61}[^\W_])?\.)+(?:xn--[a-z0-9-]{2,59}|[^\W\d_]{2,63})", re.IGNORECASE)
_LOCAL = re.compile(r"[\w.!#$%&'*+/=?^`{|}~-]{1,64}\Z")
# Groups of digits parted by one space, dash or point.
_DIGITS = re.compile(r"(?<!\d)\d+(?:[ \u00a0\u2009\u202f.\u2010-\u2015-]\d+)*(?!\d)")
_GROUP = re.compile(r"\d+")
_SSN = re.compile(r"(?<![\d-])(\d{3})([- \u2010-\u2015])(\d{2})\2(\d{4})(?!-?\d)")
_NINE = re.compile(r"\d{9}")
_BARE_SSN = re.compile(r"(?:\bSSN\b|social security)[^\d\n]{0,30}(?<!\d)(\d{3})(\d{2})(\d{4})(?!\d)", re.IGNORECASE)
# The words of the pattern above with nothing but their gap behind them, or the first of two words.
_SSN_AHEAD = re.compile(r"(?:(?:SSN|social security)[^\d\n]{0,30}|social )\Z", re.IGNORECASE)
_CARD_DIGITS = range(12, 20)
_GLUED_DIGITS = range(15, 17)


def find_emails(text: str) -> Iterator[Finding]:
    """Addresses by their form; top-level domains are letters only."""
    for domain in _DOMAIN.finditer(text):
        before = max(0, domain.start() - 64)
        local = _LOCAL.search(text[before : domain.start()])
        if local:
            yield Finding("email", before + local.start(), domain.end())


def find_cards(text: str) -> Iterator[Finding]:
    """Card numbers: 12 to 19 digits under an issuer's prefix, with a right check digit, whole groups of digits."""
    for run in _DIGITS.finditer(text):
        if run.end() - run.start() < _CARD_DIGITS.start:
            continue
        groups = [(m.start(), m.end()) for m in _GROUP.finditer(text, run.start(), run.end())]
        first = 0
        while first < len(groups):
            last = _card_at(text, groups, first)
            if last is None:
                first += 1
                continue
            yield Finding("card", groups[first][0], groups[last][1])
            first = last + 1


def _card_at(text: str, groups: list[tuple[int, int]], first: int) -> int | None:
    """The last group of the longest card number that begins with this group."""
    digits, found = "", None
    start = groups[first][0]
    # Digits that hang on letters are mostly ids and account numbers; only the commonest lengths are taken there.
    lengths = _GLUED_DIGITS if start > 0 and text[start - 1].isalpha() else _CARD_DIGITS
    for last in range(first, len(groups)):
        digits += text[groups[last][0] : groups[last][1]]
        if len(digits) >= _CARD_DIGITS.stop:
            break
        if len(digits) in lengths and is_card(digits) and not (last == first and _is_fraction(text, start)):
            found = last
    return found


def _is_fraction(text: str, start: int) -> bool:
    """Whether the digits here stand behind a number's decimal point."""
    return start > 1 and text[start - 1] == "." and text[start - 2].isdigit()


def is_card(digits: str) -> bool:
    """Whether the digits are a card number: length and prefix of an issuer, and the Luhn check (ISO/IEC 7812)."""
    plain = digits if digits.isascii() else "".join(str(int(digit)) for digit in digits)  # digits of any script
    return _issued(plain) and len(set(plain)) > 1 and luhn(plain)


def luhn(digits: str) -> bool:
    """Whether the last digit is the check digit of those before it."""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit) * (1 + place % 2)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


def _issued(digits: str) -> bool:
    length, two, four = len(digits), int(digits[:2]), int(digits[:4])
    if digits[0] == "4":  # Visa
        return length in (13, 16, 19)
    if two in range(51, 56) or four in range(2221, 2721) or four in range(2200, 2205):  # Mastercard, Mir
        return length == 16
    if two in (34, 37):  # American Express
        return length == 15
    if two in (36, 38, 39) or int(digits[:3]) in (*range(300, 306), 309):  # Diners Club
        return length in (14, 16)
    if two == 35:  # JCB, whose 3528-3589 is widened: made-up numbers in tests and examples use the rest
        return length == 16
    if four in (1800, 2131):  # JCB, old
        return length == 15
    # Maestro, Discover, UnionPay, RuPay
    return digits[0] == "6" or two in (50, 56, 57, 58)


def find_ssns(text: str) -> Iterator[Finding]:
    """US social security numbers: parted 3-2-4, or nine digits after the words; areas and groups never issued are
    left out (000, 666 and 900-999; 00; 0000)."""
    for match in _SSN.finditer(text):
        if _valid_ssn(match[1], match[3], match[4]):
            yield Finding("ssn", match.start(), match.end())
    if _NINE.search(text) is None:
        return
    for match in _BARE_SSN.finditer(text):
        if _valid_ssn(match[1], match[2], match[3]):
            yield Finding("ssn", match.start(1), match.end())


def awaits_ssn(before: str) -> bool:
    """Whether bare digits behind this text may be a social security number because of its last words."""
    return _SSN_AHEAD.search(before) is not None


def _valid_ssn(area: str, group: str, serial: str) -> bool:
    return int(area) not in (0, 666) and int(area) < 900 and int(group) > 0 and int(serial) > 0
