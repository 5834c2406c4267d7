"""Merkle trees as RFC 6962 has them: leaves and nodes are hashed apart, so that none can pass for the other."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Literal

LEAF, NODE = b"\x00", b"\x01"
HASH_BYTES = 32
# On which side of the path a sibling stands.
Side = Literal["left", "right"]


def leaf_hash(data: bytes) -> bytes:
    """The hash of a leaf."""
    return hashlib.sha256(LEAF + data).digest()


def root_of(leaves: Sequence[bytes]) -> bytes:
    """The root over leaf hashes; of none, the hash of nothing. Costs one hash a leaf."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    level = list(leaves)
    while len(level) > 1:
        level = _above(level)
    return level[0]


def path_to(leaves: Sequence[bytes], index: int) -> list[tuple[Side, bytes]]:
    """The siblings from a leaf up to the root. Raises ``IndexError`` for a leaf that is not there."""
    if not 0 <= index < len(leaves):
        raise IndexError(index)
    level, path = list(leaves), list[tuple[Side, bytes]]()
    while len(level) > 1:
        sibling = index ^ 1
        # The last one of an odd level has none: it goes up as it is.
        if sibling < len(level):
            path.append(("left" if sibling < index else "right", level[sibling]))
        level, index = _above(level), index // 2
    return path


def root_by(leaf: bytes, path: Sequence[tuple[Side, bytes]]) -> bytes:
    """The root that a leaf hash and its path lead to."""
    for side, sibling in path:
        leaf = _node(sibling, leaf) if side == "left" else _node(leaf, sibling)
    return leaf


def _above(level: list[bytes]) -> list[bytes]:
    pairs = [_node(level[place], level[place + 1]) for place in range(0, len(level) - 1, 2)]
    return pairs + level[-1:] if len(level) % 2 else pairs


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(NODE + left + right).digest()
