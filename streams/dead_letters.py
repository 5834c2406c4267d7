"""Dead letters: the original key, value and headers, with the reason in headers that Kafka UIs show."""

from __future__ import annotations

import hashlib
import traceback
from dataclasses import replace
from datetime import datetime
from typing import Any

from schemas.errors import HeadraceError, PoisonError
from streams.headers import CONTENT_TYPE, Headers
from streams.producer import Outgoing
from streams.topics import topic_name

Message = Any  # faust.types.ConsumerMessage, which is untyped

CONNECT = "__connect.errors."
OURS = "headrace.error."
# Longer ones would make the letter larger than its topic takes.
LONGEST_HEADER = 8_192
# Deep enough to find the place; the whole is in the worker's log.
FRAMES = 12


def dead_letter(
    message: Message,
    error: BaseException,
    *,
    prefix: str,
    lane: str,
    run: str,
    stage: str,
    attempts: int,
    first_failure: datetime,
) -> Outgoing:
    """The dead letter for a message that ``stage`` could not process. Holds no text of the event in its headers."""
    reasons = {
        f"{CONNECT}topic": message.topic,
        f"{CONNECT}partition": str(message.partition),
        f"{CONNECT}offset": str(message.offset),
        f"{CONNECT}stage": stage,
        f"{CONNECT}exception.class.name": type(error).__qualname__,
        f"{CONNECT}exception.message": safe_message(error),
        f"{CONNECT}exception.stacktrace": safe_trace(error),
        f"{OURS}class": class_of(error),
        f"{OURS}attempts": str(attempts),
        f"{OURS}first_failure": first_failure.isoformat(),
        f"{OURS}lane": lane,
        f"{OURS}replay": run,
    }
    headers: Headers = [(str(name), value) for name, value in message.headers or () if len(value) <= LONGEST_HEADER]
    if not any(name == "content-type" for name, _ in headers):
        headers.append(("content-type", CONTENT_TYPE))
    headers += [(name, value.encode()) for name, value in reasons.items()]
    # A record needs a key or a value.
    key = message.key if message.value is not None else message.key or b""
    return Outgoing(topic_name(prefix, lane, "dead-letters"), key, message.value, headers)


def without_value(letter: Outgoing) -> Outgoing:
    """The letter for an event that its topic would not take: where it is and what it was, without its bytes.

    A broker counts the compressed bytes, so an event may be larger than a letter may be.
    """
    value = letter.value or b""
    size = (f"{OURS}value_bytes", str(len(value)).encode())
    digest = (f"{OURS}value_sha256", hashlib.sha256(value).hexdigest().encode())
    return replace(
        letter, key=(letter.key or b"")[:LONGEST_HEADER], value=None, headers=[*letter.headers, size, digest]
    )


def class_of(error: BaseException) -> str:
    """The class that decides an error's way; what nobody foresaw is poison."""
    return error.error_class if isinstance(error, HeadraceError) else PoisonError.error_class


def safe_message(error: BaseException) -> str:
    """The error's message where we wrote it ourselves; others may quote the event, so only their type is told."""
    if isinstance(error, HeadraceError):
        return str(error)
    if isinstance(error, TimeoutError):
        return "an attempt took longer than the stage's time limit"
    return f"{type(error).__qualname__} was raised; the worker's log has the place"


def safe_trace(error: BaseException) -> str:
    """Where the error was raised, innermost last, without values."""
    frames = traceback.extract_tb(error.__traceback__)[-FRAMES:]
    return "\n".join(f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames)
