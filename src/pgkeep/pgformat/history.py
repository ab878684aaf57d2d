"""Timeline histories (src/backend/access/transam/timeline.c)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pgkeep.errors import NotPostgres
from pgkeep.pgformat.lsn import Lsn, format_lsn, parse_lsn


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """An ancestor: it was followed up to `switch_lsn`."""

    timeline: int
    switch_lsn: Lsn
    reason: str


def parse_history(content: bytes) -> tuple[HistoryEntry, ...]:
    """The ancestors in a history file, oldest first; raises NotPostgres."""
    entries: list[HistoryEntry] = []
    for line in content.decode("utf-8", "replace").splitlines():
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        parts = text.split(None, 2)
        if len(parts) < 2 or not parts[0].isdigit():
            raise NotPostgres(f"a timeline history has a line that is none: {text!r}")
        entry = HistoryEntry(int(parts[0]), parse_lsn(parts[1]), parts[2] if len(parts) > 2 else "")
        if entries and entry.timeline <= entries[-1].timeline:
            raise NotPostgres("the timelines of a history do not rise")
        entries.append(entry)
    return tuple(entries)


def format_history(entries: Sequence[HistoryEntry]) -> bytes:
    """A history file with these ancestors."""
    lines = (f"{e.timeline}\t{format_lsn(e.switch_lsn)}\t{e.reason}\n" for e in entries)
    return "".join(lines).encode()


@dataclass(frozen=True, slots=True)
class Lineage:
    """One timeline and its ancestors, oldest first."""

    timeline: int
    ancestors: tuple[HistoryEntry, ...] = ()

    def switch_point(self, timeline: int) -> Lsn | None:
        """Where an ancestor was left; None for the timeline itself and for strangers."""
        for entry in self.ancestors:
            if entry.timeline == timeline:
                return entry.switch_lsn
        return None

    def timeline_at(self, lsn: Lsn) -> int:
        """The timeline whose WAL has the byte at `lsn` (tliOfPointInHistory)."""
        for entry in self.ancestors:
            if lsn < entry.switch_lsn:
                return entry.timeline
        return self.timeline

    def contains(self, timeline: int, lsn: Lsn) -> bool:
        """Whether the history of `timeline` up to `lsn` is a part of this one."""
        if timeline == self.timeline:
            return True
        switch = self.switch_point(timeline)
        return switch is not None and lsn <= switch
