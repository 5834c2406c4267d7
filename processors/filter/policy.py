"""What the filter lets pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class FilterPolicy:
    """Settings of the filter, read once. ``version`` is written into every answer.

    ``allow_truncated``: publish a text that ended at its token limit, with a verdict that says so, instead of failing.
    A JSON answer that was cut off fails in any case.

    ``late``: what becomes of an answer that was paid for and is ready when the request's time to live has passed.
    ``deliver`` publishes it with a verdict that says so, because a consumer can drop what it no longer wants but can't
    get back what was thrown away; ``expire`` ends the request as expired, for consumers that act on every answer.

    ``cite_shown``: when the text marks none of its passages, list all that the model was shown, without a place.

    ``phone_regions``: where numbers written without a country code may be from (ISO 3166).
    """

    version: str = "1"
    allow_truncated: bool = False
    late: Literal["deliver", "expire"] = "deliver"
    cite_shown: bool = True
    phone_regions: tuple[str, ...] = ("US", "GB", "DE", "FR", "AU", "ZA")
