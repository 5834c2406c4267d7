"""Every metric of a worker, declared in one place. Base units; no label grows with requests, users or tenants."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

# From a fast pure stage to a long model call.
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Metrics:
    """The metrics of one process. Pass a registry of its own in tests."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry = registry or CollectorRegistry()
        stage, lane = "stage", "lane"
        # Events in process: delivered to the stage and not acknowledged.
        self.in_flight = Gauge("headrace_in_flight_events", "Events in process", [stage, lane], registry=registry)
        # Events on the topic that the group has not committed.
        self.lag = Gauge("headrace_lag_events", "Events not committed yet", [stage, lane], registry=registry)
        # Alert on this one, and not on the count.
        self.oldest_unacked = Gauge(
            "headrace_oldest_unacked_age_seconds",
            "Age of the oldest event in process",
            [stage, lane],
            registry=registry,
        )
        self.waiting = Histogram(
            "headrace_stage_wait_seconds",
            "From an event's append to the start of its processing",
            [stage, lane],
            buckets=SECONDS,
            registry=registry,
        )
        self.service = Histogram(
            "headrace_stage_service_seconds",
            "From the start of processing to the acknowledgement of the last output",
            [stage, lane],
            buckets=SECONDS,
            registry=registry,
        )
        # outcome: done, refused, cancelled, deferred, dead_letter, released.
        self.outcomes = Counter(
            "headrace_events_total", "Events by what came of them", [stage, lane, "outcome"], registry=registry
        )
        self.answers = Counter(
            "headrace_answers_total", "Final answers by status", [stage, lane, "status"], registry=registry
        )
        self.retries = Counter(
            "headrace_retries_total",
            "Attempts repeated, by class of the error",
            [stage, lane, "error_class"],
            registry=registry,
        )
        # Events that this group has delivered before: their offset is under the highest delivered one.
        self.redeliveries = Counter(
            "headrace_redeliveries_total",
            "Events that were in process before and came again",
            [stage, lane],
            registry=registry,
        )
        self.dead_letters = Counter(
            "headrace_dead_letters_total",
            "Dead letters by class of the error",
            [stage, lane, "error_class"],
            registry=registry,
        )
        # What waits at the pause of the stage is not counted; what is in process goes on while it is paused.
        self.stage_paused = Gauge(
            "headrace_stage_paused", "1 while the stage takes nothing new", [stage, lane], registry=registry
        )
        # kind: stage, route, tenant. Names are in `headrace status`: tenants are no label.
        self.paused = Gauge("headrace_paused", "How many of a kind are paused", ["kind"], registry=registry)
        # outcome: applied, ignored (a kind that workers don't follow), malformed.
        self.control_records = Counter(
            "headrace_control_records_total", "Control records read, by outcome", ["outcome"], registry=registry
        )
        self.deferred = Gauge(
            "headrace_deferred_events", "Events of the stage that are set aside", [stage, lane], registry=registry
        )
        self.deferred_age = Gauge(
            "headrace_deferred_oldest_age_seconds",
            "Since the oldest of them was set aside",
            [stage, lane],
            registry=registry,
        )
        # cause: resumed, expired, cancelled.
        self.put_back = Counter(
            "headrace_put_back_total",
            "Deferred events put back on their topic",
            [stage, lane, "cause"],
            registry=registry,
        )
        # verdict: admitted, queued, rejected; limit: which one was reached, empty where none was. No tenant is a label.
        self.rulings = Counter(
            "headrace_limit_rulings_total",
            "Requests by what the rate limits said",
            ["tier", "verdict", "limit"],
            registry=registry,
        )
        # cache: exact, semantic, flight. outcome: hit, miss; semantic: down; flight: wait, hit, alone.
        self.cache_lookups = Counter(
            "headrace_cache_lookups_total",
            "Requests by what a cache had for them",
            ["route", "cache", "outcome"],
            registry=registry,
        )
        self.cache_avoided = Counter(
            "headrace_cache_avoided_usd_total",
            "US dollars that cached answers would have cost",
            ["route"],
            registry=registry,
        )
        # outcome: held, full (open calls may spend the rest: it waits), over (refused). budget is empty for held.
        self.budget_reservations = Counter(
            "headrace_budget_reservations_total",
            "Calls by what their budgets said",
            ["budget", "outcome"],
            registry=registry,
        )
        self.budget_thresholds = Counter(
            "headrace_budget_thresholds_total",
            "Thresholds of budgets that were passed",
            ["budget", "threshold"],
            registry=registry,
        )
        self.budgets_swept = Counter(
            "headrace_budget_reservations_swept_total",
            "Reservations of workers that are gone, settled from the journal",
            registry=registry,
        )
        self.dependency_up = Gauge(
            "headrace_dependency_up", "1 while the dependency answers", ["dependency"], registry=registry
        )
        self.calls = Counter(
            "headrace_calls_total", "Provider calls by outcome", ["deployment", "outcome"], registry=registry
        )
        self.call_seconds = Histogram(
            "headrace_call_duration_seconds",
            "Provider calls",
            ["deployment", "outcome"],
            buckets=SECONDS,
            registry=registry,
        )
        self.call_retries = Counter(
            "headrace_call_retries_total", "Provider calls repeated", ["deployment", "error_code"], registry=registry
        )
        self.indeterminate = Counter(
            "headrace_indeterminate_calls_total",
            "Calls whose outcome is unknown",
            ["deployment", "error_code"],
            registry=registry,
        )
        self.input_drift = Counter(
            "headrace_input_drift_total", "Redelivered calls whose input changed; the stored one won", registry=registry
        )
        self.tokens = Counter("headrace_tokens_total", "Tokens", ["deployment", "kind"], registry=registry)
        self.cost = Counter("headrace_cost_usd_total", "US dollars booked", ["deployment"], registry=registry)
        # Of these two, the share that is done is what to watch: a judge that never fires leaves no error behind.
        self.evaluations_expected = Counter(
            "headrace_evaluations_expected_total", "Answers chosen to be scored", [lane], registry=registry
        )
        # outcome: scored, partial (some scores have no value), unscored (none has).
        self.evaluations_done = Counter(
            "headrace_evaluations_done_total", "Answers scored", [lane, "outcome"], registry=registry
        )
        # outcome: joined to its answer, waiting for it.
        self.feedback = Counter(
            "headrace_feedback_total", "Users' feedback by what was done", [lane, "outcome"], registry=registry
        )
        self.first_token = Histogram(
            "headrace_time_to_first_token_seconds",
            "From sending a call that answered to its first output",
            ["deployment"],
            buckets=SECONDS,
            registry=registry,
        )
        self.token_gap = Histogram(
            "headrace_token_gap_seconds",
            "Between two pieces of a streamed text",
            ["deployment"],
            buckets=SECONDS,
            registry=registry,
        )
        # outcome: sent, aborted (tells that an attempt broke off), lost (given up; the closing delta has the text).
        self.deltas = Counter(
            "headrace_live_deltas_total", "Deltas published while a call ran", ["outcome"], registry=registry
        )
        # booked: new, repeated, corrected (a late settlement), conflict (an event that says otherwise than before).
        self.ledger_entries = Counter(
            "headrace_ledger_entries_total", "Cost events by what was made of them", ["booked"], registry=registry
        )
        self.unpriced = Counter(
            "headrace_unpriced_attempts_total",
            "Attempts booked at 0 because nobody knows the price",
            ["deployment"],
            registry=registry,
        )
        self.open_streams = Gauge(
            "headrace_open_streams", "Streams that release has begun and not ended", [lane], registry=registry
        )
        # What no chunk may hold yet.
        self.held_characters = Gauge(
            "headrace_held_characters", "Characters that release holds back", [lane], registry=registry
        )
        self.first_chunk = Histogram(
            "headrace_first_chunk_seconds",
            "From a request's acceptance to its first public text",
            [lane],
            buckets=SECONDS,
            registry=registry,
        )
        # kind: text, restart, end, failed.
        self.chunks = Counter("headrace_chunks_total", "Chunks by kind", [lane, "kind"], registry=registry)
        self.reports_failed = Counter(
            "headrace_reports_failed_total", "Reports to Postgres that could not be written", registry=registry
        )
        self.purged = Counter(
            "headrace_purged_rows_total", "Rows deleted because their time was over", ["table"], registry=registry
        )
        self._declare_indexing(registry)
        self._declare_routing(registry)
        self._declare_batches(registry)

    def _declare_indexing(self, registry: CollectorRegistry) -> None:
        self.documents = Counter(
            "headrace_index_documents_total", "Documents by what was done", ["outcome"], registry=registry
        )
        self.passages = Counter(
            "headrace_index_passages_total", "Passages by what was done", ["action"], registry=registry
        )
        # Its count is the calls, its sum the texts.
        self.embedding_batch = Histogram(
            "headrace_embedding_batch_texts",
            "Texts in a call to the embedding endpoint",
            buckets=(1, 2, 4, 8, 16, 32, 64, 128, 512, 2048),
            registry=registry,
        )

    def _declare_batches(self, registry: CollectorRegistry) -> None:
        # Set by the worker that collects a deployment's batches; the others tell 0.
        self.batches_open = Gauge(
            "headrace_batches_open", "Batches that are not over", ["lane", "deployment"], registry=registry
        )
        # state: waiting, taken, sent, answered, returned, withdrawn.
        self.batch_items = Gauge(
            "headrace_batch_items",
            "Requests that go by batch, by how far they are",
            ["lane", "deployment", "state"],
            registry=registry,
        )
        self.batch_age = Gauge(
            "headrace_batch_oldest_seconds",
            "Age of the oldest request that goes by batch and is not answered",
            ["lane", "deployment"],
            registry=registry,
        )
        # event: made, ended, refused, lost.
        self.batches = Counter(
            "headrace_batches_total",
            "Batches by what became of them",
            ["lane", "deployment", "event"],
            registry=registry,
        )
        self.batch_troubles = Counter(
            "headrace_batch_troubles_total",
            "Exchanges about batches that failed and are tried again",
            ["deployment", "error_code"],
            registry=registry,
        )

    def _declare_routing(self, registry: CollectorRegistry) -> None:
        self.call_limit = Gauge(
            "headrace_call_limit",
            "Calls that may be open at a deployment now: between 1 and its max_concurrency",
            ["deployment"],
            registry=registry,
        )
        self.breaker_open = Gauge(
            "headrace_breaker_open", "1 while a deployment that failed is left alone", ["deployment"], registry=registry
        )
        self.keys_aside = Gauge(
            "headrace_keys_aside",
            "Keys of a deployment that its provider refuses and that are set aside",
            ["deployment"],
            registry=registry,
        )
        # cause: rate_limit, outage, context_too_long, content_refused, malformed_output.
        self.fallbacks = Counter(
            "headrace_fallbacks_total", "Requests that went to a fallback", ["route", "cause"], registry=registry
        )
        # name: simple, balanced, complex.
        self.complexities = Counter(
            "headrace_complexity_total",
            "Requests of routes with rules for it, by how hard they were taken to be",
            ["route", "name"],
            registry=registry,
        )
        # outcome: started; won, lost, failed or cancelled; not sent: no_time, over_share, no_seat, no_retries.
        self.hedges = Counter(
            "headrace_hedges_total",
            "Second calls that were sent beside a slow first one, how they ended, and those that were due and not sent",
            ["route", "outcome"],
            registry=registry,
        )
        self.last_resorts = Counter(
            "headrace_last_resorts_total", "Requests answered by their route's template", ["route"], registry=registry
        )
