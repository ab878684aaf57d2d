"""The header at the beginning of every WAL segment: whose it is, and which.

XLogLongPageHeaderData in src/include/access/xlog_internal.h; the checks are those of
XLogReaderValidatePageHeader() in src/backend/access/transam/xlogreader.c.
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct

from pgkeep.errors import NotPostgres, WrongCluster
from pgkeep.pgformat.history import Lineage
from pgkeep.pgformat.lsn import Lsn, format_lsn
from pgkeep.pgformat.walname import classify, parse_segment, valid_segment_size

LONG_HEADER_SIZE = 40

_HEADER = Struct("<HHIQI4xQII")
_VERSIONS = {0xD110: 15, 0xD113: 16, 0xD116: 17, 0xD118: 18}
_CONTRECORD, _LONG_HEADER, _ALL_FLAGS = 1, 2, 15

Data = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True)
class WalHeader:
    """A segment's first header. `version` is PostgreSQL's major version; sizes are in bytes.

    `remaining` is how much of a record that began in the segment before is still to come.
    """

    magic: int
    version: int
    info: int
    timeline: int
    page_address: Lsn
    remaining: int
    system_identifier: int
    segment_size: int
    page_size: int

    @property
    def continues_record(self) -> bool:
        """Whether the segment begins in the middle of a record."""
        return bool(self.info & _CONTRECORD)


def parse_segment_header(data: Data) -> WalHeader:
    """From the first bytes of a segment (LONG_HEADER_SIZE are enough).

    Raises NotPostgres unless they begin a segment of PostgreSQL 15 to 18.
    """
    if len(data) < LONG_HEADER_SIZE:
        raise NotPostgres(f"{len(data)} bytes are too few for a WAL segment: it was cut off")
    magic, info, timeline, address, remaining, system, segment_size, page_size = (
        _HEADER.unpack_from(data)
    )
    version = _VERSIONS.get(magic)
    if version is None:
        raise _unknown_magic(magic)
    header = WalHeader(
        magic, version, info, timeline, address, remaining, system, segment_size, page_size
    )
    _check_shape(header)
    return header


def _unknown_magic(magic: int) -> NotPostgres:
    if magic == 0:
        return NotPostgres(
            "this is not a WAL segment: it begins with zeros",
            hint="a segment that was allocated but never written begins so",
        )
    swapped = (magic & 0xFF) << 8 | magic >> 8
    if swapped in _VERSIONS:
        return NotPostgres("this WAL was written on a big-endian machine, which is not supported")
    return NotPostgres(
        f"this is not a WAL segment of PostgreSQL 15 to 18: it begins with {magic:#06x}"
    )


def _check_shape(header: WalHeader) -> None:
    if not header.info & _LONG_HEADER or header.info & ~_ALL_FLAGS:
        raise NotPostgres(f"a WAL segment can't begin with a page with flags {header.info:#06x}")
    if not valid_segment_size(header.segment_size):
        raise NotPostgres(f"the WAL header names an impossible segment size {header.segment_size}")
    if header.page_address % header.segment_size or not header.page_address:
        raise NotPostgres(
            f"the WAL page of {format_lsn(header.page_address)} is not the first of a segment"
        )
    if not header.timeline:
        raise NotPostgres("the WAL header names timeline 0, which does not exist")


def check_segment(
    name: str,
    segment_size: int,
    data: Data,
    system_identifier: int,
    history: Lineage | None = None,
    *,
    size: int | None = None,
) -> WalHeader:
    """Proves that `data` (all of it, or its beginning) is the segment that `name` says.

    `size` is the whole file's, if `data` is only its beginning: a complete segment has exactly
    `segment_size`. `history` is the lineage of the name's timeline; without it any timeline up to
    that one passes.

    Raises NotPostgres, or WrongCluster if it is the WAL of another cluster.
    """
    wal_file = classify(name)
    if wal_file.segment is None:
        raise NotPostgres(f"{name} is a history file, not a WAL segment")
    segment = parse_segment(wal_file.segment, segment_size)
    actual_size = len(data) if size is None else size
    if actual_size != segment_size:
        raise NotPostgres(f"{name} has {actual_size} bytes instead of {segment_size}")
    header = parse_segment_header(data)
    _check_owner(name, header, segment_size, system_identifier)
    if header.page_address != segment.start(segment_size):
        raise NotPostgres(
            f"{name} contains the WAL of {format_lsn(header.page_address)} instead of "
            f"{format_lsn(segment.start(segment_size))}",
            hint="it was recycled or copied under a wrong name",
        )
    _check_timeline(name, header, segment.timeline, history)
    return header


def _check_owner(name: str, header: WalHeader, segment_size: int, system_identifier: int) -> None:
    if header.system_identifier != system_identifier:
        raise WrongCluster(
            f"{name} belongs to the cluster with system identifier {header.system_identifier}, "
            f"not to {system_identifier}",
            hint="does this archive_command name another cluster than the server's?",
        )
    if header.segment_size != segment_size:
        raise NotPostgres(
            f"{name} says that segments have {header.segment_size} bytes, not {segment_size}"
        )


def _check_timeline(name: str, header: WalHeader, timeline: int, history: Lineage | None) -> None:
    """A new timeline's first segment begins with a copy of its parent's pages and their number."""
    if header.timeline > timeline:
        raise NotPostgres(f"{name} contains WAL of the later timeline {header.timeline}")
    if history is None or header.timeline == history.timeline_at(header.page_address):
        return
    raise NotPostgres(
        f"{name} begins with WAL of timeline {header.timeline}, which the history of timeline "
        f"{timeline} does not have at {format_lsn(header.page_address)}",
        hint="two servers went different ways: see which of them archives here",
    )
