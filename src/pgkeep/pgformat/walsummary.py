"""What one WAL segment offers to somebody who looks for a recovery target.

The rules that it serves are recoveryStopsBefore() and recoveryStopsAfter() in
src/backend/access/transam/xlogrecovery.c: a time stops recovery at a commit or abort with a
later time (or the same one, if exclusive), an LSN at a record that begins there or later, an
xid at the end of exactly that transaction (not of a subtransaction), a name at the first
restore point of that name. Prepared transactions end with COMMIT PREPARED and ROLLBACK
PREPARED, whose records carry the xid inside.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from struct import Struct, error
from typing import Any, NamedTuple

from pgkeep.errors import FormatError
from pgkeep.pgformat.walbody import Record, checksums_are_right
from pgkeep.pgformat.walrecord import (
    MAGIC_18,
    RM_TBLSPC,
    RM_XACT,
    RM_XLOG,
    XLOG_RESTORE_POINT,
    Data,
    Walker,
    walk,
)

_COMMIT, _ABORT, _COMMIT_PREPARED, _ABORT_PREPARED = 0x00, 0x20, 0x30, 0x40
_XACT_OPERATION, _XACT_HAS_INFO = 0x70, 0x80
_TABLESPACE_CREATE = 0x00

TRANSACTION_ENDS = tuple(
    (RM_XACT, operation | has_info)
    for operation in (_COMMIT, _ABORT, _COMMIT_PREPARED, _ABORT_PREPARED)
    for has_info in (0, _XACT_HAS_INFO)
)
"""The records of commits and aborts, for walk(only=...)."""

RESTORE_POINTS = ((RM_XLOG, XLOG_RESTORE_POINT),)
TABLESPACES_CREATED = ((RM_TBLSPC, _TABLESPACE_CREATE),)
_KINDS = TRANSACTION_ENDS + RESTORE_POINTS + TABLESPACES_CREATED
_BATCH = 4096

# xl_xact_xinfo in src/include/access/xact.h: which chunks precede the prepared xid.
_HAS_DATABASE, _HAS_TWOPHASE = 1 << 0, 1 << 4
_HAS_SUBTRANSACTIONS, _HAS_RELATIONS, _HAS_DROPPED_STATS, _HAS_INVALIDATIONS = 2, 4, 256, 8

_TIME = Struct("<q")
_UINT32 = Struct("<I")


class TransactionEnd(NamedTuple):
    """time: microseconds since 2000-01-01 UTC."""

    lsn: int
    xid: int
    time: int
    committed: bool


@dataclass(frozen=True, slots=True)
class RestorePoint:
    """time: microseconds since 2000-01-01 UTC. A name in another encoding than UTF-8 has
    surrogate escapes."""

    lsn: int
    end_lsn: int
    time: int
    name: str


@dataclass(frozen=True, slots=True)
class TablespaceCreated:
    """path: absolute, or empty for a tablespace inside the data directory; with surrogate
    escapes when it isn't UTF-8."""

    lsn: int
    oid: int
    path: str


