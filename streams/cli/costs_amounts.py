"""Amounts of money as the cost commands print them."""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Decimal

_MICRO = Decimal("0.000001")


def plain_amount(amount: Decimal) -> str:
    """The amount without an exponent and without zeros at its end; at least cents."""
    whole, _, cents = f"{amount:f}".partition(".")
    return f"{whole}.{cents.rstrip('0').ljust(2, '0')}"


def micro_amount(amount: Decimal) -> str:
    """The amount to the micro-dollar, for a person: ``0``, ``12.50``, ``less than 0.000001``."""
    if not amount:
        return "0"
    if abs(amount) < _MICRO:
        return "less than 0.000001"
    return plain_amount(amount.quantize(_MICRO, rounding=ROUND_HALF_EVEN))
