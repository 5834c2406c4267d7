"""Amounts of money as the cost commands print them."""

from __future__ import annotations

from decimal import Decimal


def plain_amount(amount: Decimal) -> str:
    """The amount without an exponent and without zeros at its end; at least cents."""
    whole, _, cents = f"{amount:f}".partition(".")
    return f"{whole}.{cents.rstrip('0').ljust(2, '0')}"
