"""Tokens for OAUTHBEARER: fetched from an OpenID provider or read from a file, kept, and renewed before they end."""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
import threading
import time
from abc import abstractmethod
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import structlog
from aiokafka.abc import AbstractTokenProvider
from aiokafka.errors import KafkaError

from schemas.errors import ConfigurationError, DependencyDownError, HeadraceError
from streams.credentials import read_secret

# A token is renewed when so much of its life is over; a file without an end in it is read again after so long.
RENEW_AT = 0.8
REREAD_S = 60.0
LONGEST_REPLY = 65_536

log = structlog.get_logger(__name__)


class TokenUnavailableError(KafkaError):  # type: ignore[misc]
    """There is no token now. One of aiokafka's errors, because its tasks end at any other and not at these."""


@dataclass(frozen=True, slots=True)
class Token:
    """A token with the moments, in seconds since the epoch, when to renew it and when it ends."""

    value: str
    renew_at: float
    ends_at: float

    def __repr__(self) -> str:
        return f"Token(ends_at={self.ends_at})"


class TokenProvider(AbstractTokenProvider):  # type: ignore[misc]
    """Gives aiokafka's clients, on whichever loop each of them runs, one token between them.

    Asked at each new connection. Waits only while there is no token that holds; one that is soon to end is given out
    while the next is on its way. Raises ``TokenUnavailableError``, caused by a ``ConfigurationError`` when the
    credentials are refused.
    """

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._guard = threading.Lock()
        self._token: Token | None = None
        self._coming: Future[Token] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @abstractmethod
    async def fetch(self) -> Token:
        """A new token. Raises ``ConfigurationError`` or ``DependencyDownError``."""

    async def token(self) -> str:
        """The token to send."""
        now = self._clock()
        with self._guard:
            held = self._token if self._token and self._token.ends_at > now else None
            if held is not None and held.renew_at > now:
                return held.value
            coming, mine = self._coming, self._coming is None
            if coming is None:
                coming = self._coming = Future()
        if mine:
            task = asyncio.get_running_loop().create_task(self._renew(coming))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        if held is not None:
            return held.value
        try:
            return (await asyncio.wrap_future(coming)).value
        except HeadraceError as error:
            raise TokenUnavailableError(str(error)) from error

    async def _renew(self, coming: Future[Token]) -> None:
        try:
            token = await self.fetch()
        except BaseException as error:
            with self._guard:
                self._coming = None
            if isinstance(error, HeadraceError):
                log.warning("no new token for kafka", reason=str(error))
            # Whoever waits asks again; a loop that ends meanwhile must not leave the others waiting.
            ours = error if isinstance(error, Exception) else DependencyDownError("kafka", "the token's fetch ended")
            coming.set_exception(ours)
            if not isinstance(error, Exception):
                raise
        else:
            with self._guard:
                self._token, self._coming = token, None
            coming.set_result(token)


class EndpointTokens(TokenProvider):
    """Tokens of an OpenID provider, by the grant of client credentials (RFC 6749, 4.4)."""

    def __init__(
        self,
        url: str,
        *,
        client_id: str,
        client_secret: Callable[[], str],
        scope: str | None = None,
        context: ssl.SSLContext | None = None,
        timeout_s: float = 10.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(clock=clock)
        self._url, self._client_id, self._secret = url, client_id, client_secret
        self._scope, self._context = scope, context
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)

    async def fetch(self) -> Token:
        form = {"grant_type": "client_credentials", **({"scope": self._scope} if self._scope else {})}
        login = {"Authorization": basic_auth(f"{self._client_id}:{self._secret()}")}
        asked_at = self._clock()
        try:
            # One connection a fetch: there is a fetch an hour, and the next may be on another loop.
            async with (
                aiohttp.ClientSession(timeout=self._timeout) as session,
                session.post(
                    self._url, data=form, headers=login, ssl=self._context or True, allow_redirects=False
                ) as reply,
            ):
                status, body = reply.status, await reply.content.read(LONGEST_REPLY)
        except (aiohttp.ClientSSLError, ssl.SSLError) as error:
            raise ConfigurationError(
                f"kafka.sasl.token_url: TLS failed ({type(error).__name__}); check kafka.sasl.token_ca_file"
            ) from None
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise DependencyDownError("kafka", f"kafka.sasl.token_url: {type(error).__name__}") from None
        if status in (400, 401, 403):
            raise ConfigurationError(
                f"kafka.sasl.token_url refused the client (HTTP {status}); "
                "check kafka.sasl.client_id, client_secret and scope"
            )
        if status != 200:
            raise DependencyDownError("kafka", f"kafka.sasl.token_url answers {status}")
        return self._read(body, asked_at)

    def _read(self, body: bytes, asked_at: float) -> Token:
        try:
            reply = json.loads(body)
            value, life_s = str(reply["access_token"]), float(reply.get("expires_in") or REREAD_S)
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ConfigurationError("kafka.sasl.token_url gave no token; is it the token endpoint?") from None
        return Token(value, asked_at + RENEW_AT * life_s, asked_at + life_s)


class FileTokens(TokenProvider):
    """The token in a file that something else keeps fresh."""

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.time) -> None:
        super().__init__(clock=clock)
        self._path = path

    async def fetch(self) -> Token:
        return read_token(self._path, now=self._clock())


def read_token(path: Path, *, now: float) -> Token:
    """The token in a file; it ends when it says so (``exp``), and is read again soon in any case.

    Blocks on a small file. Raises ``ConfigurationError`` for a file without a token, or with one that has ended.
    """
    value = read_secret(path, at="kafka.sasl.token_file").strip()
    ends_at = _end_of(value)
    if ends_at is None:
        return Token(value, now + RENEW_AT * REREAD_S, now + REREAD_S)
    if ends_at <= now:
        raise ConfigurationError(f"kafka.sasl.token_file: the token in {path} has ended; put a fresh one there")
    return Token(value, now + min(REREAD_S, RENEW_AT * (ends_at - now)), ends_at)


def basic_auth(user_and_password: str) -> str:
    """The header of a login by name and password (RFC 7617)."""
    return "Basic " + base64.b64encode(user_and_password.encode()).decode()


def _end_of(value: str) -> float | None:
    """``exp`` of a JWT; nothing is verified, which is the broker's part."""
    try:
        claims = value.split(".")[1]
        return float(json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))["exp"])
    except (IndexError, ValueError, KeyError, TypeError):
        return None
