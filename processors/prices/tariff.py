"""What a deployment's tokens cost, and the most that a call can cost before its tokens are known."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from decimal import ROUND_HALF_UP, Context, Decimal
from typing import Protocol

from schemas.records import Usage

UNPRICED = "unpriced"

_MILLION = Decimal(1_000_000)
# The scale of every amount, in the schemas and in the tables.
_QUANTUM = Decimal("0.000000000001")
# Wide enough that no amount which a table can hold is cut, whatever the process's own context is.
_EXACT = Context(prec=60, rounding=ROUND_HALF_UP)


class Tariff(Protocol):
    """Prices tokens. Pure: no I/O, and the same arguments give the same amount."""

    @property
    def source(self) -> str:
        """Where the figures came from, with a version or the figures themselves; goes into every cost event."""
        ...

    def amount(self, usage: Usage, at: datetime) -> Decimal:
        """US dollars for these tokens, spent at this moment. Never raises, whatever a provider counted."""
        ...

    def most(self, prompt_tokens: int, completion_tokens: int, at: datetime, *, mixed: bool = False) -> Decimal:
        """The most US dollars that a call which begins now and uses at most so many tokens can cost.

        ``mixed``: what is sent may be sound, pictures or video, which have prices of their own.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """US dollars per million tokens, as an operator gave them; ``name`` says where.

    A cached token costs ``cached_prompt``, and one that is written to the cache ``cache_write``; each as much as a
    fresh one where it is None.
    """

    prompt: Decimal = Decimal(0)
    completion: Decimal = Decimal(0)
    cached_prompt: Decimal | None = None
    cache_write: Decimal | None = None
    name: str = ""

    @property
    def source(self) -> str:
        cached = [f"cached {self.cached_prompt:f}"] if self.cached_prompt is not None else []
        written = [f"cache_write {self.cache_write:f}"] if self.cache_write is not None else []
        figures = ", ".join([f"prompt {self.prompt:f}", f"completion {self.completion:f}", *cached, *written])
        return f"settings {self.name} ({figures})".replace("  ", " ")

    def amount(self, usage: Usage, at: datetime) -> Decimal:  # noqa: ARG002 (these figures hold at all times)
        counted = consistent(usage)
        cached, written = counted.cached_prompt_tokens, counted.cache_write_tokens
        amount = (
            (counted.prompt_tokens - cached - written) * self.prompt
            + cached * _or(self.cached_prompt, self.prompt)
            + written * _or(self.cache_write, self.prompt)
            + counted.completion_tokens * self.completion
        )
        return money(amount / _MILLION)

    def most(
        self,
        prompt_tokens: int,
        completion_tokens: int,
        at: datetime,  # noqa: ARG002
        *,
        mixed: bool = False,  # noqa: ARG002 (an operator's figures know no kinds)
    ) -> Decimal:
        dearest = max(self.prompt, _or(self.cached_prompt, self.prompt), _or(self.cache_write, self.prompt))
        return money((prompt_tokens * dearest + completion_tokens * self.completion) / _MILLION)


@dataclass(frozen=True, slots=True)
class Unpriced:
    """Nobody knows the price: every amount is 0, and the source says so."""

    @property
    def source(self) -> str:
        return UNPRICED

    def amount(self, usage: Usage, at: datetime) -> Decimal:  # noqa: ARG002
        return Decimal(0)

    def most(
        self,
        prompt_tokens: int,  # noqa: ARG002
        completion_tokens: int,  # noqa: ARG002
        at: datetime,  # noqa: ARG002
        *,
        mixed: bool = False,  # noqa: ARG002
    ) -> Decimal:
        return Decimal(0)


def money(amount: Decimal) -> Decimal:
    """The amount at the scale of the tables, rounded half up."""
    return amount.quantize(_QUANTUM, ROUND_HALF_UP, _EXACT)


def consistent(usage: Usage) -> Usage:
    """The usage with no part that is larger than its whole: some providers' counts do not add up."""
    prompt, completion = max(0, usage.prompt_tokens), max(0, usage.completion_tokens)
    cached = min(max(0, usage.cached_prompt_tokens), prompt)
    return replace(
        usage,
        prompt_tokens=prompt,
        completion_tokens=completion,
        cached_prompt_tokens=cached,
        cache_write_tokens=min(max(0, usage.cache_write_tokens), prompt - cached),
        reasoning_tokens=min(max(0, usage.reasoning_tokens), completion),
        details={name: count for name, count in usage.details.items() if count > 0},
    )


def _or(price: Decimal | None, otherwise: Decimal) -> Decimal:
    return otherwise if price is None else price
