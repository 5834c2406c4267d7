"""Running checks side by side: each within a limit of its own, and none whose ground has failed."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal, TypeVar

from schemas.errors import HeadraceError

LIMIT_S = 6.0

T = TypeVar("T")
Status = Literal["ok", "failed", "skipped"]


class ProblemError(Exception):
    """A check found something wrong. ``fix`` is what to do, where that differs from the check's own advice."""

    def __init__(self, detail: str, fix: str | None = None) -> None:
        super().__init__(detail)
        self.fix = fix


class NotCheckedError(Exception):
    """A check does not apply here; says why."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check came to."""

    name: str
    status: Status
    detail: str
    fix: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """``look`` returns what was seen, or raises. It runs only when all of ``needs`` went well."""

    name: str
    look: Callable[[], Awaitable[str]]
    fix: str
    needs: tuple[str, ...] = ()
    limit_s: float = LIMIT_S


async def examine(checks: Sequence[Check], *, redact: Callable[[str], str] = str) -> list[Finding]:
    """Run all checks and return their findings in order. Waits at most for the slowest chain of needs.

    No text of a finding leaves without ``redact``: drivers put addresses and worse into their errors.
    """
    running: dict[str, asyncio.Task[Finding]] = {}
    for check in checks:
        running[check.name] = asyncio.ensure_future(_run(check, [running[name] for name in check.needs], redact))
    return list(await asyncio.gather(*running.values()))


async def _run(check: Check, needs: Sequence[asyncio.Task[Finding]], redact: Callable[[str], str]) -> Finding:
    ground = [await need for need in needs]
    missing = [found.name for found in ground if found.status != "ok"]
    if missing:
        return Finding(check.name, "skipped", f"needs {', '.join(missing)}")
    try:
        seen = await asyncio.wait_for(check.look(), check.limit_s)
    except NotCheckedError as error:
        return Finding(check.name, "skipped", redact(str(error)))
    except ProblemError as error:
        return Finding(check.name, "failed", redact(str(error)), redact(error.fix or check.fix))
    except TimeoutError:
        return Finding(check.name, "failed", f"no reply within {check.limit_s:g} s", redact(check.fix))
    except HeadraceError as error:
        return Finding(check.name, "failed", redact(str(error)), redact(check.fix))
    except Exception as error:  # a driver's own error: whatever it is, it is the finding
        lines = str(error).strip().splitlines() or [""]
        return Finding(check.name, "failed", redact(f"{type(error).__name__}: {lines[0][:300]}"), redact(check.fix))
    return Finding(check.name, "ok", redact(seen))


async def in_thread(work: Callable[[], T]) -> T:
    """Run blocking work in a thread that does not hold up the end of the process when it hangs."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if done.done():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        result: T | None = None
        failure: BaseException | None = None
        try:
            result = work()
        except Exception as error:
            failure = error
        # The loop may be gone by the time that hanging work ends.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(settle, result, failure)

    threading.Thread(target=run, daemon=True).start()
    return await done
