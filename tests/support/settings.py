"""Settings for a test, pointing at the test stack."""

from __future__ import annotations

from typing import Any

from streams.settings import Settings
from tests.support.stack import TestStack

# Nothing listens there: a test that needs the model or the embeddings says so.
NOWHERE = "http://127.0.0.1:9/v1"


def settings_for(stack: TestStack, **changes: Any) -> Settings:
    """Settings of the stack's endpoints; ``changes`` are whole sections."""
    values: dict[str, Any] = {
        "stack": "external",
        "kafka": {"bootstrap": stack.kafka_bootstrap},
        "registry": {"url": stack.registry_url},
        "postgres": {"dsn": stack.postgres_dsn},
        "embeddings": {"base_url": NOWHERE, "model": "none"},
        "deployments": {"local": {"base_url": NOWHERE, "model": "none"}},
        "routes": {"default": {"deployment": "local"}},
        "worker": {"session_timeout_s": 6, "heartbeat_s": 1, "commit_interval_s": 0.2},
    }
    return Settings(**{**values, **changes})


def bare_settings(**changes: Any) -> Settings:
    """Settings whose endpoints are nowhere; ``changes`` are whole sections."""
    values: dict[str, Any] = {
        "stack": "external",
        "kafka": {"bootstrap": "b:9092"},
        "registry": {"url": "http://r"},
        "postgres": {"dsn": "postgresql://p/db"},
        "embeddings": {"base_url": NOWHERE, "model": "none"},
        "deployments": {"local": {"base_url": NOWHERE, "model": "none"}},
        "routes": {"default": {"deployment": "local"}},
    }
    return Settings(**{**values, **changes})


def settings_of_tenants(**changes: Any) -> Settings:
    """As above, with two tenants who have topics of their own."""
    return bare_settings(trust_producers=False, tenants={"acme": {}, "globex": {}}, **changes)
