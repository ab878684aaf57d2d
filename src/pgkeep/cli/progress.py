"""Shows what engines say while they work: bars on a terminal, plain lines elsewhere.

Everything goes to standard error; with `--json` and `--quiet` only cautions are shown.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from pgkeep.cli.common import Common
from pgkeep.events import Caution, Emit, Event, Note, PhaseEnded, PhaseStarted, Progress

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

PLAIN_INTERVAL = 10.0


@contextmanager
def narrator(common: Common) -> Iterator[Emit]:
    """The `Emit` for one command, chosen by the options and by where standard error goes."""
    if common.json or common.quiet:
        yield _cautions
    elif sys.stderr.isatty():
        with bars() as emit:
            yield emit
    else:
        yield Lines(sys.stderr)


def _cautions(event: Event) -> None:
    if isinstance(event, Caution):
        sys.stderr.write(caution_text(event) + "\n")


def caution_text(event: Caution) -> str:
    """A caution as people read it, the hint on a line of its own."""
    text = f"warning: {event.text}"
    return f"{text}\nhint: {event.hint}" if event.hint else text


def size_text(count: float) -> str:
    """Bytes in the unit that reads best: `12 B`, `3.4 MiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def seconds_text(seconds: float) -> str:
    """A duration: `0.4 s`, `12 s`, `3 min 20 s`, `2 h 5 min`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


class Lines:
    """Plain lines: one when a phase starts or ends, one every ten seconds between."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._totals: dict[str, int | None] = {}
        self._since: dict[str, float] = {}
        self._last = 0.0

    def __call__(self, event: Event) -> None:
        match event:
            case PhaseStarted():
                self._totals[event.name] = event.total_bytes
                self._since[event.name] = self._last = time.monotonic()
                total = f" ({size_text(event.total_bytes)})" if event.total_bytes else ""
                self._say(f"{event.name}{total} ...")
            case Progress():
                self._progress(event)
            case PhaseEnded():
                amount = f", {size_text(event.bytes)}" if event.bytes else ""
                self._say(f"{event.name}: done in {seconds_text(event.seconds)}{amount}")
            case Note():
                self._say(event.text)
            case Caution():
                self._say(caution_text(event))

    def _progress(self, event: Progress) -> None:
        now = time.monotonic()
        if now - self._last < PLAIN_INTERVAL:
            return
        self._last = now
        elapsed = max(now - self._since.get(event.phase, now), 0.001)
        total = self._totals.get(event.phase)
        rate = event.bytes / elapsed
        text = f"{event.phase}: {size_text(event.bytes)}"
        if total:
            text += f" of {size_text(total)} ({min(100, 100 * event.bytes // total)} %)"
        text += f", {size_text(rate)}/s"
        if total and rate and total > event.bytes:
            text += f", {seconds_text((total - event.bytes) / rate)} left"
        self._say(text)

    def _say(self, text: str) -> None:
        self._stream.write(text + "\n")
        self._stream.flush()


class _Bars:
    """Rich bars with rate and time left."""

    def __init__(self, progress: Bars) -> None:
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, event: Event) -> None:
        match event:
            case PhaseStarted():
                self._tasks[event.name] = self._progress.add_task(
                    event.name, total=event.total_bytes
                )
            case Progress() if event.phase in self._tasks:
                self._progress.update(self._tasks[event.phase], completed=event.bytes)
            case PhaseEnded() if event.name in self._tasks:
                task = self._tasks.pop(event.name)
                total = event.bytes or 1
                self._progress.update(task, total=total, completed=total)
                self._progress.stop_task(task)
            case Note():
                self._progress.console.print(event.text, markup=False, highlight=False)
            case Caution():
                self._progress.console.print(
                    caution_text(event), style="yellow", markup=False, highlight=False
                )
            case _:
                pass


@contextmanager
def bars(console: object | None = None) -> Iterator[Emit]:
    """Rich bars on standard error, or on the given rich Console."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )
    from rich.progress import Progress as Bars

    target = console if isinstance(console, Console) else Console(stderr=True)
    with Bars(
        TextColumn("{task.description:<24}"),
        BarColumn(bar_width=30),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=target,
    ) as progress:
        yield _Bars(progress)
