"""The price book: which tariff a deployment has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase

from processors.prices.library import Library
from processors.prices.tariff import Price, Tariff, Unpriced

_WILD = "*?["


@dataclass(frozen=True, slots=True)
class PriceTable:
    """An operator's prices by ``provider/model``, with a shell's wildcards: ``*``, ``?``, ``[...]``.

    A name without a wildcard wins, then the pattern with the most plain characters, then the first in the alphabet:
    the order in which they were written does not matter.
    """

    prices: Mapping[str, Price] = field(default_factory=dict)

    def find(self, provider: str, model: str) -> Price | None:
        """The price of this model, or ``None`` where no name or pattern fits. Letters' case does not matter."""
        wanted = f"{provider}/{model}".lower()
        fitting = [name for name in self.prices if name.lower() == wanted or fnmatchcase(wanted, name.lower())]
        if not fitting:
            return None
        best = min(fitting, key=lambda name: (name.lower() != wanted, -_plain(name), name))
        return replace(self.prices[best], name=f"prices.{best}")


class PriceBook:
    """Finds tariffs: the deployment's own price, the operator's table, the library, else none."""

    def __init__(self, table: PriceTable | None = None, *, library: Library | None = None) -> None:
        """Builds the library's table, which takes about half a second, unless one is given."""
        self._table = table or PriceTable()
        self._library = library or Library()

    def tariff(self, provider: str, model: str, *, own: Price | None = None) -> Tariff:
        """The tariff of a deployment of this model; ``own`` is its own price. Never raises."""
        return own or self._table.find(provider, model) or self._library.find(provider, model) or Unpriced()


def _plain(pattern: str) -> int:
    return sum(character not in _WILD for character in pattern)
