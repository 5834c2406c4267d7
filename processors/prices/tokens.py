"""What a provider says that a call used: each counts cached and reasoning tokens in its own way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeGuard

from genai_prices.types import Provider, UsageExtractor

from processors.prices.tariff import consistent
from schemas.records import Usage

# The API that is called; some providers' only one has no name of its own in the table.
_FLAVORS = ("chat", "default")
# What the provider has to be able to tell in a chat completion's ``usage``.
_NEEDED = "prompt_tokens"
# Our names for tokens, and the library's.
_COUNTS = {
    "prompt_tokens": "input_tokens",
    "completion_tokens": "output_tokens",
    "cached_prompt_tokens": "cache_read_tokens",
    "cache_write_tokens": "cache_write_tokens",
    "reasoning_tokens": "output_reasoning_tokens",
}
# Kinds that may have a price of their own, under the library's names.
DETAILS = (
    "input_audio_tokens",
    "input_image_tokens",
    "input_video_tokens",
    "cache_audio_read_tokens",
    "cache_image_read_tokens",
    "cache_video_read_tokens",
    "cache_write_1h_tokens",
    "output_audio_tokens",
    "output_image_tokens",
    "output_video_tokens",
    "web_searches",
)


def counted(usage: Mapping[str, Any], provider: Provider | None) -> Usage | None:
    """The tokens of a chat completion's ``usage``, counted as the provider does; ``None`` for what is no count.

    OpenAI counts reasoning tokens among the completion's, x.ai beside them: the library knows which provider does what.
    """
    if not _is_count(usage.get("prompt_tokens")) or not _is_count(usage.get("completion_tokens")):
        return None
    extractor = None if provider is None else _extractor(provider)
    found = None if extractor is None else _extracted(usage, extractor)
    return consistent(found or _plain(usage))


def _extractor(provider: Provider) -> UsageExtractor | None:
    by_flavor = {extractor.api_flavor: extractor for extractor in provider.extractors or ()}
    known = (by_flavor[flavor] for flavor in _FLAVORS if flavor in by_flavor)
    return next((one for one in known if any(mapping.path == _NEEDED for mapping in one.mappings)), None)


def _extracted(usage: Mapping[str, Any], extractor: UsageExtractor) -> Usage | None:
    try:
        _, counts = extractor.extract({"usage": usage})
        values: dict[str, Any] = {ours: counts.reported_value(theirs) for ours, theirs in _COUNTS.items()}
        details = {name: counts.reported_value(name) for name in DETAILS}
    except ValueError:
        return None
    if not all(isinstance(value, int) for value in values.values()):
        return None
    return replace(
        Usage(), **values, details={name: count for name, count in details.items() if _is_count(count) and count}
    )


def _plain(usage: Mapping[str, Any]) -> Usage:
    audio = {
        "input_audio_tokens": _detail(usage, "prompt_tokens_details", "audio_tokens"),
        "output_audio_tokens": _detail(usage, "completion_tokens_details", "audio_tokens"),
    }
    return Usage(
        prompt_tokens=usage["prompt_tokens"],
        completion_tokens=usage["completion_tokens"],
        cached_prompt_tokens=_detail(usage, "prompt_tokens_details", "cached_tokens"),
        cache_write_tokens=_detail(usage, "prompt_tokens_details", "cache_write_tokens"),
        reasoning_tokens=_detail(usage, "completion_tokens_details", "reasoning_tokens"),
        details={name: count for name, count in audio.items() if count},
    )


def _detail(usage: Mapping[str, Any], group: str, name: str) -> int:
    details = usage.get(group)
    value = details.get(name) if isinstance(details, dict) else None
    return value if _is_count(value) else 0


def _is_count(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
