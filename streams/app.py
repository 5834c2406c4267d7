"""The app factory: one Faust app and consumer group per stage input, set as delivery needs it, and checked."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import faust
from mode.utils.objects import cached_property

from schemas.errors import ConfigurationError
from streams import security
from streams.in_loop import QuietMonitor
from streams.settings import Settings
from streams.stages import STAGES
from streams.transport import SafeTransport

Take = Callable[[Any], Awaitable[None]]

# A consumer whose queue stays full while a dependency is away or its stage is paused must not leave its group; a stuck
# one is found by /livez. The client takes at most 24 days.
MAX_POLL_INTERVAL_S = 20 * 86_400.0
MAX_FETCH_BYTES = 1_048_576
METADATA_MAX_AGE_MS = 60_000
BUFFER_PER_SLOT = 2


class StageApp(faust.App):
    """A Faust app on the safe-commit transport. ``gather_s``: how long records gather between two fetches."""

    gather_s = 0.0

    @cached_property
    def transport(self) -> SafeTransport:  # type: ignore[override]
        return SafeTransport(self.conf.broker_consumer, self)

    def _create_directories(self) -> None:
        """Faust's folders are for tables, and there are none: a worker may run where it can't write."""


def group_name(prefix: str, lane: str, stage: str) -> str:
    """``<prefix><lane>.<stage>``: the consumer group, and the app's id."""
    return f"{prefix}{lane}.{stage}"


def create_app(
    settings: Settings,
    *,
    group: str,
    topics: Sequence[str],
    slot: str,
    concurrency: int,
    take: Take,
    buffer: int | None = None,
    gather_s: float = 0.0,
) -> StageApp:
    """A Faust app that hands every event of ``topics`` to ``take``, ``concurrency`` at a time. Starts nothing.

    ``buffer``: events that are read ahead; twice the concurrency where it is not given. ``gather_s``: how long events
    gather between two fetches while there is no backlog.
    """
    worker = settings.worker
    buffer = buffer or BUFFER_PER_SLOT * concurrency
    app = StageApp(
        group,
        **security.faust_broker(settings.kafka),
        # Instance ids are static, so that a restarted worker takes up its partitions at once.
        consumer_group_instance_id=f"{group}.{slot}",
        consumer_auto_offset_reset="earliest",
        consumer_max_fetch_size=MAX_FETCH_BYTES,
        consumer_metadata_max_age_ms=METADATA_MAX_AGE_MS,
        broker_session_timeout=worker.session_timeout_s,
        broker_heartbeat_interval=worker.heartbeat_s,
        broker_rebalance_timeout=worker.rebalance_timeout_s,
        broker_request_timeout=worker.request_timeout_s,
        broker_max_poll_interval=MAX_POLL_INTERVAL_S,
        broker_max_poll_records=max(1, buffer // 2),
        broker_commit_interval=worker.commit_interval_s,
        broker_commit_livelock_soft_timeout=MAX_POLL_INTERVAL_S,
        stream_processing_timeout=MAX_POLL_INTERVAL_S,
        stream_buffer_maxsize=buffer,
        # With manual acks Faust would wait for ever for an event that was let go; the worker drains by itself.
        stream_wait_empty=False,
        producer_request_timeout=settings.kafka.produce_timeout_s,
        producer_linger=0,
        # With 0 the assignor ignores static membership.
        table_standby_replicas=1,
        topic_allow_declare=False,
        topic_disable_leader=True,
        web_enabled=False,
        worker_redirect_stdouts=False,
        store="memory://",
        Monitor=QuietMonitor,
        processing_guarantee="at_least_once",
    )
    app.gather_s = gather_s
    _register_agent(app, topics, concurrency, take)
    check_app(app, settings)
    return app


def _register_agent(app: StageApp, topics: Sequence[str], concurrency: int, take: Take) -> None:
    source = app.topic(
        *topics, key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw", internal=False
    )

    async def agent(stream: Any) -> None:
        async for event in stream.noack().events():
            await take(event)

    app.agent(source, concurrency=concurrency, name=f"{app.conf.id}.agent")(agent)


def check_app(app: StageApp, settings: Settings) -> None:
    """Cross-check an app against what delivery needs. Raises ``ConfigurationError`` that names the setting."""
    conf = app.conf
    longest = max(stage.limit_s(settings) for stage in STAGES.values())
    rules = {
        "the transport has to be the safe-commit transport": isinstance(app.transport, SafeTransport),
        "worker.rebalance_timeout_s has to exceed every stage's timeout_s": longest < conf.broker_rebalance_timeout,
        "worker.request_timeout_s has to exceed worker.rebalance_timeout_s": (
            conf.broker_rebalance_timeout < conf.broker_request_timeout
        ),
        "stream_wait_empty has to be off": not conf.stream_wait_empty,
        "table_standby_replicas has to be 1": conf.table_standby_replicas == 1,
        "the producer's request timeout has to be under 60 s": conf.producer_request_timeout <= 60,
        "a group instance id is needed": bool(conf.consumer_group_instance_id),
    }
    broken = [rule for rule, holds in rules.items() if not holds]
    if broken:
        raise ConfigurationError(f"{conf.id}: {'; '.join(broken)}")
