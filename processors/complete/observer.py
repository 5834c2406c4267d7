"""What the stage tells whoever counts."""

from __future__ import annotations

from decimal import Decimal
from typing import Protocol

from schemas.records import Usage


class CallObserver(Protocol):
    """Hears of every call. Must not block or raise."""

    def on_call(self, deployment: str, outcome: str, seconds: float | None) -> None:
        """An attempt ended: ``done``, or the code of its error. No ``seconds``: it went by batch."""
        ...

    def on_retry(self, deployment: str, code: str) -> None:
        """An attempt will be followed by another one, because of ``code``."""
        ...

    def on_unknown(self, deployment: str, code: str) -> None:
        """An attempt's outcome was booked unknown, by this worker or for one that is gone."""
        ...

    def on_input_drift(self) -> None:
        """A redelivered event would send something else than the journal has; the journal's input is used."""
        ...

    def on_tokens(self, deployment: str, usage: Usage) -> None:
        """A call used tokens."""
        ...

    def on_cost(self, deployment: str, usd: Decimal) -> None:
        """An attempt was booked with this cost."""
        ...

    def on_first_token(self, deployment: str, seconds: float) -> None:
        """A call that answered had its first output after this long."""
        ...

    def on_complexity(self, route: str, name: str) -> None:
        """A request of the route was taken to be this hard: ``simple``, ``balanced`` or ``complex``."""
        ...

    def on_hedge(self, route: str, outcome: str) -> None:
        """A second call was ``started``; it ``won`` or ``lost``, or both calls ``failed`` or were ``cancelled``.

        It was due and not sent: ``no_time``, ``over_share``, ``no_seat`` or ``no_retries``.
        """
        ...

    def on_gap(self, deployment: str, seconds: float) -> None:
        """Two pieces of a streamed text came this far apart."""
        ...

    def on_delta(self, outcome: str) -> None:
        """A delta was ``sent``; or one that tells of an attempt's end, ``aborted``; or one was given up, ``lost``."""
        ...


class NullObserver:
    """Counts nothing."""

    def on_call(self, deployment: str, outcome: str, seconds: float | None) -> None: ...

    def on_retry(self, deployment: str, code: str) -> None: ...

    def on_unknown(self, deployment: str, code: str) -> None: ...

    def on_input_drift(self) -> None: ...

    def on_tokens(self, deployment: str, usage: Usage) -> None: ...

    def on_cost(self, deployment: str, usd: Decimal) -> None: ...

    def on_first_token(self, deployment: str, seconds: float) -> None: ...

    def on_complexity(self, route: str, name: str) -> None: ...

    def on_hedge(self, route: str, outcome: str) -> None: ...

    def on_gap(self, deployment: str, seconds: float) -> None: ...

    def on_delta(self, outcome: str) -> None: ...
