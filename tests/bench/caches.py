"""What caches save, and what the semantic one gets wrong, on real data: ``make bench ARGS=caches``.

Questions come one after the other to a semantic cache that answers with the nearest earlier one. A hit is wrong when
the two have other answers: in ``rag_medquad`` another disease or another aspect of it, in ``rag_wiki_qa`` another
answer, in the other sets any other question. The Mooncake trace tells which blocks of 512 tokens a prompt begins with:
all of them seen before in one request is what an exact cache serves.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from infra.embedded.embedding_model import EmbeddingModel

DATA = Path(__file__).parents[3] / "shared" / "data"
SIMILARITIES = (0.85, 0.9, 0.95, 0.97, 0.99)
BLOCK_TOKENS = 512


@dataclass(frozen=True, slots=True)
class Asked:
    """A question, and what tells whether two have the same answer."""

    text: str
    answer: Any


def rows(path: Path) -> list[dict[str, Any]]:
    """The lines of a JSON lines file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _sets() -> dict[str, tuple[str, Callable[[dict[str, Any]], Asked]]]:
    return {
        "rag_medquad": (
            "rag_medquad/public/queries.jsonl",
            lambda row: Asked(row["text"], (row["focus"].lower(), row["qtype"])),
        ),
        "rag_wiki_qa": (
            "rag_wiki_qa/public/queries.jsonl",
            lambda row: Asked(row["text"], tuple(sorted(text.lower() for text in row["answers"]))),
        ),
        "truthfulqa": (
            "judge_labels/public/truthfulqa.jsonl",
            lambda row: Asked(row["Question"], row["Best Answer"].lower()),
        ),
        "code questions": (
            "rag_product_docs/public/code_queries.jsonl",
            lambda row: Asked(row["text"], row["_id"]),
        ),
    }


def questions(data: Path = DATA) -> Iterator[tuple[str, list[Asked]]]:
    """Every set of questions, by name."""
    for name, (path, read) in _sets().items():
        yield name, [read(row) for row in rows(data / path)]


def serve(asked: Sequence[Asked], vectors: Any, similarity: float) -> tuple[int, list[tuple[str, str, float]]]:
    """How many questions are served by an earlier one, and those that are served wrongly: asked, served, cosine."""
    kept: list[int] = []
    hits, wrong = 0, []
    for number, question in enumerate(asked):
        if kept:
            cosines = vectors[kept] @ vectors[number]
            best = int(np.argmax(cosines))
            if cosines[best] >= similarity:
                hits += 1
                found = asked[kept[best]]
                if found.answer != question.answer:
                    wrong.append((question.text, found.text, float(cosines[best])))
                continue
        kept.append(number)
    return hits, wrong


def look_alikes(asked: Sequence[Asked], vectors: Any, similarity: float) -> tuple[int, int]:
    """Of all pairs as near as that: how many have the same answer, and how many have not."""
    same = other = 0
    for number, question in enumerate(asked):
        near = np.nonzero(vectors[:number] @ vectors[number] >= similarity)[0]
        for index in near:
            if asked[int(index)].answer == question.answer:
                same += 1
            else:
                other += 1
    return same, other


def trace(data: Path = DATA, *, ttl_s: float = 3600.0) -> dict[str, Any]:
    """What an exact cache serves of the Mooncake trace, and what its prompts share as prefixes."""
    requests = rows(data / "llm_traces" / "mooncake_conversation_trace.jsonl")
    last: dict[tuple[int, ...], float] = {}
    blocks: set[int] = set()
    hits = tokens = saved = shared = generated = spared = 0
    for request in requests:
        key, now_s = (request["input_length"], *request["hash_ids"]), request["timestamp"] / 1000
        tokens += request["input_length"]
        generated += request["output_length"]
        if key in last and now_s - last[key] <= ttl_s:
            hits += 1
            saved += request["input_length"]
            spared += request["output_length"]
        else:
            last[key] = now_s
        known = 0
        for block in request["hash_ids"]:
            if block not in blocks:
                break
            known += 1
        shared += min(known * BLOCK_TOKENS, request["input_length"])
        blocks.update(request["hash_ids"])
    return {
        "requests": len(requests),
        "exact_hits": hits,
        "exact_hit_rate": round(hits / len(requests), 5),
        "prompt_tokens_saved": round(saved / tokens, 5),
        "completion_tokens_saved": round(spared / generated, 5),
        "prompt_tokens_in_known_prefixes": round(shared / tokens, 4),
    }


def main() -> None:
    """Print one JSON object a line."""
    model = EmbeddingModel()
    for name, asked in questions():
        vectors = model.embed([one.text for one in asked]).vectors
        for similarity in SIMILARITIES:
            hits, wrong = serve(asked, vectors, similarity)
            same, other = look_alikes(asked, vectors, similarity)
            line = {"set": name, "questions": len(asked), "similarity": similarity, "hits": hits, "wrong": len(wrong)}
            line |= {"pairs_same": same, "pairs_other": other, "example": wrong[:1]}
            sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.write(json.dumps({"trace": "mooncake", "ttl_s": 3600, **trace()}) + "\n")


if __name__ == "__main__":
    main()