@dataclass(frozen=True, slots=True)
class WalSummary:
    """Only complete records count; one that begins in this segment and ends in the next is
    `unfinished` here and in neither summary: walk() over both segments finds it.

    records             how many records begin and are complete here
    first_record        lsn of the first of them
    last_record         lsn of the last of them
    end_of_records      lsn after the last complete record, aligned to 8; where the segment
                        begins when no record ends in it
    switched            the last record is XLOG_SWITCH: WAL goes on with the next segment
    unfinished          lsn of a record that begins here, and runs on into the next segment or
                        into the zeros that fill up a tail
    first_commit_time   earliest and latest time of a commit or abort, in microseconds since
    last_commit_time    2000-01-01 UTC; times don't always rise along the WAL
    first_xid           lowest and highest xid that committed or aborted, in PostgreSQL's
    last_xid            circular order; see may_end()
    unfinished_xid      the xid in the header of the unfinished record, if that may be a commit or
                        abort; 0 if it may be the end of a prepared transaction
    stopped             what is wrong where the valid WAL ends before the segment does; None
                        after a switch and when only zeros follow
    """

    records: int
    first_record: int | None
    last_record: int | None
    end_of_records: int
    switched: bool
    unfinished: int | None
    first_commit_time: int | None
    last_commit_time: int | None
    first_xid: int | None
    last_xid: int | None
    restore_points: tuple[RestorePoint, ...]
    tablespaces: tuple[TablespaceCreated, ...]
    unfinished_xid: int | None = None
    stopped: str | None = None

    def may_end(self, xid: int) -> bool:
        """False when the transaction certainly doesn't end in a record that begins here."""
        if self.unfinished_xid in (xid, 0):
            return True
        if self.first_xid is None or self.last_xid is None:
            return False
        return not _precedes(xid, self.first_xid) and not _precedes(self.last_xid, xid)

    def to_json(self) -> dict[str, Any]:
        value = asdict(self)
        value["restore_points"] = [_text_to_json(asdict(p), "name") for p in self.restore_points]
        value["tablespaces"] = [_text_to_json(asdict(t), "path") for t in self.tablespaces]
        return value

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> WalSummary:
        """The inverse of to_json(). Raises FormatError when a field is missing or unknown."""
        try:
            fields = dict(value)
            fields["restore_points"] = tuple(
                RestorePoint(**_text_from_json(p, "name")) for p in value["restore_points"]
            )
            fields["tablespaces"] = tuple(
                TablespaceCreated(**_text_from_json(t, "path")) for t in value["tablespaces"]
            )
            return cls(**fields)
        except (KeyError, TypeError, ValueError) as problem:
            raise FormatError(f"not a WAL summary: {problem}") from problem


def summarize(segment: Data, start_lsn: int) -> WalSummary:
    """Summarizes a whole segment, or a tail: short, or filled up with zeros.

    Raises NotPostgres when it does not begin with a WAL page of `start_lsn`.
    """
    try:
        return _summarize(segment, start_lsn, in_batches=True)
    except _WrongInBatch:
        # Only record by record is it known where the WAL ends; in batches it is much quicker.
        return _summarize(segment, start_lsn, in_batches=False)


class _WrongInBatch(Exception):
    pass


def _summarize(segment: Data, start_lsn: int, *, in_batches: bool) -> WalSummary:
    findings = _Findings()
    walker = Walker(_KINDS, checksums=not in_batches)
    records = walker.feed(segment, start_lsn)
    while batch := list(islice(records, _BATCH)):
        if in_batches and not checksums_are_right(batch):
            raise _WrongInBatch
        for record in batch:
            findings.add(record)
    return findings.summary(walker)


def transaction_ends(data: Data | Iterable[Data], start_lsn: int) -> Iterator[TransactionEnd]:
    """The commits and aborts in one segment or in several consecutive ones, in order."""
    return (transaction_end(r) for r in walk(data, start_lsn, only=TRANSACTION_ENDS))


def ends_xid(segment: Data | Iterable[Data], start_lsn: int, xid: int) -> int | None:
    """The lsn of the record that commits or aborts the top-level transaction `xid`.

    Given several consecutive segments, it also sees records that begin in one and end in
    the next.
    """
    return next((end.lsn for end in transaction_ends(segment, start_lsn) if end.xid == xid), None)


def transaction_end(record: Record) -> TransactionEnd:
    """Reads a record of the kinds in TRANSACTION_ENDS."""
    time, xid = _time_and_xid(record)
    operation = record.info & _XACT_OPERATION
    return TransactionEnd(record.lsn, xid, time, operation in (_COMMIT, _COMMIT_PREPARED))


def _time_and_xid(record: Record) -> tuple[int, int]:
    """From xl_xact_commit or xl_xact_abort (the same up to here)."""
    data = record.main_data
    try:
        time: int = _TIME.unpack_from(data)[0]
        if record.info & _XACT_OPERATION in (_COMMIT, _ABORT):
            return time, record.xid
        return time, _prepared_xid(data, record)
    except error as problem:
        message = f"the WAL record at {record.lsn:#x} is too short for a commit or abort"
        raise FormatError(message) from problem


def restore_point(record: Record) -> RestorePoint:
    """Reads a record of the kind RESTORE_POINTS (xl_restore_point in xlog_internal.h)."""
    time, name = _number_and_text(record, _TIME)
    return RestorePoint(record.lsn, record.end_lsn, time, name)


def tablespace_created(record: Record) -> TablespaceCreated:
    """Reads a record of the kind TABLESPACES_CREATED (xl_tblspc_create_rec in tablespace.h)."""
    oid, path = _number_and_text(record, _UINT32)
    return TablespaceCreated(record.lsn, oid, path)


