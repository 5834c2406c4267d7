"""Sends the bytes of a call over one pool of connections, and keeps a connection whose reply was read to its end."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson
from multidict import CIMultiDict
from yarl import URL

from processors.complete.routes import Deployment
from processors.model.exchange import Opened, RefusedStatusError, content_type

_MAX_ERROR_BYTES = 64 * 1024
# aiohttp wants larger bodies as a file, which it sends in pieces.
_LARGE_BYTES = 1024 * 1024
# Common servers close a connection that was idle for 5 s. A call that is sent into a closing one would be booked as
# unknown, at its upper bound.
_KEPT_IDLE_S = 4.0
# How long the rest of a reply is waited for that said that it was over: mostly the end of its last chunk.
_REST_S = 1.0


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a deployment is called. ``headers`` are those of every call, with its key."""

    url: URL
    headers: Mapping[str, str]


class Sender:
    """One session for all deployments of an API; opened with the first call, on the loop that uses it."""

    def __init__(self, endpoint: Callable[[Deployment], Endpoint]) -> None:
        self._endpoint = endpoint
        self._known: dict[Deployment, tuple[URL, CIMultiDict[str], aiohttp.ClientTimeout]] = {}
        self._session: aiohttp.ClientSession | None = None
        # Replies that were read, whose bodies have not ended yet.
        self._ending: set[aiohttp.ClientResponse] = set()

    @asynccontextmanager
    async def post(self, deployment: Deployment, body: bytes, headers: Mapping[str, str]) -> AsyncIterator[Opened]:
        """Send a JSON body; the reply while it is open. Leaving with an exception closes the connection at once.

        Raises ``RefusedStatusError`` for any status but success, ``aiohttp.ClientError`` and ``OSError``.
        """
        url, own, timeout = self._known.get(deployment) or self._prepared(deployment)
        sent = own.copy()
        sent.update(headers)
        response = await self._opened().post(
            url,
            data=body if len(body) <= _LARGE_BYTES else io.BytesIO(body),
            headers=sent,
            timeout=timeout,
            # A redirect would take the key and the prompt to an endpoint that nobody configured.
            allow_redirects=False,
        )
        try:
            if not 200 <= response.status < 300:
                raise RefusedStatusError(response.status, await _error_body(response), response.headers)
            yield Opened(content_type(response.headers), response.content.iter_any())
        except BaseException:
            response.close()
            raise
        self._let_go(response)

    async def close(self) -> None:
        """Close every connection."""
        for response in tuple(self._ending):
            self._drop(response)
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                # Places limit the calls; deadlines are the call's.
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEPT_IDLE_S),
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=False,
            )
        return self._session

    def _prepared(self, deployment: Deployment) -> tuple[URL, CIMultiDict[str], aiohttp.ClientTimeout]:
        endpoint = self._endpoint(deployment)
        headers = CIMultiDict(
            {
                "Content-Type": "application/json",
                "Accept": "*/*",
                "Accept-Encoding": "identity",
                "User-Agent": "headrace",
                **endpoint.headers,
            }
        )
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=deployment.connect_timeout_s)
        self._known[deployment] = endpoint.url, headers, timeout
        return self._known[deployment]

    def _let_go(self, response: aiohttp.ClientResponse) -> None:
        """Give the connection back when the body's end comes, which nobody waits for; else close it soon."""
        if response.content.is_eof():
            response.release()
            return
        late = asyncio.get_running_loop().call_later(_REST_S, self._drop, response)

        def ended() -> None:
            # By itself the response has given its connection back.
            late.cancel()
            self._ending.discard(response)

        self._ending.add(response)
        response.content.on_eof(ended)

    def _drop(self, response: aiohttp.ClientResponse) -> None:
        self._ending.discard(response)
        response.close()


async def _error_body(response: aiohttp.ClientResponse) -> Any:
    """The JSON of an error, read no further than a code takes."""
    read = bytearray()
    async for chunk in response.content.iter_any():
        read += chunk
        if len(read) > _MAX_ERROR_BYTES:
            return None
    try:
        return orjson.loads(bytes(read))
    except orjson.JSONDecodeError:
        return None
