"""Work on several things at once in which one that fails does not fail the others."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import psycopg

from schemas.errors import DependencyDownError

Asked = TypeVar("Asked")
Answered = TypeVar("Answered")

_LOCK_TIMEOUT = "55P03"


def one_by_one(
    work: Callable[[Sequence[Asked]], Awaitable[Sequence[Answered]]],
) -> Callable[[Sequence[Asked]], Awaitable[Sequence[Answered | Exception]]]:
    """``work``, called again for each alone where it failed for several; what fails then is its own answer.

    Not where storage is away, which is so for all of them; a lock that one of them waited for is another matter.
    """

    async def attempt(asked: Sequence[Asked]) -> Sequence[Answered | Exception]:
        try:
            return await work(asked)
        except Exception as error:
            if len(asked) == 1 or _for_all(error):
                return [error] * len(asked)
        return [answer for one in asked for answer in await attempt([one])]

    return attempt


def _for_all(error: Exception) -> bool:
    if not isinstance(error, DependencyDownError):
        return False
    cause = error.__cause__
    return not (isinstance(cause, psycopg.Error) and cause.sqlstate == _LOCK_TIMEOUT)
