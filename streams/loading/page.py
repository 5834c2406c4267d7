"""Fetching one web page that an operator named. Runs in a child process, see ``child``, which bounds its time.

What is named is fetched wherever it is, be it on this host or in a private network: it is the operator's own command.
A *redirect* from a public host to a private address is refused unless that was allowed, because then the page's
owner, not the operator, would choose what is read inside the network and put into the index.
"""

from __future__ import annotations

import ipaddress
import socket
import time
from dataclasses import dataclass
from datetime import datetime
from email.message import Message
from email.utils import parsedate_to_datetime
from urllib.parse import urljoin, urlsplit

import httpx2

from streams.loading.kinds import BY_MEDIA_TYPE, kind_of_file
from streams.loading.record import UnreadableError

MAX_REDIRECTS = 5
CONNECT_TIMEOUT_S = 10.0
READ_TIMEOUT_S = 30.0
_REDIRECTS = (301, 302, 303, 307, 308)
_HEADERS = {
    "User-Agent": "headrace-ingest",
    "Accept": "text/html, application/xhtml+xml, text/plain, text/markdown, application/pdf, text/csv, */*;q=0.5",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """What a server sent. ``url`` is where it was found after redirects."""

    url: str
    kind: str
    encoding: str
    data: bytes
    modified_at: datetime | None


def fetch(url: str, *, max_bytes: int, timeout_s: float, allow_private: bool = False) -> Page:
    """Get the page. Blocks for ``timeout_s`` and a read at most; raises ``UnreadableError``."""
    deadline = time.monotonic() + timeout_s
    timeout = httpx2.Timeout(min(READ_TIMEOUT_S, timeout_s), connect=min(CONNECT_TIMEOUT_S, timeout_s))
    try:
        with httpx2.Client(headers=_HEADERS, timeout=timeout, follow_redirects=False) as client:
            private = allow_private or page_is_private(url)
            for _ in range(MAX_REDIRECTS + 1):
                with client.stream("GET", url) as response:
                    if response.status_code not in _REDIRECTS or "location" not in response.headers:
                        return _page(url, response, max_bytes, deadline)
                    url = _next(url, response.headers["location"], private=private)
    except (httpx2.InvalidURL, UnicodeError):
        raise UnreadableError("has an address that is not valid", "correct it") from None
    except httpx2.TimeoutException:
        raise _late() from None
    except (httpx2.HTTPError, OSError) as error:
        reason = _reason(error)
        raise UnreadableError(f"can't be fetched: {reason}", "check the address, and that it is reachable") from None
    raise UnreadableError(f"redirects more than {MAX_REDIRECTS} times", "give the address where it ends")


def _page(url: str, response: httpx2.Response, max_bytes: int, deadline: float) -> Page:
    if response.status_code != 200:
        raise UnreadableError(f"was answered with HTTP {response.status_code}", "check the address")
    kind, encoding = _kind(url, response.headers.get("content-type", ""))
    data = bytearray()
    # Decompressed as it comes: a small answer that unpacks to a huge one is cut off as well.
    for chunk in response.iter_bytes():
        data += chunk
        if len(data) > max_bytes:
            raise UnreadableError(f"is larger than {max_bytes} bytes", "raise --max-mb, or split it")
        if time.monotonic() > deadline:
            raise _late()
    modified = response.headers.get("last-modified", "")
    return Page(url=url, kind=kind, encoding=encoding, data=bytes(data), modified_at=_moment(modified))


def _next(url: str, location: str, *, private: bool) -> str:
    target = urljoin(url, location)
    parts = urlsplit(target)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UnreadableError("redirects to something that is no web page", "give the address where it ends")
    if urlsplit(url).scheme == "https" and parts.scheme == "http":
        raise UnreadableError("redirects from https to http", "give the address where it ends, if you trust it")
    if not private and page_is_private(target):
        raise UnreadableError(
            "redirects into a private network", "give that address itself, or --allow-private if you trust the page"
        )
    return target


def page_is_private(url: str) -> bool:
    """Whether any address of the host is not a public one. A host that is not known here is left to the proxy."""
    host = urlsplit(url).hostname or ""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return False
    addresses = (ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in found)
    return any(not (getattr(address, "ipv4_mapped", None) or address).is_global for address in addresses)


def _kind(url: str, content_type: str) -> tuple[str, str]:
    header = Message()
    header["content-type"] = content_type
    media_type = header.get_content_type() if content_type else ""
    charset = header.get_param("charset")
    encoding = charset if isinstance(charset, str) else ""
    kind = BY_MEDIA_TYPE.get(media_type)
    if kind is None and media_type in ("", "application/octet-stream", "binary/octet-stream"):
        kind = kind_of_file(urlsplit(url).path)
        kind = None if kind == "lines" else kind
    if kind is None:
        said = f"is {media_type[:80]}" if media_type else "does not say what it is"
        raise UnreadableError(f"{said}, which is not read", f"give one of {', '.join(BY_MEDIA_TYPE)}")
    return kind, encoding


def _moment(text: str) -> datetime | None:
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, TypeError):
        return None
    return moment if moment.tzinfo else None


def _late() -> UnreadableError:
    return UnreadableError("did not come in time", "try again, or raise --file-timeout")


def _reason(error: Exception) -> str:
    """The deepest cause's own words on the network; no part of an answer is in them."""
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror
    return type(error).__name__
