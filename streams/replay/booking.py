"""What a run paid, brought into the ledger whenever the run ends or pauses, and before anything of it is removed.

A run's last step books, which one that is stopped does not come to. Booking counts by attempt, so it is done again by
a later step without harm.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Protocol

import structlog

from processors.account import Account
from processors.account.ledger import Ledger
from processors.account.postgres import PostgresLedger
from processors.account.unbooked import Books, OpenCall, PostgresBooks
from processors.clock import Clock, DatabaseClock
from processors.complete.late import correction, cost_of
from processors.event import Incoming
from processors.journal import Bound, Busy, Journal, Offer, PostgresJournal, Target
from processors.journal.late import LateOutcomes, PostgresLateOutcomes
from processors.postgres import Database
from processors.spending.port import Spends
from processors.spending.postgres import PostgresSpends
from schemas.codec import Codec
from schemas.errors import ConfigurationError, PoisonError
from schemas.records import Cost
from streams.dead_letters import safe_message
from streams.headers import event_headers
from streams.outputs import key_of, topic_kind
from streams.producer import Outgoing
from streams.reading import Entry, TopicReader
from streams.replay.lane import make_topics
from streams.replay.plan import source_topics
from streams.replay.run import Place, Progress, Run
from streams.replay.runs import Runs
from streams.replay.sending import BulkSender, Sender
from streams.replay.work import BATCH, CONCURRENCY, batches
from streams.settings import Settings
from streams.topics import topic_name

# Attempts that are told together, and events that are booked in one go.
TOLD, BOOKED = 500, CONCURRENCY["account"]
# So much of the journal is looked through in one statement.
WINDOW = timedelta(hours=1)
# Beyond a call's lease, that its owner's next renewal shows that it lives; between two looks.
GRACE_S, LOOK_S = 5.0, 0.5
# Of a call that is ended and goes nowhere.
_NOWHERE = Target(
    route="",
    deployment="",
    provider="",
    model="",
    price_source="",
    account="",
    stage_version="",
    control_offset=-1,
    bound=Bound(prompt_tokens=0, completion_tokens=0, usd=Decimal(0)),
)

log = structlog.get_logger(__name__)


def keeps_books(run: Run) -> bool:
    """Whether the run pays for anything itself: one that copies books does not."""
    return "account" in run.stages and not run.copies_books


class CostTopic(Protocol):
    """The cost events in a run's lane. Blocks on the broker; raises ``DependencyDownError``, ``ConfigurationError``."""

    def entries(self, run: Run, noted: Sequence[Place]) -> AsyncIterator[list[Entry]]:
        """Those from where ``noted`` places go on to the end as it is now; none of a topic that is not there."""
        ...

    async def send(self, run: Run, outgoing: Sequence[Outgoing]) -> None:
        """Append events; returns once the broker has them. The topic is made where it is not there."""
        ...


