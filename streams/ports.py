"""Builds the processors of a worker from its settings: one place where ports meet their adapters."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from contextlib import AsyncExitStack

import structlog

from processors.account import Account
from processors.account.entry import Booked, Entry
from processors.account.postgres import PostgresLedger
from processors.admit import Admit
from processors.admit.buckets_pg import PostgresBuckets
from processors.admit.in_flight import PostgresInFlight, Room
from processors.admit.limiter import Limiter
from processors.admit.limiting import Limiting
from processors.admit.limits import LimitPolicy
from processors.admit.policy import AdmitPolicy, Limits
from processors.admit.settlement import Settling
from processors.admit.settlement_pg import PostgresSettlement
from processors.budgets.standings import PostgresExhausted, Standings
from processors.clock import Clock
from processors.complete.live import Pace
from processors.complete.processor import Complete
from processors.complete.routes import Route
from processors.control import ControlView
from processors.embeddings import CachedEmbedder, EmbeddingPolicy, OpenAIEmbedder
from processors.embeddings_batch import BatchingEmbedder
from processors.enrich.policy import EnrichPolicy
from processors.enrich.stage import Enrich
from processors.evaluate import Evaluate, EvaluatePolicy, PostgresEvaluations, SamplingPolicy
from processors.evaluate.replies import EmbeddingScorer
from processors.event import Processor
from processors.failpoints import Failpoints
from processors.filter.policy import FilterPolicy
from processors.filter.processor import Filter
from processors.finality import PostgresFinality
from processors.idempotency import PostgresIdempotency
from processors.index.policy import IndexPolicy
from processors.index.stage import Index, IndexOutcome
from processors.journal.postgres import PostgresJournal
from processors.model import ModelClients
from processors.model.port import ModelClient
from processors.passages import PassageSearch
from processors.passages_pg import PgPassages
from processors.postgres import Database
from processors.prices import UNPRICED
from processors.prompts import PgPrompts
from processors.release.calls import JournalCalls
from processors.release.policy import ReleasePolicy
from processors.release.stage import Release
from processors.spending.metered import Metered
from processors.spending.port import Spends
from processors.spending.postgres import PostgresSpends
from schemas.codec import Codec
from streams.batch_settings import LONGEST_TTL_MS, goes_by_batch
from streams.batching import Batching
from streams.budget_settings import budgets_of
from streams.budgeting import Budgeting
from streams.caching import build_caches
from streams.capacity.store import PostgresUses
from streams.capacity.telling import Figures, Telling
from streams.deltas import ProducerDeltas
from streams.deployed import PoolMetrics, embedding_terms, routes, say_embedding_price, say_prices
from streams.metrics import Metrics
from streams.observing import CallMetrics, EvaluateMetrics, LimitMetrics
from streams.producer import Producer
from streams.settings import Settings
from streams.several import scores_replies
from streams.stages import STAGES

# The SDK wants a key even where the endpoint has none.
NO_KEY = "none"
# Vectors kept for the next answer: 6 MB at 384 dimensions.
EVALUATE_VECTORS = 4_096

log = structlog.get_logger(__name__)


class Ports:
    """The adapters of one process. Each processor is built on first use; nothing connects before it is needed."""

    def __init__(
        self,
        settings: Settings,
        lane: str,
        database: Database,
        codec: Codec,
        clock: Clock,
        control: ControlView,
        metrics: Metrics,
        failpoints: Failpoints,
        stack: AsyncExitStack,
        producer: Producer,
        *,
        spends: Spends | None = None,
    ) -> None:
        """``spends``: the book of embeddings, where it is not the workers' own."""
        self._spends = spends
        self._settings, self._lane, self._database, self._codec = settings, lane, database, codec
        self._clock, self._control, self._metrics, self._failpoints = clock, control, metrics, failpoints
        self._stack, self._producer = stack, producer
        self._embedder: BatchingEmbedder | None = None

    def admit(self) -> Admit:
        """The admit stage's processor."""
        settings = self._settings
        by_batch = goes_by_batch(self._lane, settings.deployments.values())
        ttl = {"ttl_ms_max": LONGEST_TTL_MS} if by_batch else {}
        policy = AdmitPolicy(
            lane=self._lane,
            routes=frozenset(settings.routes),
            default_route=settings.default_route,
            aliases={alias: name for name, route in settings.routes.items() for alias in route.aliases},
            overrides={name: tenant.routes for name, tenant in settings.tenants.items() if tenant.routes},
            tenants={name: tenant.tier for name, tenant in settings.tenants.items()},
            trust_producers=settings.trust_producers,
            horizon=settings.retention.resolved().horizon,
            limits=Limits(**settings.bodies.model_dump(include={"message_chars", "total_chars", "data_chars"}), **ttl),
        )
        return Admit(
            policy=policy,
            clock=self._clock,
            idempotency=PostgresIdempotency(self._database),
            finality=PostgresFinality(self._database),
            codec=self._codec,
            limiting=self._limiting(),
        )

    def _limiting(self) -> Limiting:
        settings = self._settings
        limiter = Limiter(PostgresBuckets(self._database))
        self._stack.push_async_callback(limiter.close)
        return Limiting(
            self._limits(),
            limiter,
            idempotency=PostgresIdempotency(self._database),
            clock=self._clock,
            lane=self._lane,
            standings=Standings(PostgresExhausted(self._database), budgets_of(settings.budgets), clock=self._clock),
            room=Room(PostgresInFlight(self._database), settings.caps, lane=self._lane),
            observer=LimitMetrics(self._metrics),
        )

    def _limits(self) -> LimitPolicy:
        settings = self._settings
        return settings.limits.policy(
            {name: tenant.limits for name, tenant in settings.tenants.items()},
            {name: policy.answer_tokens for name, policy in self._enrich_policies().items()},
        )

    def _settling(self, processor: Processor, *, calls: bool) -> Processor:
        """The processor, with token limits settled where there are any."""
        policy = self._limits()
        if not policy.counts_tokens:
            return processor
        return Settling(processor, policy, PostgresSettlement(self._database), calls=calls)

    def enrich(self, passages: PassageSearch | None = None) -> Processor:
        """The enrich stage's processor, over ``passages`` where they are not those of today's index."""
        processor = Enrich(
            passages or PgPassages(self._database),
            CachedEmbedder(self._embeddings()),
            prompts=PgPrompts(self._database),
            control=self._control,
            clock=self._clock,
            routes=self._enrich_policies(),
            index_version=self._index_version(),
        )
        return self._settling(processor, calls=False)

    def complete(self) -> Processor:
        """The complete stage's processor, with its leases being kept."""
        by_name = routes(self._settings)
        say_prices({one.name: one for route in by_name.values() for one in route.deployments}.values())
        client: ModelClient = ModelClients()
        self._stack.push_async_callback(client.close)
        journal = PostgresJournal(self._database, lease_s=self._settings.worker.lease_s)
        budgeting = Budgeting(self._settings, self._database, clock=self._clock, metrics=self._metrics)
        budgeting.start()
        self._stack.push_async_callback(budgeting.stop)
        # New with every life of the worker: a restarted one must not take its predecessor's leases for its own.
        owner = f"{os.uname().nodename}-{os.getpid()}-{secrets.token_hex(4)}"
        batching = self._batching(by_name, client, budgeting, owner)
        client = client if batching is None else batching.handing.replies
        processor = Complete(
            journal,
            client,
            routes=by_name,
            codec=self._codec,
            clock=self._clock,
            control=self._control,
            deltas=ProducerDeltas(
                self._producer, self._codec, self._clock, prefix=self._settings.prefix, lane=self._lane
            ),
            pace=Pace(interval_s=self._settings.deltas.interval_ms / 1000, characters=self._settings.deltas.characters),
            owner=owner,
            batches=None if batching is None else batching.handing,
            timeout_s=STAGES["complete"].limit_s(self._settings),
            observer=CallMetrics(self._metrics),
            pool_observer=PoolMetrics(self._metrics),
            scorer=self.reply_scorer(by_name),
            failpoints=self._failpoints,
            horizon=self._settings.retention.resolved().horizon,
            guard=budgeting.guard,
            caches=build_caches(
                self._settings,
                self._database,
                journal,
                codec=self._codec,
                clock=self._clock,
                metrics=self._metrics,
                failpoints=self._failpoints,
                embedder=lambda: CachedEmbedder(self._embeddings()),
            ),
        )
        processor.start()
        self._stack.push_async_callback(processor.stop)
        self._tell_use(processor, by_name, owner)
        return self._settling(processor, calls=True)

    def _tell_use(self, processor: Complete, by_name: Mapping[str, Route], owner: str) -> None:
        """Tell replays what the worker uses of its deployments, so that they take only the rest."""
        deployments = {one.name: one for route in by_name.values() for one in route.deployments}
        telling = Telling(
            Figures(processor.pool.uses, deployments.values()),
            PostgresUses(self._database),
            holder=owner,
            lane=self._lane,
            failed=self._metrics.reports_failed.inc,
        )
        telling.start()
        self._stack.push_async_callback(telling.stop)

    def reply_scorer(self, by_name: Mapping[str, Route]) -> EmbeddingScorer | None:
        """What scores replies, where some route decides by it."""
        if not any(scores_replies(route) for route in by_name.values()):
            return None
        # The replies to a question share its passages.
        return EmbeddingScorer(CachedEmbedder(self._embeddings(), size=EVALUATE_VECTORS))

    def _batching(
        self, by_name: Mapping[str, Route], client: ModelClient, budgeting: Budgeting, owner: str
    ) -> Batching | None:
        """The lane's batches, collected from now on; ``None`` where no deployment offers any."""
        if all(one.batch is None for one in self._settings.deployments.values()):
            return None
        batching = Batching(
            by_name,
            client,
            self._database,
            lane=self._lane,
            owner=owner,
            codec=self._codec,
            clock=self._clock,
            control=self._control,
            guard=budgeting.lasting,
            metrics=self._metrics,
            failpoints=self._failpoints,
            lease_s=self._settings.worker.lease_s,
        )
        batching.start()
        self._stack.push_async_callback(batching.stop)
        return batching

    def filter(self) -> Filter:
        """The filter stage's processor."""
        policy = FilterPolicy(allow_truncated=self._settings.filter.allow_truncated)
        return Filter(policy=policy, clock=self._clock)

    def release(self) -> Release:
        """The release stage's processor."""
        settings = self._settings.release
        policy = ReleasePolicy(
            stall_s=settings.stall_s,
            most_streams=settings.most_streams,
            most_characters=settings.most_characters,
            most_deltas=settings.most_deltas,
        )
        return Release(policy=policy, calls=JournalCalls(PostgresJournal(self._database)))

    def evaluate(self) -> Evaluate:
        """The evaluate stage's processor."""
        return Evaluate(
            PostgresEvaluations(self._database),
            # Answers share passages: what was embedded for one is there for the next.
            CachedEmbedder(self._embeddings(), size=EVALUATE_VECTORS),
            codec=self._codec,
            lane=self._lane,
            policy=evaluate_policy(self._settings),
            observer=EvaluateMetrics(self._metrics, self._lane),
        )

    def account(self) -> Account:
        """The account stage's processor."""

        def observe(entry: Entry, booked: Booked) -> None:
            self._metrics.ledger_entries.labels(booked).inc()
            if booked == "new" and entry.said.price_source == UNPRICED:
                self._metrics.unpriced.labels(entry.spender.deployment).inc()

        return Account(PostgresLedger(self._database), observe=observe)

    def index(self) -> Index:
        """The index stage's processor."""

        def observe(outcome: IndexOutcome) -> None:
            self._metrics.documents.labels(outcome.outcome).inc()
            self._metrics.passages.labels("embedded").inc(outcome.embedded)
            self._metrics.passages.labels("reused").inc(outcome.reused)

        return Index(PgPassages(self._database), self._embeddings(), observe=observe)

    def _embeddings(self) -> BatchingEmbedder:
        if self._embedder is None:
            settings = self._settings.embeddings
            policy = EmbeddingPolicy(
                model=settings.model,
                dimension=settings.dimension,
                deadline_s=settings.timeout_s,
                batch=settings.batch,
            )
            key = settings.api_key.get_secret_value() if settings.api_key else NO_KEY
            endpoint = OpenAIEmbedder(policy, base_url=settings.base_url, api_key=key)
            self._stack.push_async_callback(endpoint.close)
            # One for all stages of the process: their texts go in the same calls.
            wait_s = settings.batch_wait_ms / 1000
            sizes = self._metrics.embedding_batch
            terms = embedding_terms(self._settings)
            say_embedding_price(terms, settings)
            paid = None
            if terms is not None:
                spends = self._spends or PostgresSpends(self._database)
                paid = Metered(endpoint, spends, terms, codec=self._codec, clock=self._clock)
            self._embedder = BatchingEmbedder(
                paid or endpoint,
                most=settings.batch,
                wait_s=wait_s,
                observe=lambda texts, _: sizes.observe(texts),
                booked=paid is not None,
            )
            self._stack.push_async_callback(self._embedder.close)
        return self._embedder

    def _index_version(self) -> str:
        embeddings = self._settings.embeddings
        return IndexPolicy().index_version(embeddings.model, embeddings.dimension)

    def _enrich_policies(self) -> Mapping[str, EnrichPolicy]:
        return enrich_policies(self._settings)


def enrich_policies(settings: Settings) -> Mapping[str, EnrichPolicy]:
    """What enrichment may use of each route's model, from the settings."""
    policies = {}
    for name, route in settings.routes.items():
        # What fits any of them fits the one that is chosen.
        own = [settings.deployments[one] for one in route.names(settings.deployments)]
        policies[name] = EnrichPolicy(
            context_tokens=min(one.context_tokens for one in own),
            answer_tokens=max(one.default_max_tokens for one in own),
            k=route.k,
            minimum_score=route.minimum_score,
            prompt=route.prompt,
        )
    return policies


def evaluate_policy(settings: Settings) -> EvaluatePolicy:
    """What is sampled and how it is scored, from the settings."""
    ours = settings.evaluate
    sampling = SamplingPolicy(
        rate=ours.rate,
        salt=ours.salt,
        tenants={name: rule.rate for name, rule in ours.tenants.items()},
        routes={name: rule.rate for name, rule in ours.routes.items()},
    )
    return EvaluatePolicy(
        sampling=sampling,
        **ours.model_dump(exclude={"rate", "salt", "tenants", "routes"}),
    )
