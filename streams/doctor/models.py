"""Whether the endpoints of embeddings and models answer as settings say."""

from __future__ import annotations

import os
from collections.abc import Mapping
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from streams.doctor.apis import probe
from streams.doctor.checkup import NotCheckedError, ProblemError
from streams.doctor.postgres import table_dimension
from streams.doctor.redact import shown_url
from streams.keyless import lacks_key
from streams.route_settings import DeploymentSettings
from streams.settings import Settings

CALL_TIMEOUT_S = 20.0


async def look_embeddings(settings: Settings) -> str:
    """Embeds one word, whose vector must have the length that settings and the table of passages have."""
    wanted = settings.embeddings
    headers = {"Authorization": f"Bearer {wanted.api_key.get_secret_value()}"} if wanted.api_key else {}
    body = {"model": wanted.model, "input": ["headrace"], "encoding_format": "float"}
    reply = await _ask("POST", f"{wanted.base_url.rstrip('/')}/embeddings", headers, body)
    try:
        length = len(reply["data"][0]["embedding"])
    except (KeyError, IndexError, TypeError):
        raise ProblemError("the reply holds no vector", "check embeddings.base_url and embeddings.model") from None
    if length != wanted.dimension:
        raise ProblemError(
            f"{wanted.model} gives {length} dimensions, settings say {wanted.dimension}",
            f"set embeddings.dimension = {length}, in a database migrated with it",
        )
    return f"{wanted.model} at {shown_url(wanted.base_url)}, {length} dimensions"


async def look_dimension(settings: Settings) -> str:
    """The length of the vectors in the table of passages, against the settings."""
    wanted, table = settings.embeddings.dimension, await table_dimension(settings)
    if table is None:
        raise ProblemError("there is no table of passages", "headrace migrate")
    if table != wanted:
        raise ProblemError(
            f"the table of passages takes {table} dimensions, settings say {wanted}",
            f"set embeddings.dimension = {table} and a model that has as many, or use another database",
        )
    return f"settings and the table of passages: {wanted}"


async def look_deployment(deployment: DeploymentSettings) -> str:
    """Whether the endpoint answers, takes the key and serves the model. Costs nothing."""
    where, way = shown_url(deployment.base_url), probe(deployment, _key(deployment))
    reply = await _ask("GET", way.models_url, way.headers, None, missing_is_fine=True)
    if way.by_name and reply is None:
        raise ProblemError(f"{where} knows no {deployment.model}", "correct the deployment's model or base_url")
    listed = _models(reply) if way.lists else set()
    if listed and deployment.model not in listed:
        names = ", ".join(sorted(listed)[:5])
        raise ProblemError(f"{where} serves {names}; not {deployment.model}", "correct the deployment's model")
    return f"{deployment.model} at {where}" + ("" if listed or way.by_name else " (it lists no models)")


async def look_call(deployment: DeploymentSettings, *, allowed: bool) -> str:
    """Asks the model for one token."""
    if not allowed and not is_local(deployment):
        raise NotCheckedError("a call to this endpoint may cost money; add --call to make it")
    way = probe(deployment, _key(deployment))
    used = way.used(await _ask("POST", way.call_url, way.headers, way.body, timeout_s=CALL_TIMEOUT_S))
    if used is None:
        raise ProblemError("the reply holds no choice", "check the deployment's base_url and model")
    return f"answered; {used.get('prompt_tokens', '?')} tokens in, {used.get('completion_tokens', '?')} out"


def is_local(deployment: DeploymentSettings) -> bool:
    """Whether the endpoint is on this machine, so that a call costs nothing."""
    host = urlsplit(deployment.base_url).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _key(deployment: DeploymentSettings) -> str | None:
    """The first of the keys; all of them have to be set."""
    names = deployment.key_variables
    if lacks_key(deployment):
        raise ProblemError(
            "the address is public and no key is named",
            "set api_key_env to the variable that holds it, or api_keys_env = [] where none is needed",
        )
    for name in names:
        if not os.environ.get(name):
            raise ProblemError(f"the variable {name} is not set", f"export {name}=... with the endpoint's key")
    return os.environ[names[0]] if names else None


def _models(reply: Any) -> set[str]:
    rows = reply.get("data") if isinstance(reply, dict) else None
    return {str(row["id"]) for row in rows or () if isinstance(row, dict) and "id" in row}


async def _ask(
    method: str,
    url: str,
    headers: Mapping[str, str],
    body: Mapping[str, Any] | None,
    *,
    timeout_s: float = 5.0,
    missing_is_fine: bool = False,
) -> Any:
    """The JSON of a reply, None for what is no JSON. Nothing of the endpoint's error text is passed on."""
    timeout = aiohttp.ClientTimeout(total=timeout_s)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.request(method, url, json=body, headers=headers, allow_redirects=False) as reply,
        ):
            if reply.status in (401, 403):
                raise ProblemError(f"HTTP {reply.status}: the key is refused", "correct the endpoint's key")
            if reply.status == 404 and missing_is_fine:
                return None
            if reply.status >= 300:
                raise ProblemError(f"HTTP {reply.status} from {shown_url(url)}")
            return await reply.json(content_type=None)
    except (aiohttp.ClientError, OSError) as error:
        raise ProblemError(f"{shown_url(url)} is not reachable ({type(error).__name__})") from None
    except ValueError:
        return None
