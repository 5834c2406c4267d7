"""How documents are cut and embedded, and the name that this gives the index."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexPolicy:
    """Sizes are in characters: exact, the same for every model, and about a quarter as many tokens in English.

    ``index_version`` holds all that decides a passage and its vector, so that a change of any indexes anew.
    """

    chunk_chars: int = 1000
    overlap_chars: int = 100
    # Embed the document's title with each passage: a passage seldom says what it is about.
    embed_title: bool = True
    # Longer documents are refused: they would not be embedded within the deadline of one attempt.
    max_chars: int = 2_000_000
    # How many vectors are kept at a time while a long document is embedded.
    keep_every: int = 128

    def __post_init__(self) -> None:
        if not 0 <= self.overlap_chars < self.chunk_chars:
            raise ValueError(f"overlap_chars is {self.overlap_chars}; it must be below chunk_chars {self.chunk_chars}")

    def index_version(self, model: str, dimension: int) -> str:
        """The chunker with its settings and the embedding model, e.g. ``semantic1-c1000-o100-t1/minilm/384``."""
        return f"semantic1-c{self.chunk_chars}-o{self.overlap_chars}-t{int(self.embed_title)}/{model}/{dimension}"
