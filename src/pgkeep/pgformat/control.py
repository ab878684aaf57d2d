"""The control file, global/pg_control (src/include/catalog/pg_control.h of PostgreSQL 15 to 18).

The layout up to the checksum version is the same in all four; 18 has one more byte before the
nonce, so that the CRC moves.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

from pgkeep.errors import NotPostgres
from pgkeep.pgformat.crc32c import crc32c
from pgkeep.pgformat.lsn import Lsn

_CRC_AT = {1300: 288, 1800: 292}
_HEAD = struct.Struct("<QIIi4xqQ")
_CHECKPOINT_AT = 40
_CHECKPOINT = struct.Struct("<QII")
_RECOVERY_AT = 136
_RECOVERY = struct.Struct("<QI4xQQ?3xi?3xiiiii?")
_WAL_SIZES_AT = 216
_WAL_SIZES = struct.Struct("<IIII")
_CHECKSUM_AT = 252


class DbState(IntEnum):
    """DBState."""

    STARTUP = 0
    SHUTDOWNED = 1
    SHUTDOWNED_IN_RECOVERY = 2
    SHUTDOWNING = 3
    IN_CRASH_RECOVERY = 4
    IN_ARCHIVE_RECOVERY = 5
    IN_PRODUCTION = 6


@dataclass(frozen=True, slots=True)
class ControlFile:
    """What of the control file matters here; sizes in bytes but `relseg_size`, in blocks."""

    system_identifier: int
    control_version: int
    catalog_version: int
    state: DbState
    time: int
    checkpoint_lsn: Lsn
    redo_lsn: Lsn
    timeline: int
    previous_timeline: int
    min_recovery_point: Lsn
    min_recovery_timeline: int
    backup_start_lsn: Lsn
    backup_end_lsn: Lsn
    backup_end_required: bool
    wal_level: int
    max_connections: int
    max_worker_processes: int
    max_wal_senders: int
    max_prepared_xacts: int
    max_locks_per_xact: int
    track_commit_timestamp: bool
    block_size: int
    relseg_size: int
    wal_block_size: int
    segment_size: int
    data_checksum_version: int


def parse_control(content: bytes) -> ControlFile:
    """Reads it; raises NotPostgres when it is torn, damaged or of an unknown version."""
    if len(content) < max(_CRC_AT.values()) + 4:
        raise NotPostgres(f"a control file can't have only {len(content)} bytes")
    system, version, catalog, state, time, checkpoint = _HEAD.unpack_from(content)
    crc_at = _CRC_AT.get(version)
    if crc_at is None:
        raise NotPostgres(f"a control file of version {version} is none of PostgreSQL 15 to 18")
    (stored,) = struct.unpack_from("<I", content, crc_at)
    if crc32c(content[:crc_at]) != stored:
        raise NotPostgres("the control file fails its checksum: it was torn or damaged")
    redo, timeline, previous = _CHECKPOINT.unpack_from(content, _CHECKPOINT_AT)
    (
        min_point,
        min_timeline,
        backup_start,
        backup_end,
        end_required,
        wal_level,
        _hints,
        connections,
        workers,
        senders,
        prepared,
        locks,
        timestamps,
    ) = _RECOVERY.unpack_from(content, _RECOVERY_AT)
    block, relseg, wal_block, segment = _WAL_SIZES.unpack_from(content, _WAL_SIZES_AT)
    (checksums,) = struct.unpack_from("<I", content, _CHECKSUM_AT)
    return ControlFile(
        system,
        version,
        catalog,
        DbState(state),
        time,
        checkpoint,
        redo,
        timeline,
        previous,
        min_point,
        min_timeline,
        backup_start,
        backup_end,
        end_required,
        wal_level,
        connections,
        workers,
        senders,
        prepared,
        locks,
        timestamps,
        block,
        relseg,
        wal_block,
        segment,
        checksums,
    )
