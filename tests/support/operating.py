"""An operator's desk in a test: requests of any tenant, commands as they are typed, and what came of both."""

from __future__ import annotations

import io
import json
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from typing import Any
from unittest.mock import patch

import psycopg
from confluent_kafka import Producer
from prometheus_client.parser import text_string_to_metric_families

from schemas.ids import derive_id
from schemas.records import Answer, Meta, PromptRef, Request, Text
from streams.cli import main
from tests.faults.evidence import provider_calls, read_topics
from tests.faults.pipeline import Scene
from tests.faults.worker import WorkerProcess
from tests.support.commands import Ran
from tests.support.polling import eventually


class Desk:
    """What an operator and a producer do in a scene."""

    def __init__(self, where: Scene) -> None:
        self.where = where
        self._producer = Producer({"bootstrap.servers": where.settings.kafka.bootstrap, "enable.idempotence": True})

    def ask(self, *names: str, tenant: str = "acme", **asked: Any) -> None:
        """Publish a request for each name, and wait for the broker."""
        lane = self.where.lane
        for name in names:
            event_id = derive_id(tenant, lane, "", "producer", name)
            record = Request(
                meta=Meta(event_id=event_id, request_id=name, tenant=tenant, lane=lane, stage="producer"),
                query=Text(inline=asked.pop("question", "How does the lamp work?")),
                prompt=PromptRef(name=self.where.prompt),
                **asked,
            )
            self._producer.produce(f"{lane}.requests", value=self.where.codec.encode(record), key=name.encode())
        assert self._producer.flush(60) == 0

    def write(self, kind: str, key: str, value: bytes) -> None:
        """Put bytes on a topic."""
        self._producer.produce(f"{self.where.lane}.{kind}", value=value, key=key.encode())
        assert self._producer.flush(60) == 0

    def run(self, *arguments: str) -> Ran:
        """Run ``headrace`` in this process, in the scene's lane."""
        out, err = io.StringIO(), io.StringIO()
        changed = patch.multiple(sys, argv=["headrace", *arguments, "--lane", self.where.lane])
        environment = {**os.environ, **self.where.env, "HEADRACE_FOLDER": str(self.where.folder)}
        with patch.dict(os.environ, environment), changed, redirect_stdout(out), redirect_stderr(err):
            try:
                main()
                code = 0
            except SystemExit as ended:
                code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        return Ran(code, out.getvalue(), err.getvalue())

    def json(self, *arguments: str, code: int = 0) -> dict[str, Any]:
        """The object that a command prints; it has to end with ``code``."""
        ran = self.run(*arguments, "--json")
        assert ran.code == code, ran.err + ran.out
        [found] = ran.objects
        return found

    def keys(self, kind: str) -> list[str]:
        """The keys on a topic, in order."""
        return [seen.key for seen in read_topics(self.where, (kind,))[kind]]

    def answers(self, names: Sequence[str], *, timeout_s: float = 150.0) -> dict[str, Answer]:
        """The answers of these requests, once all are there: one each, whatever was published how often."""
        found: dict[str, set[bytes]] = {}

        def there() -> bool:
            found.clear()
            for seen in read_topics(self.where, ("answers",))["answers"]:
                found.setdefault(seen.key, set()).add(seen.value)
            return set(names) <= set(found)

        eventually(there, f"answers to {', '.join(names)}", timeout_s=timeout_s)
        assert all(len(found[name]) == 1 for name in names), "copies of one answer have the same bytes"
        return {name: self.where.codec.decode(next(iter(found[name])), Answer) for name in names}

    def answered(self, name: str) -> bool:
        """Whether there is an answer by now."""
        return name in self.keys("answers")

    def deferred(self) -> list[tuple[str, str]]:
        """Stage and request of every event that is set aside."""
        with psycopg.connect(self.where.dsn) as connection:
            query = "SELECT stage, request_id FROM deferred WHERE lane = %s ORDER BY request_id"
            return connection.execute(query, (self.where.lane,)).fetchall()

    def paid(self, name: str) -> int:
        """Paid calls for a request, by the provider's own log."""
        return sum(call.paid for call in provider_calls(self.where.provider.log) if call.request_id == name)


def page(worker: WorkerProcess, path: str) -> tuple[int, dict[str, Any]]:
    """Status and JSON of one of a worker's pages."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{worker.port}{path}", timeout=60) as reply:
            return int(reply.status), json.load(reply)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def sample(worker: WorkerProcess, name: str, **labels: str) -> float:
    """One sample of a worker's metrics; 0 while there is none."""
    with urllib.request.urlopen(f"http://127.0.0.1:{worker.port}/metrics", timeout=60) as reply:
        families = list(text_string_to_metric_families(reply.read().decode()))
    found = [one.value for each in families for one in each.samples if one.name == name and one.labels == labels]
    return found[0] if found else 0.0
