"""Names of the files in pg_wal and of what is archived (src/include/access/xlog_internal.h)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

from pgkeep.errors import NotPostgres
from pgkeep.pgformat.lsn import Lsn

SMALLEST_SEGMENT = 1 << 20
LARGEST_SEGMENT = 1 << 30

_SEGMENT = re.compile(r"([0-9A-F]{8})([0-9A-F]{8})([0-9A-F]{8})")
# The server's own test for .backup takes anything between the segment and the suffix; what it
# writes there is always the offset, and only that makes a name safe to use as a path.
_ARCHIVED = re.compile(
    r"(?P<timeline>[0-9A-F]{8})"
    r"(?:(?P<history>\.history)|[0-9A-F]{16}(?P<rest>\.partial|\.[0-9A-F]{8}\.backup)?)"
)


class WalKind(Enum):
    """What a name says that a file is."""

    SEGMENT = "segment"
    PARTIAL = "partial"
    HISTORY = "history"
    BACKUP = "backup"


@dataclass(frozen=True, slots=True)
class WalFile:
    """A classified name. `segment` is the segment's 24 digits, None for a history file."""

    kind: WalKind
    timeline: int
    segment: str | None


@dataclass(frozen=True, slots=True, order=True)
class SegmentName:
    """A WAL segment: `number` counts segments from LSN 0. Sizes are in bytes."""

    timeline: int
    number: int

    def name(self, segment_size: int) -> str:
        """The file's name: 24 hexadecimal digits."""
        high, low = divmod(self.number, _segments_per_id(segment_size))
        return f"{self.timeline:08X}{high:08X}{low:08X}"

    def start(self, segment_size: int) -> Lsn:
        """The position of its first byte."""
        return self.number * segment_size

    def end(self, segment_size: int) -> Lsn:
        """The position just after its last byte."""
        return (self.number + 1) * segment_size


def classify(name: str) -> WalFile:
    """What kind of archived file has this name.

    Raises NotPostgres if PostgreSQL archives nothing of that name.
    """
    match = _ARCHIVED.fullmatch(name)
    if match is None or (timeline := int(match["timeline"], 16)) == 0:
        raise NotPostgres(
            f"{name!r} is not the name of a WAL segment, history or backup history file",
            hint="archive_command passes such a name as %f, restore_command too",
        )
    if match["history"]:
        return WalFile(WalKind.HISTORY, timeline, None)
    return WalFile(_kind(match["rest"]), timeline, name[:24])


def _kind(rest: str | None) -> WalKind:
    if rest is None:
        return WalKind.SEGMENT
    return WalKind.PARTIAL if rest == ".partial" else WalKind.BACKUP


def parse_segment(name: str, segment_size: int) -> SegmentName:
    """From a complete segment's 24 digits.

    Raises NotPostgres if they are not that, or not possible with segments of `segment_size`.
    """
    match = _SEGMENT.fullmatch(name)
    if match is None:
        raise NotPostgres(f"{name!r} is not the name of a WAL segment")
    timeline, high, low = (int(part, 16) for part in match.groups())
    per_id = _segments_per_id(segment_size)
    if low >= per_id or timeline == 0:
        raise NotPostgres(
            f"{name} can't be the name of a WAL segment of {segment_size >> 20} MiB",
            hint="the segment size is in pg_control: was it read from the same cluster?",
        )
    return SegmentName(timeline, high * per_id + low)


def segment_of(lsn: Lsn, timeline: int, segment_size: int) -> SegmentName:
    """The segment that contains the byte at `lsn`."""
    return SegmentName(timeline, lsn // segment_size)


def last_segment_before(lsn: Lsn, timeline: int, segment_size: int) -> SegmentName:
    """The segment that contains the byte before `lsn`: the last one needed to reach it."""
    if lsn <= 0:
        raise ValueError("nothing comes before LSN 0/0")
    return SegmentName(timeline, (lsn - 1) // segment_size)


def history_name(timeline: int) -> str:
    """The name of a timeline's history file; timeline 1 never has one."""
    return f"{timeline:08X}.history"


def valid_segment_size(size: int) -> bool:
    """Whether initdb could have made WAL segments of `size` bytes."""
    return SMALLEST_SEGMENT <= size <= LARGEST_SEGMENT and size & (size - 1) == 0


def _segments_per_id(segment_size: int) -> int:
    if not valid_segment_size(segment_size):
        raise NotPostgres(f"{segment_size} bytes is not a size that WAL segments can have")
    return (1 << 32) // segment_size
