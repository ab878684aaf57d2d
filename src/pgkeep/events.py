"""What engines say while they work: they emit these and never print."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Event:
    """Anything that an engine says."""


@dataclass(frozen=True, slots=True)
class PhaseStarted(Event):
    """A step begins; totals are None where they are not known beforehand."""

    name: str
    total_bytes: int | None = None
    total_items: int | None = None


@dataclass(frozen=True, slots=True)
class Progress(Event):
    """How far a step is, counted from its start."""

    phase: str
    bytes: int
    items: int = 0


@dataclass(frozen=True, slots=True)
class PhaseEnded(Event):
    """A step is over."""

    name: str
    seconds: float
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class Note(Event):
    """Something worth knowing."""

    text: str


@dataclass(frozen=True, slots=True)
class Caution(Event):
    """Something that is not as it should be, though the work goes on."""

    text: str
    hint: str | None = None


Emit = Callable[[Event], None]


def discard(event: Event) -> None:
    """An `Emit` for callers who do not listen."""
