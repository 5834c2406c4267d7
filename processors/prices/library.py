"""Prices from the library ``genai-prices``: the table that was installed, by its version; nothing is ever fetched."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal

import genai_prices
from genai_prices.data_snapshot import DataSnapshot
from genai_prices.types import ModelInfo, ModelPrice, Provider, TieredPrices

from processors.prices.tariff import consistent, money
from processors.prices.tokens import DETAILS
from schemas.records import Usage

# OpenTelemetry's names for providers, where the library does not know them or takes them for another's.
_NAMES = {
    "gcp.gen_ai": "google",
    "azure.ai.inference": "azure",
    "azure.ai.openai": "azure",
    "x_ai": "x-ai",
    "fireworks_ai": "fireworks",
}
# Some prices change with the hour or on a date: a call may end under another one than it began under.
_LONGEST_CALL = timedelta(hours=1)
# A model without one of these is not billed by tokens of text.
_TOKEN_PRICES = ("input_mtok", "output_mtok")


# Equal by identity: the library's own types have no hash.
@dataclass(frozen=True, slots=True, eq=False)
class LibraryTariff:
    """One model's prices at one provider, with their tiers, hours and start dates."""

    provider: Provider
    model: ModelInfo

    @property
    def source(self) -> str:
        return f"genai-prices {genai_prices.__version__} {self.provider.id}/{self.model.id}"

    def amount(self, usage: Usage, at: datetime) -> Decimal:
        return money(self._price(consistent(usage), at))

    def most(self, prompt_tokens: int, completion_tokens: int, at: datetime, *, mixed: bool = False) -> Decimal:
        """The dearest way to use up to so many tokens: fresh, cached or written to the cache, in every tier.

        What comes back may be sound or images where the model has a price for them; what is sent too, where it is
        ``mixed``.
        """
        thresholds = {start for start in self._tier_starts(at) if start < prompt_tokens}
        usages = [
            Usage(
                prompt_tokens=prompt,
                completion_tokens=completion_tokens,
                cached_prompt_tokens=prompt if kind == "cached" else 0,
                cache_write_tokens=prompt if kind == "written" else 0,
                reasoning_tokens=reasoning,
                details=details,
            )
            for prompt in {prompt_tokens, *thresholds}
            for kind in ("fresh", "cached", "written")
            for reasoning, details in (
                (0, {}),
                (completion_tokens, {}),
                *((0, {name: completion_tokens}) for name in self._priced("output_", at)),
            )
        ]
        if mixed:
            # All of one kind: a mixture of two costs no more than the dearer one alone.
            usages += [
                replace(usage, details={**usage.details, kind: usage.prompt_tokens})
                for usage in usages
                if not usage.cached_prompt_tokens and not usage.cache_write_tokens
                for kind in self._priced("input_", at)
            ]
        return money(max(self._price(usage, moment) for usage in usages for moment in (at, at + _LONGEST_CALL)))

    def _price(self, usage: Usage, at: datetime) -> Decimal:
        whole = {"input_tokens": usage.prompt_tokens, "output_tokens": usage.completion_tokens}
        split = whole | {
            "cache_read_tokens": usage.cached_prompt_tokens,
            "cache_write_tokens": usage.cache_write_tokens,
            "output_reasoning_tokens": usage.reasoning_tokens,
        }
        details = {name: count for name, count in usage.details.items() if name in DETAILS}
        # Where the table can't split this model's tokens so: by fewer kinds, and at last all at the common price.
        for counts in ([split | details] if details else []) + [split]:
            try:
                return self._total(counts, at)
            except (ValueError, LookupError):
                continue
        return self._total(whole, at)

    def _total(self, counts: dict[str, int], at: datetime) -> Decimal:
        usage = genai_prices.Usage(**counts)
        return self.model.calc_price(usage, self.provider, genai_request_timestamp=at).total_price

    def _priced(self, prefix: str, at: datetime) -> list[str]:
        """The kinds other than text that the model is paid for reading (``input_``) or generating (``output_``)."""
        prices = [self.model.get_prices(moment) for moment in (at, at + _LONGEST_CALL)]
        names = [name for name in DETAILS if name.startswith(prefix)]
        return [name for name in names if any(getattr(p, name.replace("_tokens", "_mtok"), None) for p in prices)]

    def _tier_starts(self, at: datetime) -> set[int]:
        prices = [self.model.get_prices(moment) for moment in (at, at + _LONGEST_CALL)]
        return {
            tier.start
            for price in prices
            for value in vars(price).values()
            if isinstance(value, TieredPrices)
            for tier in value.tiers
        }


class Library:
    """The library's table."""

    def __init__(self) -> None:
        # Imported late: the table takes half a second to build, which only a worker that pays needs.
        from genai_prices.data import providers  # noqa: PLC0415

        # A snapshot of our own: whatever else runs in this process can not swap it for a fetched one.
        self._snapshot = DataSnapshot(providers=providers, from_auto_update=False)

    def find(self, provider: str, model: str) -> LibraryTariff | None:
        """The model's tariff at this provider, or ``None`` where the table has no price for its tokens."""
        try:
            found = self._snapshot.find_provider_model(model, None, _NAMES.get(provider.lower(), provider), None)
        except LookupError:
            return None
        prices = found[1].prices
        at_some_time = [prices] if isinstance(prices, ModelPrice) else [one.prices for one in prices]
        if not all(any(getattr(price, key) is not None for key in _TOKEN_PRICES) for price in at_some_time):
            return None
        return LibraryTariff(*found)

    def provider(self, name: str) -> Provider | None:
        """The provider of this name, for how it counts tokens."""
        try:
            return self._snapshot.find_provider(None, _NAMES.get(name.lower(), name), None)
        except LookupError:
            return None
