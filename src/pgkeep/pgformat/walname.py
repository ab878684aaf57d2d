"""Names of WAL files (src/include/access/xlog_internal.h)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from pgkeep.errors import NotPostgres
from pgkeep.pgformat.lsn import Lsn

_NAME = re.compile(
    r"(?P<tli>[0-9A-F]{8})"
    r"(\.(?P<history>history)"
    r"|(?P<high>[0-9A-F]{8})(?P<low>[0-9A-F]{8})"
    r"(\.(?P<partial>partial)|\.[0-9A-F]{8}\.(?P<backup>backup))?)"
)


class WalKind(StrEnum):
    """The files that PostgreSQL archives."""

    SEGMENT = "segment"
    PARTIAL = "partial"
    HISTORY = "history"
    BACKUP = "backup"


@dataclass(frozen=True, slots=True, order=True)
class SegmentName:
    """A segment: `number` counts segments from LSN 0; their size comes from elsewhere."""

    timeline: int
    number: int

    def name(self, segment_size: int) -> str:
        """24 hexadecimal digits."""
        per_id = (1 << 32) // segment_size
        return f"{self.timeline:08X}{self.number // per_id:08X}{self.number % per_id:08X}"

    def start(self, segment_size: int) -> Lsn:
        """The first byte's LSN."""
        return self.number * segment_size

    def end(self, segment_size: int) -> Lsn:
        """The LSN just after the last byte."""
        return (self.number + 1) * segment_size


@dataclass(frozen=True, slots=True)
class WalFile:
    """What a name says; `segment` is the first 24 digits, None for a history file."""

    kind: WalKind
    timeline: int
    segment: str | None


def classify(name: str) -> WalFile:
    """What the file called `name` is; raises NotPostgres when PostgreSQL archives none such."""
    found = _NAME.fullmatch(name)
    if found is None:
        raise NotPostgres(
            f"{name!r} is not the name of a WAL file",
            hint="PostgreSQL calls them like 000000010000000000000042 or 00000002.history",
        )
    timeline = int(found["tli"], 16)
    if found["history"]:
        return WalFile(WalKind.HISTORY, timeline, None)
    kind = WalKind.SEGMENT
    if found["partial"]:
        kind = WalKind.PARTIAL
    elif found["backup"]:
        kind = WalKind.BACKUP
    return WalFile(kind, timeline, name[:24])


def parse_segment(name: str, segment_size: int) -> SegmentName:
    """The segment of 24 hexadecimal digits; raises NotPostgres."""
    found = classify(name)
    if found.kind is not WalKind.SEGMENT:
        raise NotPostgres(f"{name!r} is not the name of a WAL segment")
    per_id = (1 << 32) // segment_size
    high, low = int(name[8:16], 16), int(name[16:], 16)
    if low >= per_id:
        raise NotPostgres(
            f"{name} can't be a segment of {segment_size >> 20} MiB: its last part is too high"
        )
    return SegmentName(found.timeline, high * per_id + low)


def segment_of(lsn: Lsn, timeline: int, segment_size: int) -> SegmentName:
    """The segment that has the byte at `lsn` (XLByteToSeg)."""
    return SegmentName(timeline, lsn // segment_size)


def last_segment_before(lsn: Lsn, timeline: int, segment_size: int) -> SegmentName:
    """The segment that has the byte before `lsn` (XLByteToPrevSeg)."""
    return SegmentName(timeline, (lsn - 1) // segment_size)


def history_name(timeline: int) -> str:
    """The history file of a timeline."""
    return f"{timeline:08X}.history"