class _Findings:
    """What the records of a segment amount to."""

    def __init__(self) -> None:
        self.first_time: int | None = None
        self.last_time: int | None = None
        self.first_xid: int | None = None
        self.last_xid: int | None = None
        self.restore_points: list[RestorePoint] = []
        self.tablespaces: list[TablespaceCreated] = []

    def add(self, record: Record) -> None:
        if record.rmid == RM_XACT:
            self._add_end(*_time_and_xid(record))
        elif record.rmid == RM_XLOG:
            self.restore_points.append(restore_point(record))
        else:
            self.tablespaces.append(tablespace_created(record))

    def summary(self, walker: Walker) -> WalSummary:
        return WalSummary(
            records=walker.records,
            first_record=walker.first,
            last_record=walker.last,
            end_of_records=walker.end,
            switched=walker.switched,
            unfinished=walker.unfinished,
            first_commit_time=self.first_time,
            last_commit_time=self.last_time,
            first_xid=self.first_xid,
            last_xid=self.last_xid,
            restore_points=tuple(self.restore_points),
            tablespaces=tuple(self.tablespaces),
            unfinished_xid=_xid_if_end(walker.unfinished_head),
            stopped=walker.stopped,
        )

    def _add_end(self, time: int, xid: int) -> None:
        if self.first_time is None or time < self.first_time:
            self.first_time = time
        if self.last_time is None or time > self.last_time:
            self.last_time = time
        if self.first_xid is None or _precedes(xid, self.first_xid):
            self.first_xid = xid
        if self.last_xid is None or _precedes(self.last_xid, xid):
            self.last_xid = xid


def _xid_if_end(head: bytes) -> int | None:
    """From the beginning of a record; a segment has room for its first 8 bytes at least."""
    if len(head) < 8 or (len(head) >= 18 and (head[17], head[16] & 0xF0) not in TRANSACTION_ENDS):
        return None
    xid: int = _UINT32.unpack_from(head, 4)[0]
    return xid


def _precedes(xid: int, other: int) -> bool:
    """TransactionIdPrecedes() in src/backend/access/transam/transam.c, for normal xids."""
    return (xid - other) & 0x80000000 != 0


def _prepared_xid(data: bytes, record: Record) -> int:
    """ParseCommitRecord() and ParseAbortRecord() in src/backend/access/rmgrdesc/xactdesc.c."""
    info: int = _UINT32.unpack_from(data, 8)[0] if record.info & _XACT_HAS_INFO else 0
    if not info & _HAS_TWOPHASE:
        raise FormatError(f"the record at {record.lsn:#x} ends a prepared transaction without xid")
    at = 12 + (8 if info & _HAS_DATABASE else 0)
    # PostgreSQL 18 widened the object id in a dropped statistics entry to eight bytes.
    statistics = 16 if record.magic >= MAGIC_18 else 12
    for flag, item in (
        (_HAS_SUBTRANSACTIONS, 4),
        (_HAS_RELATIONS, 12),
        (_HAS_DROPPED_STATS, statistics),
        (_HAS_INVALIDATIONS, 16),
    ):
        if info & flag:
            at += 4 + item * _UINT32.unpack_from(data, at)[0]
    xid: int = _UINT32.unpack_from(data, at)[0]
    return xid


def _number_and_text(record: Record, number: Struct) -> tuple[int, str]:
    data = record.main_data
    if len(data) < number.size:
        raise FormatError(f"the WAL record at {record.lsn:#x} has only {len(data)} bytes of data")
    text = data[number.size :].split(b"\0", 1)[0]
    return number.unpack_from(data)[0], text.decode(errors="surrogateescape")


def _text_to_json(value: dict[str, Any], key: str) -> dict[str, Any]:
    """JSON has no place for bytes that aren't UTF-8: they go in hexadecimal, as <key>_hex."""
    try:
        value[key].encode()
    except UnicodeEncodeError:
        value[f"{key}_hex"] = value.pop(key).encode(errors="surrogateescape").hex()
    return value


def _text_from_json(value: dict[str, Any], key: str) -> dict[str, Any]:
    value = dict(value)
    if f"{key}_hex" in value:
        value[key] = bytes.fromhex(value.pop(f"{key}_hex")).decode(errors="surrogateescape")
    return value
