"""The header of a segment's first page (XLogLongPageHeaderData in xlog_internal.h)."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from pgkeep.errors import NotPostgres
from pgkeep.pgformat.history import Lineage
from pgkeep.pgformat.lsn import Lsn, format_lsn
from pgkeep.pgformat.walname import SegmentName

_LONG = struct.Struct("<HHIQIxxxxQII")
_LONG_HEADER = 0x0002
VERSIONS = {0xD110: 15, 0xD113: 16, 0xD116: 17, 0xD118: 18}
"""XLOG_PAGE_MAGIC by PostgreSQL's major version."""


@dataclass(frozen=True, slots=True)
class WalHeader:
    """`version` is PostgreSQL's major version; sizes in bytes."""

    magic: int
    version: int
    info: int
    timeline: int
    page_address: Lsn
    remaining: int
    system_identifier: int
    segment_size: int
    page_size: int


def parse_segment_header(first_bytes: bytes | memoryview) -> WalHeader:
    """Reads the first 40 bytes of a segment; raises NotPostgres."""
    if len(first_bytes) < _LONG.size:
        raise NotPostgres(f"a WAL segment can't have only {len(first_bytes)} bytes")
    magic, info, timeline, address, remaining, system, segment, page = _LONG.unpack_from(
        first_bytes
    )
    version = VERSIONS.get(magic)
    if version is None:
        raise NotPostgres(
            f"this is not WAL of PostgreSQL 15 to 18: it begins with {magic:#06x}",
            hint="is it a WAL file, and is the server's version supported?",
        )
    sizes_right = 1 << 20 <= segment <= 1 << 30 and segment & (segment - 1) == 0
    if not info & _LONG_HEADER or not sizes_right or address % segment:
        raise NotPostgres("this does not begin as a WAL segment does")
    return WalHeader(magic, version, info, timeline, address, remaining, system, segment, page)


def check_segment(
    name: str,
    segment: SegmentName,
    header: WalHeader,
    *,
    system_identifier: int,
    lineage: Lineage | None = None,
) -> None:
    """Raises NotPostgres unless the segment called `name` can have this header.

    The first pages of a new timeline's first segment carry the parent's timeline, since they were
    copied from it: so it may be lower than the name's, and where `lineage` is known, an ancestor.
    """
    if header.system_identifier != system_identifier:
        raise NotPostgres(
            f"{name} is WAL of another cluster: system identifier {header.system_identifier} "
            f"instead of {system_identifier}",
            hint="look which server calls this archive_command",
        )
    expected = segment.start(header.segment_size)
    if header.page_address != expected:
        raise NotPostgres(
            f"{name} holds WAL from {format_lsn(header.page_address)} instead of "
            f"{format_lsn(expected)}",
            hint="a recycled or renamed segment is not WAL yet; nothing was stored",
        )
    if header.timeline > segment.timeline:
        raise NotPostgres(
            f"{name} holds WAL of timeline {header.timeline}, later than its name says"
        )
    if lineage is not None and not lineage.contains(header.timeline, header.page_address):
        raise NotPostgres(
            f"{name} holds WAL of timeline {header.timeline}, which is no ancestor of its own"
        )
