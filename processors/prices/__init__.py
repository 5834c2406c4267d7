"""What tokens cost: an operator's own figures first, then the price library that was installed, else nothing."""

from processors.prices.book import PriceBook, PriceTable
from processors.prices.tariff import UNPRICED, Price, Tariff, Unpriced

__all__ = ["UNPRICED", "Price", "PriceBook", "PriceTable", "Tariff", "Unpriced"]
