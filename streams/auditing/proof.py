"""One record's proof: that it was there when its partition was sealed. It is checked without a broker."""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from schemas.errors import ConfigurationError
from streams.auditing.merkle import path_to, root_by
from streams.auditing.sealed_lane import exported_view
from streams.auditing.seals import Seal, leaf_of, seal_hash
from streams.reading import Entry


def prove(entry: Entry, seal: Seal) -> dict[str, Any]:
    """The record, its path to the root, and the seal. Raises ``ConfigurationError`` where it can't be proved."""
    hashes = seal.hashes()
    if entry.offset not in hashes:
        raise ConfigurationError(f"the seal {seal.number} over it keeps no hash of the record: it can't be proved")
    if hashes[entry.offset] != leaf_of(entry):
        raise ConfigurationError(f"the record is not the one that was sealed (seal {seal.number}); see audit verify")
    index = list(hashes).index(entry.offset)
    return {
        "record": {
            "topic": entry.topic,
            "partition": entry.partition,
            "offset": entry.offset,
            "time_ms": round(entry.time.timestamp() * 1000),
            "key": _text(entry.key),
            "value": _text(entry.value),
            "headers": [[name, _text(value)] for name, value in entry.headers],
        },
        "path": [[side, sibling.hex()] for side, sibling in path_to(list(hashes.values()), index)],
        "seal": exported_view(seal),
    }


def holds(proof: Mapping[str, Any]) -> str:
    """The hash of the seal that the proof leads to, as hex; it has to be the one that was exported.

    Raises ``ConfigurationError`` that says what does not fit.
    """
    try:
        record, said = proof["record"], proof["seal"]
        entry = Entry(
            topic=record["topic"],
            partition=record["partition"],
            offset=record["offset"],
            time=datetime.fromtimestamp(record["time_ms"] / 1000, UTC),
            key=_bytes(record["key"]),
            value=_bytes(record["value"]),
            headers=tuple((name, _bytes(value)) for name, value in record["headers"]),
        )
        path = [(side, bytes.fromhex(sibling)) for side, sibling in proof["path"]]
        fields: dict[str, Any] = {name: bytes.fromhex(said[name]) for name in ("root", "previous", "seal")}
        fields |= {name: datetime.fromisoformat(said[name]) for name in ("first_at", "last_at", "sealed_at")}
        plain = ("topic", "partition", "number", "topic_id", "from_offset", "to_offset", "records")
        seal = Seal(**{name: said[name] for name in plain}, **fields)
        leads_to, hashed = root_by(leaf_of(entry), path), seal_hash(seal)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ConfigurationError(
            f"this is no proof ({type(error).__name__}); write one with audit seals prove"
        ) from None
    if (entry.topic, entry.partition) != (seal.topic, seal.partition):
        raise ConfigurationError("the record is of another partition than the seal")
    if leads_to != seal.root:
        raise ConfigurationError("the record and its path do not lead to the seal's root")
    if hashed != seal.seal:
        raise ConfigurationError("the seal does not follow from its root and what else it says")
    return seal.seal.hex()


def _text(data: bytes | None) -> str | None:
    return None if data is None else b64encode(data).decode("ascii")


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else b64decode(text, validate=True)
