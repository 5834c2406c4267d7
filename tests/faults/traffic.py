"""What is published during a run: requests of several kinds, documents that change, prompts that go live."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from confluent_kafka import Consumer, Message, Producer, TopicPartition

from processors.postgres import Database
from processors.prompts import SHIPPED, PgPrompts
from schemas.ids import derive_id
from schemas.record import Record
from schemas.records import Control, Document, Meta, PromptRef, Request, Text
from tests.faults.pipeline import Scene

NAMESPACE = "default"
INVALID_USER = "not a user id"
CHANGING = "release-notes"
SUBJECTS = (
    ("kettle", "The kettle boils a litre of water in ninety seconds and switches itself off."),
    ("lamp", "The desk lamp takes an E27 bulb of at most forty watts and dims in five steps."),
    ("bicycle", "The bicycle has eleven gears, disc brakes and a carbon belt in place of a chain."),
    ("router", "The router offers two radio bands and forgets its password after a long press."),
    ("printer", "The printer puts out thirty pages a minute and warns when toner runs low."),
    ("drill", "The cordless drill turns at 1,800 a minute and its battery charges in an hour."),
)
ASKED = ("How does the {} work?", "What should I know about the {}?", "What changed for the {} in the latest release?")
PRIORITIES = ("high", "normal", "normal", "normal", "low")


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """One request. ``valid``: it breaks no rule; ``copies``: how often it is published; ``stream``: as it is asked."""

    request_id: str
    question: str
    priority: str = "normal"
    valid: bool = True
    copies: int = 1
    stream: bool = False


def plan(lane: str, count: int, seed: int, *, faulty_share: float = 0.03) -> list[Planned]:
    """``count`` requests: most plain; some break a rule, some are published twice, some fail once at the provider."""
    chance = random.Random(f"plan/{seed}")
    requests = []
    for number in range(count):
        question = chance.choice(ASKED).format(chance.choice(SUBJECTS)[0])
        if chance.random() < faulty_share:
            question += chance.choice((" [[fault:500,ok]]", " [[fault:429:1,ok]]", " [[fault:503,500,ok]]"))
        draw = chance.random()
        requests.append(
            Planned(
                request_id=f"{lane}-{number:05d}",
                question=question,
                priority=chance.choice(PRIORITIES),
                valid=draw >= 0.02,
                copies=2 if draw > 0.97 else 1,
                stream=number % 4 == 0,
            )
        )
    return requests


class Publisher:
    """A plain librdkafka producer that remembers what the broker acknowledged."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        # Acknowledged publications by request id.
        self.accepted: dict[str, int] = {}
        self.published = 0
        # The last version of each document that the broker acknowledged.
        self.documents: dict[str, str] = {}
        self._revision = 0
        self._guard = threading.Lock()
        self._producer = Producer(
            {
                "bootstrap.servers": scene.settings.kafka.bootstrap,
                "partitioner": "murmur2_random",
                "enable.idempotence": True,
                "linger.ms": 2,
            }
        )

    def request(self, planned: Planned) -> None:
        """Publish a request as often as it wants."""
        scene = self._scene
        record = Request(
            meta=self._meta(planned.request_id, planned.request_id),
            user="ada" if planned.valid else INVALID_USER,
            query=Text(inline=planned.question),
            priority=planned.priority,
            stream=planned.stream,
            prompt=PromptRef(name=scene.prompt),
        )
        for _ in range(planned.copies):
            self._send("requests", planned.request_id, record)
        self.published += 1

    def corpus(self) -> None:
        """Publish every document once, and wait for the broker."""
        for name, text in SUBJECTS:
            self._document(name, f"{name.title()}. {text}")
        self.change_document()
        self.flush()

    def change_document(self) -> None:
        """Publish the changing document with a new text. Every question's search finds it."""
        with self._guard:
            self._revision += 1
            lines = (
                f"What changed for the {name} in the latest release: build {self._revision}." for name, _ in SUBJECTS
            )
            self._document(CHANGING, f"Release notes, revision {self._revision}. " + " ".join(lines))

    def push_prompt(self) -> int:
        """Store a new template and make it live; its version. Blocks on Postgres and the broker."""
        version = asyncio.run(self._push())
        record = Control(
            meta=self._meta("", f"prompt-{version}"), kind="prompt", name=self._scene.prompt, version=str(version)
        )
        self._send("control", f"prompt/{self._scene.prompt}", record)
        self.flush()
        return version

    def pause(self, *, resumed: bool = False) -> None:
        """Pause the scene's tenant, or resume it, and wait for the broker."""
        name = f"tenant/{self._scene.tenant}"
        record = Control(meta=self._meta("", f"{name}/{resumed}"), kind="pause", name=name, removed=resumed)
        self._send("control", f"pause/{name}", record)
        self.flush()

    def flush(self) -> None:
        """Wait until the broker has acknowledged everything."""
        left = self._producer.flush(30)
        if left:
            raise RuntimeError(f"{left} events are not acknowledged by the broker after 30 s")

    async def _push(self) -> int:
        database = await Database.open(self._scene.dsn, min_size=1, max_size=1)
        try:
            prompts = PgPrompts(database)
            text = f"{SHIPPED['answer']}\nStyle guide {time.time_ns()}.\n"
            return await prompts.push(self._scene.prompt, text)
        finally:
            await database.close()

    def _document(self, document_id: str, body: str) -> None:
        record = Document(
            meta=self._meta("", f"{document_id}/{body}"),
            document_id=document_id,
            namespace=NAMESPACE,
            title=document_id,
            body=Text(inline=body),
        )
        self.documents[document_id] = body
        self._send("documents", document_id, record)

    def _meta(self, request_id: str, cause: str) -> Meta:
        scene = self._scene
        event_id = derive_id(scene.tenant, scene.lane, "", "producer", cause)
        return Meta(event_id=event_id, request_id=request_id, tenant=scene.tenant, lane=scene.lane, stage="producer")

    def _send(self, kind: str, key: str, record: Record) -> None:
        def acknowledged(error: object, _message: Message) -> None:
            if error is None and kind == "requests":
                self.accepted[key] = self.accepted.get(key, 0) + 1

        topic = f"{self._scene.lane}.{kind}"
        value = self._scene.codec.encode(record)
        self._producer.produce(topic, value=value, key=key.encode(), on_delivery=acknowledged)
        self._producer.poll(0)


