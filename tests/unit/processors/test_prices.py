"""The price book: which figures a deployment has, what they come to, and the most that a call can cost."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import genai_prices
import pytest
from genai_prices.data import providers
from genai_prices.types import ModelPrice, StartDateConstraint
from hypothesis import given, settings
from hypothesis import strategies as st

from processors.complete.pricing import upper_bound
from processors.complete.routes import Deployment
from processors.prices import UNPRICED, Price, PriceBook, PriceTable
from processors.prices.library import Library, LibraryTariff
from processors.prices.tokens import counted
from processors.prices.version import version_of
from schemas.records import Usage

AT = datetime(2026, 6, 1, 12, tzinfo=UTC)
LIBRARY = Library()
TOKENS = st.integers(0, 2_000_000)
TARIFFS = [
    tariff
    for provider in providers
    for model in provider.models
    if (tariff := LIBRARY.find(provider.id, model.id)) is not None
]


def book(**prices: str) -> PriceBook:
    return PriceBook(
        PriceTable({name: Price(prompt=Decimal(price)) for name, price in prices.items()}), library=LIBRARY
    )


def test_a_deployment_s_own_price_comes_first_then_the_table_then_the_library() -> None:
    table = book(**{"openai/gpt-4o-*": "7"})
    own = Price(prompt=Decimal("1"), name="deployments.main.price")
    assert table.tariff("openai", "gpt-4o-mini", own=own) is own
    assert table.tariff("openai", "gpt-4o-mini").source == "settings prices.openai/gpt-4o-* (prompt 7, completion 0)"
    assert table.tariff("openai", "gpt-4o").source.startswith("genai-prices ")
    assert table.tariff("openai", "gpt-4o").source.endswith(" openai/gpt-4o")
    assert table.tariff("llama_cpp", "smollm2").source == UNPRICED


def test_an_exact_name_wins_over_a_pattern_and_a_longer_pattern_over_a_shorter() -> None:
    names = ["*/*", "own/*", "own/big-*", "own/big-[12]", "own/big-1"]
    for order in (names, names[::-1]):
        table = PriceTable({name: Price() for name in order})
        found = {m: table.find("own", m) for m in ("big-1", "big-2", "big-x", "small")}
        assert {model: price.name for model, price in found.items() if price is not None} == {
            "big-1": "prices.own/big-1",
            "big-2": "prices.own/big-[12]",
            "big-x": "prices.own/big-*",
            "small": "prices.own/*",
        }
    assert PriceTable({"own/*": Price()}).find("other", "big-1") is None
    assert PriceTable({"Own/Org/*": Price()}).find("own", "org/Model") is not None


def test_own_figures_price_every_kind_of_token() -> None:
    price = Price(
        prompt=Decimal("2"), completion=Decimal("8"), cached_prompt=Decimal("0.5"), cache_write=Decimal("2.5")
    )
    usage = Usage(prompt_tokens=1000, completion_tokens=100, cached_prompt_tokens=400, cache_write_tokens=100)
    assert price.amount(usage, AT) == Decimal("0.00225")
    assert Price(prompt=Decimal("2")).amount(usage, AT) == Decimal("0.002"), "a cached token costs as a fresh one"


@pytest.mark.parametrize(
    ("name", "id_"),
    [("azure.ai.openai", "azure"), ("gcp.gemini", "google"), ("x_ai", "x-ai"), ("aws.bedrock", "aws")],
)
def test_opentelemetry_s_names_for_providers_are_known(name: str, id_: str) -> None:
    provider = LIBRARY.provider(name)
    assert provider is not None and provider.id == id_


def test_what_is_not_billed_by_tokens_of_text_has_no_price() -> None:
    assert len(TARIFFS) > 1000
    assert LIBRARY.find("openai", "no-such-model") is None
    assert LIBRARY.find("nobody", "gpt-4o") is None


FIGURES = st.decimals(0, 1000, places=6)


@given(st.data(), TOKENS, TOKENS)
def test_no_call_costs_more_than_its_bound_at_own_figures(data: Any, prompt: int, completion: int) -> None:
    price = Price(
        prompt=data.draw(FIGURES),
        completion=data.draw(FIGURES),
        cached_prompt=data.draw(st.none() | FIGURES),
        cache_write=data.draw(st.none() | FIGURES),
    )
    usage = data.draw(_within(prompt, completion))
    assert 0 <= price.amount(usage, AT) <= price.most(prompt, completion, AT)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(TARIFFS), TOKENS, TOKENS, st.data())
def test_no_call_costs_more_than_its_bound_at_the_library_s(
    tariff: LibraryTariff, prompt: int, completion: int, data: Any
) -> None:
    usage = data.draw(_within(prompt, completion))
    amount = tariff.amount(usage, AT)
    assert 0 <= amount <= tariff.most(prompt, completion, AT), tariff.source


def _within(prompt: int, completion: int) -> st.SearchStrategy[Usage]:
    """Any usage that a provider may report, consistent or not, for a call with such bounds."""
    return st.builds(
        Usage,
        prompt_tokens=st.integers(0, prompt),
        completion_tokens=st.integers(0, completion),
        cached_prompt_tokens=TOKENS,
        cache_write_tokens=TOKENS,
        reasoning_tokens=TOKENS,
    )


def test_every_model_of_the_library_can_be_priced() -> None:
    usage = Usage(
        prompt_tokens=1000, completion_tokens=10, cached_prompt_tokens=9, cache_write_tokens=8, reasoning_tokens=7
    )
    for tariff in TARIFFS:
        amount = tariff.amount(usage, AT)
        assert isinstance(amount, Decimal) and amount.as_tuple().exponent == -12, tariff.source


def test_a_price_that_rises_during_a_call_is_in_its_bound() -> None:
    """For every date in the table at which a price changes: a call from half an hour before to half an hour after."""
    rises = 0
    usage = Usage(prompt_tokens=10**6)
    for tariff in TARIFFS:
        for day in _changes(tariff):
            midnight = datetime(day.year, day.month, day.day, tzinfo=UTC)
            before, after = midnight - timedelta(minutes=30), midnight + timedelta(minutes=30)
            rises += tariff.amount(usage, after) > tariff.amount(usage, before)
            assert tariff.amount(usage, after) <= tariff.most(10**6, 0, before), tariff.source
    assert rises > 0


def _changes(tariff: LibraryTariff) -> list[date]:
    prices = tariff.model.prices
    constraints = [] if isinstance(prices, ModelPrice) else [one.constraint for one in prices]
    return [one.start_date for one in constraints if isinstance(one, StartDateConstraint)]


def test_reasoning_tokens_are_counted_as_the_provider_does() -> None:
    usage = {"prompt_tokens": 10, "completion_tokens": 5, "completion_tokens_details": {"reasoning_tokens": 90}}
    beside = counted(usage, LIBRARY.provider("x_ai"))
    assert beside is not None and (beside.completion_tokens, beside.reasoning_tokens) == (95, 90)
    among = counted({**usage, "completion_tokens": 95}, LIBRARY.provider("openai"))
    assert among is not None and (among.completion_tokens, among.reasoning_tokens) == (95, 90)
    unknown = counted(usage, None)
    assert unknown is not None and (unknown.completion_tokens, unknown.reasoning_tokens) == (5, 5)


def test_cached_tokens_are_part_of_the_prompt() -> None:
    details = {"cached_tokens": 60, "cache_write_tokens": 70}
    usage = {"prompt_tokens": 100, "completion_tokens": 5, "prompt_tokens_details": details}
    for provider in (LIBRARY.provider("openai"), None):
        found = counted(usage, provider)
        assert found is not None
        assert (found.prompt_tokens, found.cached_prompt_tokens, found.cache_write_tokens) == (100, 60, 40)


@pytest.mark.parametrize("prompt", [None, True, -1, 1.5, "7", [1], {}])
def test_what_is_no_count_is_none(prompt: Any) -> None:
    for provider in (LIBRARY.provider("openai"), LIBRARY.provider("x-ai"), None):
        assert counted({"prompt_tokens": prompt, "completion_tokens": 1}, provider) is None
        assert counted({"prompt_tokens": 1, "completion_tokens": prompt}, provider) is None
        details = {"cached_tokens": prompt}
        assert counted({"prompt_tokens": 9, "completion_tokens": 1, "prompt_tokens_details": details}, provider) in (
            Usage(prompt_tokens=9, completion_tokens=1),
        )


def test_sound_images_and_searches_have_their_own_price() -> None:
    image = LIBRARY.find("google", "gemini-2.5-flash-image")
    assert image is not None
    plain = Usage(prompt_tokens=9, completion_tokens=1290)
    drawn = Usage(prompt_tokens=9, completion_tokens=1290, details={"output_image_tokens": 1290})
    assert image.amount(plain, AT) == Decimal("0.0032277")
    assert image.amount(drawn, AT) == Decimal("0.0387027")
    assert image.amount(drawn, AT) <= image.most(9, 1290, AT)
    searching = LIBRARY.find("anthropic", "claude-sonnet-4-5")
    assert searching is not None
    searched = Usage(prompt_tokens=9, details={"web_searches": 2})
    assert searching.amount(searched, AT) - searching.amount(Usage(prompt_tokens=9), AT) == Decimal("0.02")


def test_a_kind_that_the_table_does_not_know_costs_what_text_does() -> None:
    tariff = LIBRARY.find("openai", "gpt-4o-mini")
    assert tariff is not None
    odd = Usage(prompt_tokens=100, completion_tokens=5, details={"smells": 4, "input_audio_tokens": 500})
    assert tariff.amount(odd, AT) == tariff.amount(Usage(prompt_tokens=100, completion_tokens=5), AT)


@pytest.mark.parametrize("provider", ["openai", "nobody"])
def test_sound_is_read_from_usage(provider: str) -> None:
    usage = {
        "prompt_tokens": 10,
        "completion_tokens": 5,
        "prompt_tokens_details": {"audio_tokens": 4, "cached_tokens": 0},
        "completion_tokens_details": {"audio_tokens": 0, "reasoning_tokens": 1},
    }
    found = counted(usage, LIBRARY.provider(provider))
    assert found is not None
    assert found.details == {"input_audio_tokens": 4}


def test_a_version_changes_with_the_price_book() -> None:
    library = LIBRARY.find("openai", "gpt-4o-mini")
    assert library is not None
    assert version_of(library.source) == f"genai-prices {genai_prices.__version__}"
    first, second = (version_of(Price(prompt=Decimal(n), name="prices.x").source) for n in (1, 2))
    assert first.startswith("settings ") and first != second
    assert version_of(UNPRICED) == version_of("") == ""


KINDS = ("input_audio_tokens", "input_image_tokens", "input_video_tokens")


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(TARIFFS), TOKENS, TOKENS, st.data())
def test_no_call_that_sends_sound_or_pictures_costs_more_than_its_bound(
    tariff: LibraryTariff, prompt: int, completion: int, data: Any
) -> None:
    left, details = prompt, {}
    for kind in KINDS:
        details[kind] = data.draw(st.integers(0, left))
        left -= details[kind]
    usage = Usage(prompt_tokens=prompt, completion_tokens=completion, details=details)
    assert tariff.amount(usage, AT) <= tariff.most(prompt, completion, AT, mixed=True), tariff.source
    assert tariff.most(prompt, completion, AT) <= tariff.most(prompt, completion, AT, mixed=True)


def test_sound_that_is_dearer_than_text_is_in_the_bound_of_a_call_that_may_send_it() -> None:
    hearing = LIBRARY.find("openai", "gpt-audio")
    assert hearing is not None
    sound = Usage(prompt_tokens=1_000, details={"input_audio_tokens": 1_000})
    assert hearing.most(1_000, 0, AT) < hearing.amount(sound, AT) == hearing.most(1_000, 0, AT, mixed=True)


@pytest.mark.parametrize("part", ["text", "input_audio", "file", "image_url"])
def test_a_call_with_parts_that_are_no_text_is_bound_by_the_dearest_kind_of_a_whole_context(part: str) -> None:
    tariff = LIBRARY.find("openai", "gpt-audio")
    assert tariff is not None
    deployment = Deployment(name="d", base_url="http://x/v1", model="gpt-audio", price=tariff, context_tokens=8_000)
    content: Any = "hello" if part == "text" else [{"type": part, part: {}}]
    payload = {"messages": [{"role": "user", "content": content}]}
    bound = upper_bound(payload, deployment, 100, at=AT)
    if part == "text":
        assert bound.prompt_tokens < 200 and bound.usd == tariff.most(bound.prompt_tokens, 100, AT)
    else:
        assert (bound.prompt_tokens, bound.usd) == (8_000, tariff.most(8_000, 100, AT, mixed=True))
