"""What is told of a run, in plain values, and the port that takes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, Protocol
from uuid import UUID

# As OpenLineage has them: a run has one START and one of COMPLETE, ABORT and FAIL.
Phase = Literal["START", "RUNNING", "COMPLETE", "ABORT", "FAIL"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A field of a record."""

    name: str
    type: str
    doc: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contract:
    """The record type of a topic, as it is today: its full name and its id in the schema registry."""

    name: str
    schema_id: int | None = None
    columns: tuple[Column, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """A topic, or a folder of files. ``stretches``: by partition, the first and one past the last offset.

    ``records`` and ``size_bytes`` are of what was read or written; ``None``: not known.
    """

    namespace: str
    name: str
    stretches: Mapping[int, tuple[int, int]] = field(default_factory=dict)
    contract: Contract | None = None
    records: int | None = None
    size_bytes: int | None = None
    files: int | None = None
    # A digest that names the content, wherever it lies.
    digest: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Happening:
    """One step in the life of a run.

    ``parameters`` are what was asked for; ``facts`` are plain JSON, told under ``headrace_<family>``. Neither may
    hold a secret, a text or personal data.
    """

    phase: Phase
    at: datetime
    run_id: UUID
    job: str
    family: str
    description: str = ""
    inputs: tuple[Dataset, ...] = ()
    outputs: tuple[Dataset, ...] = ()
    parameters: Mapping[str, str] = field(default_factory=dict)
    since: datetime | None = None
    until: datetime | None = None
    error: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Sums:
    """What became of the events: taken by the catalogue, or lost, and the first reason."""

    taken: int = 0
    lost: int = 0
    reason: str = ""


class Lineage(Protocol):
    """Takes events. Never raises, and never makes its caller wait."""

    @property
    def on(self) -> bool:
        """Whether anything is told: where nothing is, nothing has to be gathered."""
        ...

    def tell(self, happening: Happening) -> None:
        """Take an event; it is sent in the background, in order."""
        ...

    def miss(self, reason: str) -> None:
        """An event that could not be made."""
        ...

    def close(self) -> Sums:
        """Wait for what is not sent yet, for so long as the settings say. Blocks."""
        ...


class NoLineage:
    """Nothing is told."""

    on = False

    def tell(self, happening: Happening) -> None:
        """Do nothing."""

    def miss(self, reason: str) -> None:
        """Do nothing."""

    def close(self) -> Sums:
        return Sums()


class FakeLineage:
    """Keeps what it is told."""

    on = True

    def __init__(self) -> None:
        self.told: list[Happening] = []
        self.missed: list[str] = []

    def tell(self, happening: Happening) -> None:
        self.told.append(happening)

    def miss(self, reason: str) -> None:
        self.missed.append(reason)

    def close(self) -> Sums:
        return Sums(len(self.told), len(self.missed), self.missed[0] if self.missed else "")
