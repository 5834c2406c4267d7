"""Web pages from a real server: what is fetched, what is refused, and that nothing of a page can hang the command."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from schemas.errors import ConfigurationError
from streams.loading import Bounds, LoadedFile, Owner, find_sources, load_sources
from streams.loading.page import fetch, page_is_private
from streams.loading.record import UnreadableError
from tests.support.documents import pdf

OWNER = Owner(tenant="acme", namespace="docs")
PAGE = b"<html><title>Keys</title><body><p>Turn the <a href='/more'>key</a>.</p></body></html>"
BOMB = gzip.compress(bytes(30_000_000))
MODIFIED = "Wed, 01 Jan 2025 10:00:00 GMT"


class Site(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path.startswith("/to/"):
            return self._send(302, b"", {"Location": self.path.removeprefix("/to/")})
        if path == "/loop":
            return self._send(301, b"", {"Location": "/loop"})
        if path == "/drip":
            return self._drip()
        sent = {
            "/keys": (200, PAGE, {"Content-Type": "text/html; charset=utf-8", "Last-Modified": MODIFIED}),
            "/latin": (200, "Größe".encode("iso-8859-1"), {"Content-Type": "text/plain; charset=ISO-8859-1"}),
            "/liar": (200, "Größe".encode("iso-8859-1"), {"Content-Type": "text/plain"}),
            "/paper": (200, pdf("A paper."), {"Content-Type": "application/pdf"}),
            "/paper.pdf": (200, pdf("By its name."), {"Content-Type": "application/octet-stream"}),
            "/image": (200, b"\x89PNG", {"Content-Type": "image/png"}),
            "/untold": (200, b"text", {}),
            "/bomb": (
                200,
                gzip.compress(bytes(30_000_000)),
                {"Content-Type": "text/plain", "Content-Encoding": "gzip"},
            ),
            "/empty": (200, b"", {"Content-Type": "text/html"}),
        }.get(path, (404, b"gone", {"Content-Type": "text/html"}))
        return self._send(*sent)

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _drip(self) -> None:
        """A byte now and then, and never an end."""
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.end_headers()
        while not released.wait(0.05):
            try:
                self.wfile.write(b".")
                self.wfile.flush()
            except OSError:
                return

    def log_message(self, format: str, *args: object) -> None:
        return


released = threading.Event()


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Site)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    released.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def loaded(site: str) -> dict[str, LoadedFile]:
    """Every page, read once."""
    paths = ("keys#top", "latin", "liar", "paper", "paper.pdf", "image", "untold", "bomb", "empty", "none")
    given = [f"{site}/{path}" for path in (*paths, "to//keys", "loop", "to/file:///etc/passwd")]
    given.append("http://127.0.0.1:9/closed")
    bounds = Bounds(max_bytes=1_000_000, timeout_s=60.0, jobs=1)
    files = load_sources(find_sources(given).sources, OWNER, bounds)
    return {file.path.removeprefix(site): file for file in files}


def test_a_page_goes_by_its_address_and_its_links_are_whole(loaded: dict[str, LoadedFile], site: str) -> None:
    [page] = loaded["/keys"].documents
    assert (page.document_id, page.uri, page.title) == (f"{site}/keys", f"{site}/keys", "Keys")
    assert page.body is not None and page.body.inline == f"Turn the [key]({site}/more).\n"
    assert page.modified_at is not None and page.modified_at.year == 2025


def test_a_page_that_moved_goes_by_the_address_that_was_named(loaded: dict[str, LoadedFile], site: str) -> None:
    [page] = loaded["/to//keys"].documents
    assert (page.document_id, page.uri) == (f"{site}/to//keys", f"{site}/keys")


def test_the_header_says_what_it_is(loaded: dict[str, LoadedFile]) -> None:
    bodies = [loaded[name].documents[0].body for name in ("/latin", "/paper", "/paper.pdf")]
    assert [body.inline for body in bodies if body] == ["Größe", "A paper.\n", "By its name.\n"]


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("/liar", "is not utf-8 at byte 2"),
        ("/image", "is image/png, which is not read"),
        ("/untold", "does not say what it is"),
        ("/bomb", "is larger than 1000000 bytes"),
        ("/empty", "is empty"),
        ("/none", "was answered with HTTP 404"),
        ("/loop", "redirects more than 5 times"),
        ("/to/file:///etc/passwd", "redirects to something that is no web page"),
        ("http://127.0.0.1:9/closed", "can't be fetched: "),
    ],
)
def test_a_page_that_can_not_be_read_is_named(loaded: dict[str, LoadedFile], name: str, what: str) -> None:
    [problem] = loaded[name].problems
    assert not loaded[name].documents
    assert what in problem.what and problem.todo, problem


def test_a_page_that_never_ends_is_left(site: str) -> None:
    with pytest.raises(UnreadableError, match="did not come in time"):
        fetch(f"{site}/drip", max_bytes=1000, timeout_s=0.5)


def test_a_public_page_may_not_lead_into_a_private_network(site: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test's own host stands for a public one: only what it leads to is judged by its real address."""
    real = page_is_private
    named = f"{site}/to/{site}/keys"
    monkeypatch.setattr("streams.loading.page.page_is_private", lambda url: url != named and real(url))
    with pytest.raises(UnreadableError, match="redirects into a private network"):
        fetch(named, max_bytes=1000, timeout_s=20)
    assert fetch(named, max_bytes=1000, timeout_s=20, allow_private=True).data == PAGE


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "10.1.2.3", "169.254.169.254", "[::1]", "[::ffff:10.0.0.1]", "[fd00::1]"]
)
def test_a_private_address_is_known_as_one(host: str) -> None:
    assert page_is_private(f"http://{host}/x")
    assert not page_is_private("http://8.8.8.8/x") and not page_is_private("http://[2001:4860:4860::8888]/")


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ("file:///etc/passwd", "file:// is not read; give the path itself"),
        ("ftp://host/x", "ftp:// is not read"),
        ("https://user:hunter2@host/x", "holds a user or password"),
        ("http://", "no valid host"),
        ("http://host:99999/", "no valid host"),
    ],
)
def test_other_addresses_are_refused_before_anything_is_read(given: str, named: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=named) as refused:
        find_sources([tmp_path, given])
    assert "hunter2" not in str(refused.value)