class KafkaCostTopic:
    """``CostTopic`` on the broker."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._sender: Sender | None = None

    async def entries(self, run: Run, noted: Sequence[Place]) -> AsyncIterator[list[Entry]]:
        places = await asyncio.to_thread(self._left, run, noted)
        async for batch in batches(self._settings, places, BATCH, None):
            yield batch

    async def send(self, run: Run, outgoing: Sequence[Outgoing]) -> None:
        await asyncio.to_thread(make_topics, self._settings, run)
        self._sender = self._sender or BulkSender(self._settings)
        self._sender.send(outgoing)
        await self._sender.settle()

    def _left(self, run: Run, noted: Sequence[Place]) -> list[Place]:
        # A lane of a run has no topics of tenants.
        topics = source_topics(self._settings.model_copy(update={"tenants": {}}), run.lane, "account")
        with TopicReader(self._settings) as reader:
            ends = reader.ends(reader.places(list(reader.existing(topics))))
        done = {(place.topic, place.partition): place.next for place in noted}
        return [
            Place(
                step=0,
                topic=topic,
                partition=number,
                first=bounds.start,
                end=bounds.end,
                next=max(bounds.start, done.get((topic, number), 0)),
            )
            for (topic, number), bounds in sorted(ends.items())
        ]


class FakeCostTopic:
    """A topic of one partition in memory."""

    def __init__(self) -> None:
        self.sent: list[Outgoing] = []

    async def entries(self, run: Run, noted: Sequence[Place]) -> AsyncIterator[list[Entry]]:  # noqa: ARG002
        start = max((place.next for place in noted), default=0)
        found = [
            Entry(one.topic, 0, offset, datetime.max, one.key, one.value, ())
            for offset, one in enumerate(self.sent)
            if offset >= start
        ]
        if found:
            yield found

    async def send(self, run: Run, outgoing: Sequence[Outgoing]) -> None:  # noqa: ARG002
        self.sent += outgoing


class Booking:
    """Brings into the ledger what runs paid."""

    def __init__(
        self,
        topic: CostTopic,
        ledger: Ledger,
        books: Books,
        journal: Journal,
        late: LateOutcomes,
        spends: Spends,
        *,
        codec: Codec,
        clock: Clock,
        prefix: str,
    ) -> None:
        self._topic, self._account, self._books, self._journal = topic, Account(ledger), books, journal
        self._late, self._spends, self._codec, self._clock, self._prefix = late, spends, codec, clock, prefix

    async def settle(self, run: Run, progress: Progress, *, since: datetime, over: bool) -> None:
        """Book what is in the run's lane, and tell and book what of the calls begun at ``since`` is not there yet.

        Call it while none of the run's calls are open in a process that lives. ``over``: nobody will go on with the
        run, so what was open when a process died is ended at its bound; without it that waits for the resume.

        Blocks for as long as that takes, and for a dead process's leases. Raises ``DependencyDownError``, and
        ``ConfigurationError`` while a process that lives holds a call of a run that is over. It may be done again.
        """
        if not keeps_books(run):
            return
        async for batch in self._topic.entries(run, progress.of_step(run.stages.index("account"))):
            for start in range(0, len(batch), BOOKED):
                await self._book([(entry.value or b"", entry.time) for entry in batch[start : start + BOOKED]])
        await self._embeddings(run)
        if over:
            await self._end_calls(run)
        await self._attempts(run, since)
        await self._corrections(run)

    async def _embeddings(self, run: Run) -> None:
        await self._spends.abandon(run.lane)
        while untold := await self._spends.take(run.lane, limit=TOLD, hold_s=0):
            read = [await self._read(one.event) for one in untold]
            await self._tell(run, [cost for cost in read if cost is not None])
            await self._spends.told(untold)

    async def _end_calls(self, run: Run) -> None:
        """Have the attempts that were open at a kill booked unknown at their bounds, and their calls ended."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._journal.lease_s + GRACE_S
        while True:
            held = [wait for call in await self._books.open_calls(run.lane) if (wait := await self._ended(call))]
            if not held:
                return
            if loop.time() > deadline:
                raise ConfigurationError(
                    f"a process still finishes {len(held)} calls of {run.name}; try again once it has ended"
                )
            await asyncio.sleep(min(LOOK_S, *held))

    async def _ended(self, call: OpenCall) -> float:
        """End a call as a cancelled one; the seconds for which another's lease on it lasts, 0 once it has ended."""
        offer = Offer(
            key=call.key,
            input_hash=call.input_hash,
            input=call.input,
            target=_NOWHERE,
            max_attempts=1,
            cancelled=True,
        )
        claim = await self._journal.claim(offer, owner="")
        return max(claim.remaining_s, 0.01) if isinstance(claim, Busy) else 0.0

    async def _attempts(self, run: Run, since: datetime) -> None:
        now = self._clock.now()
        while since <= now:
            until, after = since + WINDOW, ""
            while found := await self._books.unbooked(run.lane, since=since, until=until, after=after, limit=TOLD):
                made = [await self._made(cost_of(one.key, one.row, one.input, self._codec)) for one in found]
                await self._tell(run, [cost for cost in made if cost is not None])
                after = found[-1].row.attempt_id
            since = until

    async def _corrections(self, run: Run) -> None:
        while late := await self._late.untold(run.lane, limit=TOLD):
            made = [await self._made(correction(one, self._codec)) for one in late]
            await self._tell(run, [cost for cost in made if cost is not None])
            await self._late.told(late)

    async def _made(self, making: Awaitable[Cost]) -> Cost | None:
        try:
            return await making
        except PoisonError as error:
            log.error("what a call of a run cost can't be told", reason=safe_message(error))
            return None

    async def _tell(self, run: Run, costs: Sequence[Cost]) -> None:
        """Publish those that the ledger lacks, and book them. A correction is of an attempt that it has."""
        known = await self._books.booked([one.attempt_id for one in costs if not one.correction])
        new = [(one, self._codec.encode(one)) for one in costs if one.correction or one.attempt_id not in known]
        if new:
            await self._topic.send(run, [self._outgoing(run, *one) for one in new])
            await self._book([(value, self._clock.now()) for _, value in new])

    def _outgoing(self, run: Run, cost: Cost, value: bytes) -> Outgoing:
        headers = event_headers(cost, cost.meta, time=self._clock.now(), cause=[], timings=())
        return Outgoing(topic_name(self._prefix, run.lane, topic_kind(cost)), key_of(cost).encode(), value, headers)

    async def _book(self, values: Sequence[tuple[bytes, datetime]]) -> None:
        """Book events by their bytes, so that each is the same entry whoever books it."""

        async def one(value: bytes, at: datetime) -> None:
            cost = await self._read(value)
            if cost is not None:
                await self._account(Incoming(record=cost, meta=cost.meta, raw=value, appended_at=at))

        for result in await asyncio.gather(*(one(*each) for each in values), return_exceptions=True):
            if isinstance(result, PoisonError):
                # As the step would leave it out.
                log.error("a cost event of a run can't be booked", reason=safe_message(result))
            elif isinstance(result, BaseException):
                raise result

    async def _read(self, value: bytes) -> Cost | None:
        return await self._made(self._codec.decode_fetching(value, Cost))


class Settle(Protocol):
    """Brings what a run paid into the ledger; see ``Booking.settle``."""

    async def __call__(self, run: Run, *, over: bool) -> None:
        """For a run that nobody leads, or whose leader asks. Does nothing for one that keeps no books."""
        ...


def settling(settings: Settings, database: Database, runs: Runs, codec: Codec) -> Settle:
    """``Settle`` on the broker and Postgres, with the time by Postgres."""

    async def settle(run: Run, *, over: bool) -> None:
        found = await runs.get(run.run) if keeps_books(run) else None
        if found is None or found.created_at is None:
            return
        clock = DatabaseClock()
        clock.set(await database.now())
        booking = Booking(
            KafkaCostTopic(settings),
            PostgresLedger(database),
            PostgresBooks(database),
            PostgresJournal(database, lease_s=settings.worker.lease_s),
            PostgresLateOutcomes(database),
            PostgresSpends(database),
            codec=codec,
            clock=clock,
            prefix=settings.prefix,
        )
        # A mirror that pauses was taken in hand when its row was last changed, and told by then what was before. A run
        # may have been stopped before it came to that.
        pauses = found.config.mirror and not over
        since = (found.updated_at if pauses else None) or found.created_at
        await booking.settle(found, await runs.progress(run.run), since=since, over=over)

    return settle
