"""Tokens are fetched once for all clients, renewed before they end, and never waited for while one holds."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from schemas.errors import ConfigurationError, DependencyDownError
from streams.tokens import (
    EndpointTokens,
    FileTokens,
    Token,
    TokenProvider,
    TokenUnavailableError,
    basic_auth,
    read_token,
)


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


class Counting(TokenProvider):
    """Gives t1, t2, … of 100 s; ``hold`` keeps a fetch open."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock=clock)
        self.clock, self.fetched = clock, 0
        self.hold: asyncio.Event | None = None
        self.failing = False

    async def fetch(self) -> Token:
        self.fetched += 1
        number = self.fetched
        if self.hold is not None:
            await self.hold.wait()
        if self.failing:
            raise DependencyDownError("kafka", "told to fail")
        return Token(f"t{number}", self.clock.now + 80, self.clock.now + 100)


async def test_many_clients_at_once_share_one_fetch() -> None:
    provider = Counting(Clock())
    assert await asyncio.gather(*(provider.token() for _ in range(20))) == ["t1"] * 20
    assert provider.fetched == 1


async def test_a_token_that_is_soon_to_end_is_given_while_the_next_is_on_its_way() -> None:
    clock = Clock()
    provider = Counting(clock)
    await provider.token()
    clock.now += 81
    provider.hold = asyncio.Event()
    assert await provider.token() == "t1"
    await asyncio.sleep(0)
    assert (await provider.token(), provider.fetched) == ("t1", 2)
    provider.hold.set()
    while await provider.token() != "t2":
        await asyncio.sleep(0)


async def test_a_fetch_that_fails_is_made_again_and_the_old_token_holds_to_its_end() -> None:
    clock = Clock()
    provider = Counting(clock)
    await provider.token()
    provider.failing = True
    clock.now += 90
    assert await provider.token() == "t1"
    clock.now += 11
    with pytest.raises(TokenUnavailableError, match="told to fail"):
        await provider.token()
    provider.failing = False
    assert (await provider.token()).startswith("t")


def test_clients_on_other_loops_share_it_too() -> None:
    provider, given = Counting(Clock()), []

    def ask() -> None:
        given.append(asyncio.run(provider.token()))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert (set(given), provider.fetched) == ({"t1"}, 1)


async def test_a_loop_that_ends_in_a_fetch_leaves_nobody_waiting() -> None:
    provider = Counting(Clock())
    provider.hold = asyncio.Event()
    waiting = asyncio.ensure_future(provider.token())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    for task in provider._tasks:
        task.cancel()
    with pytest.raises(TokenUnavailableError):
        await asyncio.wait_for(waiting, 5)
    provider.hold = None
    assert await provider.token() == "t2"


@asynccontextmanager
async def endpoint(reply: Callable[[], web.Response]) -> AsyncIterator[tuple[str, list[dict[str, str]]]]:
    asked: list[dict[str, str]] = []

    async def handle(request: web.Request) -> web.Response:
        form = await request.post()
        asked.append({**{k: str(v) for k, v in form.items()}, "login": request.headers.get("Authorization", "")})
        return reply()

    app = web.Application()
    app.router.add_post("/token", handle)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/token", asked
    finally:
        await runner.cleanup()


def tokens(url: str, clock: Clock | None = None) -> EndpointTokens:
    return EndpointTokens(url, client_id="me", client_secret=lambda: "s3cret", scope="kafka", clock=clock or Clock())


async def test_the_endpoint_is_asked_with_client_credentials() -> None:
    good = web.json_response
    async with endpoint(lambda: good({"access_token": "abc", "expires_in": 100})) as (url, asked):
        token = await tokens(url).fetch()
    assert (token.value, token.renew_at, token.ends_at) == ("abc", 1_080.0, 1_100.0)
    assert asked == [{"grant_type": "client_credentials", "scope": "kafka", "login": basic_auth("me:s3cret")}]
    assert "abc" not in repr(token)


@pytest.mark.parametrize(
    ("status", "body", "kind", "said"),
    [
        (401, "{}", ConfigurationError, r"HTTP 401\); check kafka.sasl.client_id"),
        (400, '{"error": "invalid_scope"}', ConfigurationError, "scope"),
        (503, "", DependencyDownError, "answers 503"),
        (302, "", DependencyDownError, "answers 302"),
        (200, "<html>", ConfigurationError, "no token"),
        (200, '{"token": "x"}', ConfigurationError, "no token"),
        (200, '"x"', ConfigurationError, "no token"),
    ],
)
async def test_what_is_no_token_is_an_error_that_names_the_setting(
    status: int, body: str, kind: type[Exception], said: str
) -> None:
    async with endpoint(lambda: web.Response(status=status, text=body)) as (url, _):
        with pytest.raises(kind, match=said) as error:
            await tokens(url).fetch()
    assert "s3cret" not in str(error.value)


async def test_an_endpoint_that_is_away_counts_as_away() -> None:
    with pytest.raises(DependencyDownError, match=r"kafka\.sasl\.token_url"):
        await tokens("http://127.0.0.1:9/token").fetch()


def jwt(**claims: float) -> str:
    part = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    return f"e30.{part}."


async def test_a_file_is_read_again_before_its_token_ends(tmp_path: Path) -> None:
    clock, file = Clock(), tmp_path / "token"
    file.write_text(jwt(exp=clock.now + 1_000) + "\n")
    provider = FileTokens(file, clock=clock)
    first = await provider.token()
    file.write_text(fresh := jwt(exp=clock.now + 2_000))
    assert await provider.token() == first
    clock.now += 61
    while await provider.token() != fresh:
        await asyncio.sleep(0)


def test_a_token_without_an_end_is_read_again_soon_and_one_that_ended_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("opaque")
    assert read_token(file, now=0.0).ends_at == 60.0
    file.write_text(jwt(exp=5.0))
    with pytest.raises(ConfigurationError, match=r"kafka\.sasl\.token_file: the token in .* has ended"):
        read_token(file, now=6.0)
