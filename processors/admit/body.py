"""What a request asks, as one digest: two requests with the same digest ask the same."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any

import orjson

from schemas.records import Request

# Left out: identity and the key itself; the producer's labels; and how urgently the answer is wanted, which a client
# that tries again rightly lowers. Everything else is compared, as Stripe compares the parameters of a call.
_NOT_ASKED = frozenset({"meta", "idempotency_key", "metadata", "ttl_ms", "priority"})


def body_hash(request: Request) -> str:
    """sha256, as hex, of the request's fields but ``meta``, key, metadata, ttl and priority.

    A field that holds its default is left out at every level, so that a field added to the schema later does not
    change the digest of what was asked before.
    """
    return hashlib.sha256(orjson.dumps(_canonical(request, _NOT_ASKED), option=orjson.OPT_SORT_KEYS)).hexdigest()


def _canonical(value: Any, skipped: frozenset[str] = frozenset()) -> Any:
    if is_dataclass(value):
        return {
            field.name: _canonical(item)
            for field in fields(value)
            if field.name not in skipped and (item := getattr(value, field.name)) != _default(field)
        }
    if isinstance(value, Mapping):
        return {key: _canonical(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_canonical(item) for item in value]
    if isinstance(value, bytes):
        return value.hex()
    # JSON has no NaN or infinity, and 1 and 1.0 are one number.
    return repr(float(value)) if isinstance(value, float) else value


def _default(field: Field[Any]) -> Any:
    if field.default_factory is not MISSING:
        return field.default_factory()
    return field.default
