"""Amounts against what others say that real responses cost: bodies of many providers, each with its expected price.

``pytest -s`` prints the share that is reached and every kind of miss.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from processors.prices import PriceBook
from processors.prices.library import Library
from processors.prices.tokens import DETAILS, counted
from schemas.records import Usage

# The expected prices are those of a table that knew of no later price; the installed one has later prices too, each
# with its date: mistral-small-latest became dearer on 16 March 2026.
AT = datetime(2026, 3, 1, tzinfo=UTC)
MICRO_DOLLAR = Decimal("0.000001")
# The API that Headrace calls, under the names that the data has for it.
OURS = ("chat", "default")
# What can be priced with what our contracts know; text is what is left of the rest.
KNOWN = {
    *("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens", "output_reasoning_tokens"),
    *DETAILS,
}


@dataclass(frozen=True)
class Case:
    """One response, read as one provider reads it."""

    id: str
    provider: str
    flavor: str
    model: str
    body: dict[str, Any]
    tokens: dict[str, int]
    expected: Decimal

    @property
    def is_ours(self) -> bool:
        """Whether it is a chat completion, whose body this project reads itself."""
        usage = self.body.get("usage")
        return self.flavor in OURS and isinstance(usage, dict) and "prompt_tokens" in usage

    @property
    def missing(self) -> str:
        """Kinds of tokens or searches that our contracts have no field for."""
        return ", ".join(sorted(k for k, v in self.tokens.items() if v and k not in KNOWN and "text" not in k))


@pytest.fixture(scope="module")
def cases(shared_data: Path) -> list[Case]:
    path = shared_data / "model_prices" / "public" / "usage_to_price.jsonl"
    return [case for line in path.read_text().splitlines() for case in _cases(json.loads(line))]


def _cases(row: dict[str, Any]) -> Iterator[Case]:
    for reading in row["extracted"]:
        for one in reading["extractors"]:
            if "input_price" in one:
                total = one.get("total_price") or str(Decimal(one["input_price"]) + Decimal(one["output_price"]))
                yield Case(
                    id=row["id"],
                    provider=one["provider_id"],
                    flavor=one["api_flavor"],
                    model=row["model"],
                    body=row["body"],
                    tokens=reading["usage"],
                    expected=Decimal(total),
                )


def test_tokens_cost_what_they_should(cases: list[Case]) -> None:
    """From the counted tokens to the amount, for every provider and kind of API."""
    book, misses = PriceBook(), Counter[tuple[str, ...]]()
    for case in cases:
        usage = Usage(
            prompt_tokens=case.tokens.get("input_tokens", 0),
            completion_tokens=case.tokens.get("output_tokens", 0),
            cached_prompt_tokens=case.tokens.get("cache_read_tokens", 0),
            cache_write_tokens=case.tokens.get("cache_write_tokens", 0),
            reasoning_tokens=case.tokens.get("output_reasoning_tokens", 0),
            details={name: case.tokens[name] for name in DETAILS if case.tokens.get(name)},
        )
        _judge(case, usage, book, misses)
    _account("tokens to amount", cases, misses)
    assert len(cases) > 1600
    assert _share(cases, misses) >= Decimal("0.999")


def test_chat_completions_cost_what_they_should(cases: list[Case]) -> None:
    """From the body of a chat completion, as it arrives, to the amount: what a call is booked at."""
    library, misses = Library(), Counter[tuple[str, ...]]()
    book = PriceBook(library=library)
    ours = [case for case in cases if case.is_ours]
    for case in ours:
        usage = counted(case.body["usage"], library.provider(case.provider))
        if usage is None:
            misses[case.provider, case.model, "its usage is no count"] += 1
        else:
            _judge(case, usage, book, misses)
    _account("body to amount", ours, misses)
    assert len(ours) > 250
    assert _share(ours, misses) >= Decimal("0.997")


def _judge(case: Case, usage: Usage, book: PriceBook, misses: Counter[tuple[str, ...]]) -> None:
    amount = book.tariff(case.provider, case.model).amount(usage, AT)
    if abs(amount - case.expected) < MICRO_DOLLAR / 2:
        return
    if case.missing:
        cause = f"no field for {case.missing}"
    elif usage.cache_write_tokens != case.tokens.get("cache_write_tokens", 0):
        cause = "it was expected without its cache writes, which the body tells"
    else:
        cause = "the installed table has another price"
    misses[case.provider, case.model, cause] += 1


def _share(cases: list[Case], misses: Counter[tuple[str, ...]]) -> Decimal:
    return Decimal(len(cases) - misses.total()) / len(cases)


def _account(what: str, cases: list[Case], misses: Counter[tuple[str, ...]]) -> None:
    print(f"\n{what}: {len(cases) - misses.total()} of {len(cases)}, {_share(cases, misses):.2%}")  # noqa: T201
    for (provider, model, cause), count in misses.most_common():
        print(f"  {count:3} {provider}/{model}: {cause}")  # noqa: T201