class Watcher:
    """Follows the answers in a thread, so that the run knows how far it is. The verifier reads them anew."""

    def __init__(self, scene: Scene) -> None:
        self.answered: set[str] = set()
        self.moved_at = time.monotonic()
        self._consumer = Consumer(
            {
                "bootstrap.servers": scene.settings.kafka.bootstrap,
                "group.id": f"{scene.lane}-watcher",
                "enable.auto.commit": False,
                "fetch.wait.max.ms": 50,
            }
        )
        partitions = range(scene.settings.partitions)
        self._consumer.assign([TopicPartition(f"{scene.lane}.answers", number, 0) for number in partitions])
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread."""
        self._over.set()
        self._thread.join(10)
        self._consumer.close()

    def quiet_s(self) -> float:
        """Seconds since a request was answered that had no answer before."""
        return time.monotonic() - self.moved_at

    def _follow(self) -> None:
        while not self._over.is_set():
            for message in self._consumer.consume(1000, timeout=0.05):
                if message.error() is None and message.key() is not None:
                    before = len(self.answered)
                    self.answered.add(message.key().decode())
                    if len(self.answered) > before:
                        self.moved_at = time.monotonic()


def thresholds(chance: random.Random, count: int, total: int) -> list[int]:
    """``count`` places between 5 % and 80 % of ``total``, evenly spread with some jitter."""
    step = 0.75 / max(1, count)
    return [round(total * (0.05 + step * (n + chance.uniform(0.2, 0.8)))) for n in range(count)]


def kill_schedule(seed: int, kills: int, requests: int, stages: Sequence[str]) -> Iterator[tuple[int, str]]:
    """When to kill which stage: after so many answers. ``stages`` are gone through in a seeded order."""
    chance = random.Random(f"kills/{seed}")
    order: list[str] = []
    while len(order) < kills:
        block = list(stages)
        chance.shuffle(block)
        order += block
    yield from zip(thresholds(chance, kills, requests), order[:kills], strict=True)
