"""Deltas through the release: how many a second one worker takes, with all its streams open side by side."""

from __future__ import annotations

import argparse
import json
import os
import secrets
import tempfile
from pathlib import Path

from tests.support.deltas import closing, lives
from tests.support.polling import eventually
from tests.support.releasing import ReleaseScene
from tests.support.stack import TestStack

# Characters of a delta, about four tokens.
SIZE = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--deltas", type=int, default=150, help="of each stream")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="hr-"))
    folder.chmod(0o755)
    stack = TestStack(folder)
    try:
        print(json.dumps({"release": measured(stack, folder, options.streams, options.deltas)}))  # noqa: T201
    finally:
        stack.close()


def measured(stack: TestStack, folder: Path, streams: int, deltas: int) -> dict[str, float]:
    """Publish everything, then let one worker take it; rates by the broker's append times of the chunks."""
    scene = ReleaseScene(stack, f"b{secrets.token_hex(3)}", folder)
    sentence = "A sentence of a usual answer, with a number like 42 or a year like 2024 in it. "
    text = (sentence * (SIZE * deltas // len(sentence) + 1))[: SIZE * deltas]
    queues = [lives(f"r{number}", text, every=SIZE, lane=scene.lane) for number in range(streams)]
    for together in zip(*queues, strict=True):
        scene.publish(together)
    scene.publish(closing(f"r{number}", text, lane=scene.lane) for number in range(streams))
    count = streams * (deltas + 1)
    worker = scene.worker(cpu=0)
    worker.start()
    try:
        worker.wait_ready()
        ends = {entry.partition: entry.offset + 1 for entry in scene.entries("deltas")}
        eventually(lambda: scene.committed() == ends, "all is committed", timeout_s=300)
        cpu_s = worker.cpu_s()
        worker.stop()
    finally:
        if worker.code is None:
            worker.kill()
    chunks = scene.entries("chunks")
    times = [entry.time.timestamp() for entry in chunks]
    took = max(times) - min(times)
    return {
        "streams_open": streams,
        "deltas": count,
        "chunks": len(chunks),
        "deltas_per_second": round(count / took),
        "chunks_per_second": round(len(chunks) / took),
        "seconds": round(took, 2),
        # Starting the process is in it: about 2 s.
        "worker_cpu_seconds": round(cpu_s, 2),
        "load_average": os.getloadavg()[0],
    }


if __name__ == "__main__":
    main()
