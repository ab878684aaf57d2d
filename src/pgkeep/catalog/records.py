"""A backup's description: what the record object of docs/format.md, section 6, says."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec

from pgkeep.codec.container import Kind
from pgkeep.errors import Damaged, FormatError, NewerFormat
from pgkeep.pgformat.lsn import format_lsn, parse_lsn
from pgkeep.repo import names
from pgkeep.repo.log import Log, LogState
from pgkeep.repo.objects import get_object, put_object
from pgkeep.repo.refs import JsonRef

if TYPE_CHECKING:
    from pgkeep.repo.repository import Repository

_LSNS = ("start_lsn", "stop_lsn")
_TIMES = ("start_time", "stop_time")
_METHODS = ("full",)

Moment = Annotated[datetime, msgspec.Meta(tz=True)]


class Tablespace(msgspec.Struct, frozen=True):
    """A tablespace by its oid, and where it lay on the server."""

    oid: int
    location: str


class BadBlock(msgspec.Struct, frozen=True):
    """A page whose checksum was wrong when it was read: block number in the file at `path`."""

    path: str
    block: int
    stored: int
    computed: int


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """One backup. Members are those of the JSON; LSNs are integers here, sizes are in bytes.

    `packs` and `root` lead to the root document. `timeline` is the one at the stop. `wal_first` and
    `wal_last` name the segments without which the backup is not consistent. `new_bytes` is what
    this backup stored of data, `stored_bytes` all that it put, `map_bytes` the map's part of it.
    """

    id: str
    cluster: str
    system_identifier: int
    generation: int
    packs: tuple[str, ...]
    root: tuple[JsonRef, ...]
    start_lsn: int
    stop_lsn: int
    timeline: int
    start_timeline: int
    start_time: Moment
    stop_time: Moment
    server_version_num: int
    block_size: int
    relseg_size: int
    segment_size: int
    data_checksum_version: int
    tablespaces: tuple[Tablespace, ...]
    backup_label: str
    method: str = "full"
    source: str = "protocol"
    label: str | None = None
    class_: str | None = msgspec.field(default=None, name="class")
    host: str | None = None
    os_user: str | None = None
    os_group: str | None = None
    data_directory: str | None = None
    directory_mode: int = 0o700
    files: int = 0
    bytes: int = 0
    stored_bytes: int = 0
    map_bytes: int = 0
    new_bytes: int = 0
    bad_blocks: tuple[BadBlock, ...] = ()
    warnings: tuple[str, ...] = ()
    wal_first: str
    wal_last: str
    wal_source: Literal["archive", "stream"] = "archive"
    compression: int = 1
    pgkeep: str = ""
    seconds: float = 0.0


def to_json(record: Record) -> bytes:
    """The record's bytes; LSNs become text and times get microseconds and Z."""
    value: dict[str, Any] = msgspec.to_builtins(record, builtin_types=(datetime,))
    for name in _LSNS:
        value[name] = format_lsn(value[name])
    for name in _TIMES:
        value[name] = names.time_text(value[name])
    return msgspec.json.encode(value)


def from_json(raw: bytes, name: str) -> Record:
    """Reads a record, skipping members it does not know.

    Raises Damaged or NewerFormat, naming the object.
    """
    try:
        value = msgspec.json.decode(raw, type=dict[str, Any])
        for member in _LSNS:
            value[member] = parse_lsn(str(value[member]))
        found = msgspec.convert(value, Record)
    except (msgspec.MsgspecError, FormatError, KeyError, ValueError) as problem:
        raise Damaged(f"{name} is not the description of a backup: {problem}") from problem
    if found.method not in _METHODS:
        raise NewerFormat(
            f"{name} describes a backup made by the method {found.method!r}, which this version "
            "does not know",
            hint="use a newer pgkeep",
        )
    return found


def write_record(repo: Repository, cluster: str, record: Record) -> bytes:
    """Stores a record under its backup's id; returns the SHA-256 that the log's commit names."""
    name = names.record(cluster, record.id)
    return put_object(repo, Kind.RECORD, name, to_json(record)).sha256


def read_record(
    repo: Repository, cluster: str, backup_id: str, sha256: bytes, *, name: str | None = None
) -> Record:
    """The record that a commit names; raises Damaged when the object is not that one.

    `name` is the object's when it is not the backup's usual one.
    """
    name = name or names.record(cluster, backup_id)
    record = from_json(get_object(repo, Kind.RECORD, name, sha256=sha256).raw, name)
    if (record.id, record.cluster) != (backup_id, cluster):
        raise Damaged(f"{name} describes backup {record.id} of {record.cluster}")
    return record


def committed(repo: Repository, cluster: str, state: LogState | None = None) -> list[Record]:
    """The backups that exist, the oldest first; reads the log unless its state is given."""
    found = Log(repo, cluster).state() if state is None else state
    backups = sorted(found.backups.items(), key=lambda item: (item[1].generation, item[0]))
    return [
        read_record(repo, cluster, backup_id, bytes.fromhex(entry.sha256), name=entry.record)
        for backup_id, entry in backups
    ]
