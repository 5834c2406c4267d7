"""A lane where only the release runs: deltas published by the test, chunks read from the topic."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from confluent_kafka import ConsumerGroupTopicPartitions

from schemas.codec import Codec
from schemas.files import event_schemas
from schemas.records import Chunk, Delta
from schemas.registry import Registry
from streams.app import group_name
from streams.publish import Publisher
from streams.reading import Entry, TopicReader
from streams.settings import Settings
from streams.topics import admin_client, apply, compare, topic_name
from tests.faults.worker import WorkerProcess
from tests.support.settings import NOWHERE
from tests.support.stack import TestStack

KINDS = ("deltas", "chunks", "answers", "dead-letters", "control")


class ReleaseScene:
    """Topics, a publisher, and workers of the stage."""

    def __init__(self, stack: TestStack, lane: str, folder: Path, **changes: Any) -> None:
        self.lane, self.folder = lane, folder
        values: dict[str, Any] = {
            "stack": "external",
            "kafka": {"bootstrap": stack.kafka_bootstrap},
            "registry": {"url": stack.registry_url},
            "postgres": {"dsn": stack.postgres_dsn},
            "embeddings": {"base_url": stack.embeddings_url, "model": stack.embeddings_model},
            "deployments": {"local": {"base_url": NOWHERE, "model": "none"}},
            "routes": {"default": {"deployment": "local"}},
            "worker": {"session_timeout_s": 6, "heartbeat_s": 1, "commit_interval_s": 0.2},
            **changes,
        }
        self.settings = Settings(**values)
        self.env = {
            f"HEADRACE_{name.upper()}": value if isinstance(value, str) else json.dumps(value)
            for name, value in values.items()
        }
        apply(self.settings, lane, compare(self.settings, lane, KINDS))
        asyncio.run(Registry(stack.registry_url).register(event_schemas()))
        self.codec = asyncio.run(Codec.connect(stack.registry_url))
        self._publisher = Publisher(self.settings, self.codec, lane=lane)

    def worker(self, slot: str = "w0", *, cpu: int | None = None) -> WorkerProcess:
        """A worker of the stage; not started."""
        return WorkerProcess(("release",), lane=self.lane, slot=slot, env=self.env, folder=self.folder, cpu=cpu)

    def publish(self, deltas: Iterable[Delta]) -> None:
        """Publish in order; every one is acknowledged when this returns."""
        for delta in deltas:
            self._publisher.publish("deltas", delta, delta.meta.request_id)
        assert not self._publisher.flush()

    def topic(self, kind: str) -> str:
        return topic_name("", self.lane, kind)

    def entries(self, kind: str) -> list[Entry]:
        """All that is on a topic now."""
        with TopicReader(self.settings) as reader:
            return list(reader.read(reader.ends(reader.places([self.topic(kind)]))))

    def chunks(self) -> dict[str, list[Chunk]]:
        """The chunks by request, in the topic's order."""
        found: dict[str, list[Chunk]] = defaultdict(list)
        for entry in self.entries("chunks"):
            chunk = self.codec.decode(entry.value or b"", Chunk)
            found[chunk.meta.request_id].append(chunk)
        return found

    def ended(self) -> set[str]:
        """The requests whose streams have their last word."""
        return {name for name, chunks in self.chunks().items() if any(c.kind in ("end", "failed") for c in chunks)}

    def committed(self) -> dict[int, int]:
        """Offsets that the group committed, by partition."""
        group = group_name("", self.lane, "release")
        admin = admin_client(self.settings)
        future = admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group)])[group]
        return {tp.partition: tp.offset for tp in future.result(20).topic_partitions if tp.offset >= 0}
