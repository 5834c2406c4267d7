"""Kills of the release with many streams open: texts right, duplicates the same bytes, nothing leaked."""

from __future__ import annotations

import random
from collections import defaultdict
from pathlib import Path

import pytest

from schemas.records import Chunk, Delta
from tests.support.deltas import CLOSING, cleaned, closing, delta, joined
from tests.support.polling import eventually
from tests.support.releasing import ReleaseScene
from tests.support.stack import TestStack

pytestmark = [pytest.mark.stack, pytest.mark.faults, pytest.mark.timeout(900)]

SEED = 20_260_501
STREAMS = 60
KILLS = 3
SECRETS = (
    "kim.lee@example.com",
    "4111 1111 1111 1111",
    "460-89-9847",
    "+44 20 7946 0958",
    "(212) 555-0187 ext. 12",
    "378282246310005",
    "<|im_end|>",
)
FILLER = (
    "and so the story goes on ",
    "for a while, ",
    "until somebody writes to ",
    "or calls: ",
    "the same. ",
    "今天，",
)


def test_streams_survive_three_kills_of_their_worker(stack: TestStack, lane: str, tmp_path: Path) -> None:
    chance = random.Random(SEED)
    scene = ReleaseScene(stack, lane, tmp_path, partitions=4)
    texts = {f"r{number}": _text(chance) for number in range(STREAMS)}
    deltas = _interleaved(chance, {name: _cut(chance, name, text, lane) for name, text in texts.items()})
    worker = scene.worker()
    worker.start()
    try:
        worker.wait_ready()
        part, seen = len(deltas) // (KILLS + 1), 0
        for kill in range(KILLS):
            scene.publish(deltas[kill * part : (kill + 1) * part])
            _wait_for_progress(scene, seen)
            worker.kill()
            seen = len(scene.entries("chunks"))
            _nothing_open_is_committed(scene)
            worker.start()
        scene.publish(deltas[KILLS * part :])
        eventually(lambda: scene.ended() == set(texts), "the end of every stream", timeout_s=150)
        ends = {entry.partition: entry.offset + 1 for entry in scene.entries("deltas")}
        eventually(lambda: scene.committed() == ends, "all is committed", timeout_s=150)
        assert worker.stop() == 0, worker.tail()
    finally:
        if worker.code is None:
            worker.kill()
    found = scene.chunks()
    for name, text in texts.items():
        stream = joined(found[name])
        assert stream.failure is None and stream.text == cleaned(text), f"seed {SEED}: {name}"
    values = defaultdict(set)
    for entry in scene.entries("chunks"):
        values[scene.codec.decode(entry.value or b"", Chunk).meta.event_id].add(entry.value)
    assert all(len(bytes_) == 1 for bytes_ in values.values()), "a duplicate has the same bytes"
    assert len(scene.entries("chunks")) > len(values), "the kills led to duplicates, else they came at no open stream"
    public = [chunk.text.inline or "" for chunks in found.values() for chunk in chunks if chunk.text is not None]
    assert not [secret for secret in SECRETS for text in public if secret in text]
    assert scene.entries("dead-letters") == []


def _text(chance: random.Random) -> str:
    """Prose with secrets in it, never two of them side by side: that is a question to the filter alone."""
    parts = []
    for _ in range(chance.randint(15, 40)):
        parts.append(chance.choice(FILLER))
        if chance.random() < 0.25:
            parts += [chance.choice(SECRETS), "and then"]
    return " ".join(parts)


def _cut(chance: random.Random, name: str, text: str, lane: str) -> list[Delta]:
    found, start = [], 0
    while start < len(text):
        size = chance.randint(3, 40)
        found.append(delta(name, len(found), start, text[start : start + size], lane=lane))
        start += size
    return [*found, closing(name, text, lane=lane)]


def _interleaved(chance: random.Random, streams: dict[str, list[Delta]]) -> list[Delta]:
    """All deltas, each stream's in order, the streams mixed; they end late, so that most are open at a kill."""
    queues = [list(reversed(queue)) for queue in streams.values()]
    mixed: list[Delta] = []
    while queues:
        queue = chance.choice(queues)
        if queue[-1].sequence == CLOSING and any(q[-1].sequence != CLOSING for q in queues) and chance.random() < 0.9:
            continue
        mixed.append(queue.pop())
        queues = [queue for queue in queues if queue]
    return mixed


def _wait_for_progress(scene: ReleaseScene, seen: int) -> None:
    """Until this life has sent some chunks."""
    eventually(lambda: len(scene.entries("chunks")) > seen, "chunks of this life", timeout_s=150)


def _nothing_open_is_committed(scene: ReleaseScene) -> None:
    ended, committed = scene.ended(), scene.committed()
    for entry in scene.entries("deltas"):
        if (entry.key or b"").decode() not in ended:
            assert committed.get(entry.partition, 0) <= entry.offset, "the commit passed an open stream"
