"""The version of a price book, from where an amount's price came from."""

from __future__ import annotations

import hashlib

from processors.prices.tariff import UNPRICED

_LIBRARY = "genai-prices "


def version_of(source: str) -> str:
    """What changes when the price book does: the library's release, or a digest of an operator's figures.

    Pure: the same source always has the same version, whoever tells it. Empty where there is no price.
    """
    if source in ("", UNPRICED):
        return ""
    if source.startswith(_LIBRARY):
        return " ".join(source.split()[:2])
    digest = hashlib.sha256(source.encode()).hexdigest()[:12]
    return f"{source.split(maxsplit=1)[0]} {digest}"
