"""Probes of the dependencies that are reached over HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import aiohttp

from schemas.errors import DependencyDownError
from streams import security
from streams.embedding_settings import EmbeddingSettings
from streams.gate import Probe
from streams.settings import RegistrySettings

TIMEOUT = aiohttp.ClientTimeout(total=3)


def probe_registry(settings: RegistrySettings) -> Probe:
    """Asks the registry for its schema types."""
    return _probe("registry", f"{settings.url.rstrip('/')}/schemas/types", asked=security.registry_http(settings))


def probe_embeddings(settings: EmbeddingSettings) -> Probe:
    """Asks the embeddings endpoint for its models, which costs nothing."""
    key = settings.api_key.get_secret_value() if settings.api_key else None
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return _probe("embeddings", f"{settings.base_url.rstrip('/')}/models", headers)


def _probe(
    name: str, url: str, headers: Mapping[str, str] | None = None, *, asked: Mapping[str, Any] | None = None
) -> Probe:
    async def probe() -> None:
        try:
            async with (
                aiohttp.ClientSession(timeout=TIMEOUT) as session,
                session.get(url, **{"headers": headers, **(asked or {})}) as reply,
            ):
                if reply.status >= 500:
                    raise DependencyDownError(name, f"it answers {reply.status}")
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise DependencyDownError(name, type(error).__name__) from error

    return probe
