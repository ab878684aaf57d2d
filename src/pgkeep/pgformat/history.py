"""Timeline history files, and the ancestry that they describe.

The format, and which timeline a position lies on, are those of
src/backend/access/transam/timeline.c.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass

from pgkeep.errors import NotPostgres
from pgkeep.pgformat.lsn import Lsn, format_lsn

_LINE = re.compile(r"\s*(\d+)\s+([0-9A-Fa-f]{1,8})/([0-9A-Fa-f]{1,8})(?:\s+(.*?))?\s*", re.ASCII)


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """`timeline` was left at `switch_lsn`, for `reason` (the server's free text)."""

    timeline: int
    switch_lsn: Lsn
    reason: str


def parse_history(data: bytes) -> tuple[HistoryEntry, ...]:
    """The ancestors that a .history file names, oldest first.

    Raises NotPostgres for a line that the server would not take either.
    """
    entries: list[HistoryEntry] = []
    for line in data.decode("utf-8", "surrogateescape").split("\n"):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        entry = _parse_line(line)
        if entries and entry.timeline <= entries[-1].timeline:
            raise NotPostgres(f"a timeline history does not go upwards: {line!r}")
        entries.append(entry)
    return tuple(entries)


def _parse_line(line: str) -> HistoryEntry:
    match = _LINE.fullmatch(line)
    if match is None:
        raise NotPostgres(f"not a line of a timeline history: {line!r}")
    switch = int(match[2], 16) << 32 | int(match[3], 16)
    return HistoryEntry(int(match[1]), switch, match[4] or "")


def format_history(entries: Iterable[HistoryEntry]) -> bytes:
    """A .history file, byte for byte as the server writes it (an empty line between entries)."""
    lines = (f"{e.timeline}\t{format_lsn(e.switch_lsn)}\t{e.reason}\n" for e in entries)
    return "\n".join(lines).encode("utf-8", "surrogateescape")


class Lineage:
    """The ancestry of one timeline: which timeline each byte of its WAL was written on.

    `entries` are its history file's; a timeline without such a file has no ancestors. Raises
    NotPostgres if they can't be the ancestors of `timeline`.
    """

    def __init__(self, timeline: int, entries: Iterable[HistoryEntry] = ()) -> None:
        self.timeline = timeline
        self.entries = tuple(entries)
        self.timelines = (*(entry.timeline for entry in self.entries), timeline)
        self._switches = [entry.switch_lsn for entry in self.entries]
        for parent, child in zip(self.timelines, self.timelines[1:], strict=False):
            if parent >= child:
                raise NotPostgres(f"timeline {parent} can't be an ancestor of timeline {child}")
        if self._switches != sorted(self._switches):
            raise NotPostgres(f"the history of timeline {timeline} goes back in the WAL")

    def __contains__(self, timeline: int) -> bool:
        return timeline in self.timelines

    def switch_point(self, timeline: int) -> Lsn | None:
        """Where this history left `timeline`; None for the newest, which it has not left.

        Raises KeyError if `timeline` is not in this history (ask `in` first).
        """
        if timeline == self.timeline:
            return None
        for entry in self.entries:
            if entry.timeline == timeline:
                return entry.switch_lsn
        raise KeyError(timeline)

    def timeline_at(self, lsn: Lsn) -> int:
        """The timeline that the byte at `lsn` was written on."""
        return self.timelines[bisect_right(self._switches, lsn)]

    def contains(self, timeline: int, lsn: Lsn) -> bool:
        """Whether the byte that `timeline` has at `lsn` is part of this history."""
        return self.timeline_at(lsn) == timeline
