"""What an attempt costs under other prices."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from processors.account.rerate import Booked, correct
from processors.prices import Price, PriceTable, Unpriced
from processors.prices.batch import BatchPrice, batch_factor
from processors.prices.version import version_of
from schemas.records import Usage
from tests.support.costs import AT, cost, entry

PRICE = Price(prompt=Decimal(1), completion=Decimal(2), name="prices.openai/m1")
HALF = BatchPrice(PRICE, Decimal("0.5"))
SAME = PriceTable({"openai/m1": PRICE})
DEARER = PriceTable({"openai/m1": replace(PRICE, prompt=Decimal(3))})
USAGE = Usage(prompt_tokens=1_000_000, completion_tokens=500_000)


def booked(amount: str, **fields: Any) -> Booked:
    values = {"provider": "openai", "model": "m1", "usage": USAGE, **fields}
    one = entry(cost("a1", amount, **values))
    return Booked(one.attempt_id, one.spender, one.said, 0)


@pytest.mark.parametrize(
    "factor", [Decimal("0.5"), Decimal(0), Decimal(1), Decimal("0.50"), Decimal("5E-7"), Decimal("1E+1")]
)
def test_a_batch_price_is_read_back_from_its_source(factor: Decimal) -> None:
    assert batch_factor(BatchPrice(PRICE, factor).source) == factor


@pytest.mark.parametrize("source", [PRICE.source, BatchPrice(Unpriced(), Decimal(2)).source, "", "x 0.5", "a (batch)"])
def test_no_other_source_has_a_factor(source: str) -> None:
    assert batch_factor(source) is None


def test_a_batch_attempt_stays_at_its_share_of_the_price() -> None:
    row = booked("1", price_source=HALF.source)
    assert correct(row, SAME, now=AT) is None
    found = correct(row, DEARER, now=AT)
    assert found is not None
    assert (found.old_usd, found.new_usd, found.event.amount_usd) == (Decimal(1), Decimal(2), Decimal(1))
    assert found.event.price_source == "settings prices.openai/m1 (prompt 3, completion 2) x 0.5 (batch)"
    assert found.event.price_version == version_of(found.event.price_source)


def test_a_batch_attempt_of_unknown_outcome_gets_its_share_of_the_bound() -> None:
    row = booked("9", price_source=HALF.source, state="unknown", upper_bound=True)
    found = correct(row, SAME, now=AT)
    assert found is not None
    assert (found.new_usd, batch_factor(found.event.price_source)) == (Decimal(1), Decimal("0.5"))


def test_an_attempt_without_a_batch_has_the_whole_price() -> None:
    found = correct(booked("9", price_source=PRICE.source), SAME, now=AT)
    assert found is not None
    assert (found.new_usd, found.event.price_source) == (Decimal(2), PRICE.source)
