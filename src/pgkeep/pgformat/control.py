"""pg_control: what a cluster is, and where its recovery would start.

ControlFileData in src/include/catalog/pg_control.h. Versions 15 and 16 share a layout (1300). 17
(1700) put the checkpoint's wal_level into what was padding, 18 (1800) a flag after the checksum
version, which moves only the nonce and the CRC.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from struct import Struct

from pgkeep.errors import NotPostgres
from pgkeep.pgformat.crc32c import crc32c
from pgkeep.pgformat.lsn import Lsn

CONTROL_FILE = "global/pg_control"

_VERSION = Struct("<8xII")
_STATE = Struct("<Q8xI4xq")
_CHECKPOINT = Struct("<QQIIB7xQ")
_RECOVERY = Struct("<QI4xQQB3x")
_SETTINGS = Struct("<iB3xiiiiiB3x")
_SIZES = Struct("<IIII")
_CHECKSUMS = Struct("<I")

_CHECKPOINT_AT, _CHECKPOINT_TIME_AT = 32, 104
_RECOVERY_AT, _SETTINGS_AT, _SIZES_AT, _CHECKSUMS_AT = 136, 172, 216, 252
_TIME = Struct("<q")

_CRC_AT = {1300: 288, 1700: 288, 1800: 292}
_MAJORS = {202209061: 15, 202307071: 16, 202406281: 17, 202506291: 18}

Data = bytes | bytearray | memoryview


class ClusterState(IntEnum):
    """DBState: what the server was doing when it last wrote the file."""

    STARTUP = 0
    SHUT_DOWN = 1
    SHUT_DOWN_IN_RECOVERY = 2
    SHUTTING_DOWN = 3
    IN_CRASH_RECOVERY = 4
    IN_ARCHIVE_RECOVERY = 5
    IN_PRODUCTION = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlFile:
    """What pg_control says.

    `major` is PostgreSQL's major version, None if no release has that catalog version. Positions
    that do not apply are 0. Times are seconds since 1970; sizes are bytes, `relseg_size` is in
    blocks. `data_checksum_version` 0 means no page checksums.
    """

    system_identifier: int
    control_version: int
    catalog_version: int
    major: int | None
    state: ClusterState
    time: int
    checkpoint_lsn: Lsn
    redo_lsn: Lsn
    timeline: int
    prev_timeline: int
    full_page_writes: bool
    next_xid: int
    checkpoint_time: int
    min_recovery_lsn: Lsn
    min_recovery_timeline: int
    backup_start_lsn: Lsn
    backup_end_lsn: Lsn
    backup_end_required: bool
    wal_level: int
    wal_log_hints: bool
    max_connections: int
    max_worker_processes: int
    max_wal_senders: int
    max_prepared_xacts: int
    max_locks_per_xact: int
    track_commit_timestamp: bool
    block_size: int
    relseg_size: int
    xlog_block_size: int
    segment_size: int
    data_checksum_version: int


def parse_control(data: Data) -> ControlFile:
    """From the bytes of global/pg_control.

    Raises NotPostgres if it is of another version than 15 to 18, cut off, or its CRC is wrong. The
    server writes it without a lock for readers, so a wrong CRC may be a torn read: read it again.
    """
    control_version, catalog_version = _checked_versions(data)
    system_identifier, state, time = _STATE.unpack_from(data)
    checkpoint, redo, timeline, previous, full_page_writes, next_xid = _CHECKPOINT.unpack_from(
        data, _CHECKPOINT_AT
    )
    minimum, minimum_timeline, start, end, end_required = _RECOVERY.unpack_from(data, _RECOVERY_AT)
    settings = _SETTINGS.unpack_from(data, _SETTINGS_AT)
    wal_level, hints, connections, workers, senders, prepared, locks, commit_times = settings
    block_size, relseg_size, xlog_block_size, segment_size = _SIZES.unpack_from(data, _SIZES_AT)
    return ControlFile(
        system_identifier=system_identifier,
        control_version=control_version,
        catalog_version=catalog_version,
        major=_MAJORS.get(catalog_version),
        state=ClusterState(state),
        time=time,
        checkpoint_lsn=checkpoint,
        redo_lsn=redo,
        timeline=timeline,
        prev_timeline=previous,
        full_page_writes=bool(full_page_writes),
        next_xid=next_xid,
        checkpoint_time=_TIME.unpack_from(data, _CHECKPOINT_TIME_AT)[0],
        min_recovery_lsn=minimum,
        min_recovery_timeline=minimum_timeline,
        backup_start_lsn=start,
        backup_end_lsn=end,
        backup_end_required=bool(end_required),
        wal_level=wal_level,
        wal_log_hints=bool(hints),
        max_connections=connections,
        max_worker_processes=workers,
        max_wal_senders=senders,
        max_prepared_xacts=prepared,
        max_locks_per_xact=locks,
        track_commit_timestamp=bool(commit_times),
        block_size=block_size,
        relseg_size=relseg_size,
        xlog_block_size=xlog_block_size,
        segment_size=segment_size,
        data_checksum_version=_CHECKSUMS.unpack_from(data, _CHECKSUMS_AT)[0],
    )


def _checked_versions(data: Data) -> tuple[int, int]:
    if len(data) < _VERSION.size:
        raise NotPostgres(f"pg_control has only {len(data)} bytes")
    control_version, catalog_version = _VERSION.unpack_from(data)
    crc_at = _CRC_AT.get(control_version)
    if crc_at is None:
        raise _unknown_version(control_version)
    if len(data) < crc_at + 4:
        raise NotPostgres(f"pg_control was cut off after {len(data)} bytes")
    stored = int.from_bytes(data[crc_at : crc_at + 4], "little")
    if crc32c(bytes(data[:crc_at])) != stored:
        raise NotPostgres(
            "the CRC of pg_control is wrong",
            hint="it is damaged, or was read while the server wrote it: read it again",
        )
    return control_version, catalog_version


def _unknown_version(control_version: int) -> NotPostgres:
    swapped = int.from_bytes(control_version.to_bytes(4, "little"), "big")
    if swapped in _CRC_AT:
        return NotPostgres(
            "this pg_control was written on a big-endian machine, which is not supported"
        )
    return NotPostgres(
        f"this is not the pg_control of PostgreSQL 15 to 18 (its version is {control_version})"
    )
