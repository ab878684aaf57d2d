"""backup_label and tablespace_map: what a restored data directory starts its recovery from.

Written by build_backup_content() in src/backend/access/transam/xlogbackup.c and
do_pg_backup_start() in xlog.c, read by read_backup_label() and read_tablespace_map() in
xlogrecovery.c.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from pgkeep.errors import NotPostgres
from pgkeep.pgformat.lsn import Lsn, parse_lsn

_LSN = rb"[0-9A-F]{1,8}/[0-9A-F]{1,8}"
# A label may contain line feeds, so that it could look like the lines after it: the whole file is
# matched at once, and the last lines win.
_LABEL = re.compile(
    rb"START WAL LOCATION: (?P<start>" + _LSN + rb") \(file (?P<file>[0-9A-F]{24})\)\n"
    rb"CHECKPOINT LOCATION: (?P<checkpoint>" + _LSN + rb")\n"
    rb"BACKUP METHOD: (?P<method>[^\n]*)\n"
    rb"BACKUP FROM: (?P<source>[^\n]*)\n"
    rb"START TIME: (?P<time>[^\n]*)\n"
    rb"LABEL: (?P<label>.*)\n"
    rb"START TIMELINE: (?P<timeline>[0-9]+)\n"
    rb"(?:INCREMENTAL FROM LSN: (?P<from_lsn>" + _LSN + rb")\n"
    rb"INCREMENTAL FROM TLI: (?P<from_timeline>[0-9]+)\n)?",
    re.DOTALL,
)
_INCREMENTAL = re.compile(rb"^INCREMENTAL FROM (?:LSN|TLI): .*\n?", re.MULTILINE)

_MAP_ENTRY = re.compile(rb"([0-9]{1,10}) ((?:[^\\\r\n]|\\.)+)[\r\n]", re.DOTALL)
_ESCAPED = re.compile(rb"\\(.)", re.DOTALL)
_TO_ESCAPE = re.compile(rb"[\r\n\\]")


@dataclass(frozen=True, slots=True)
class BackupLabel:
    """What a backup_label says.

    `start_lsn` is where replay begins. `source` is "primary" or "standby". `start_time` is the
    server's text, in its log_timezone. The last two are None unless the backup is incremental.
    """

    start_lsn: Lsn
    wal_file: str
    checkpoint_lsn: Lsn
    method: str
    source: str
    start_time: str
    label: str
    timeline: int
    incremental_from_lsn: Lsn | None
    incremental_from_timeline: int | None


@dataclass(frozen=True, slots=True)
class MappedTablespace:
    """A line of tablespace_map: where the link pg_tblspc/`oid` is to lead."""

    oid: int
    location: str


def parse_backup_label(data: bytes) -> BackupLabel:
    """Raises NotPostgres unless it is a whole backup_label of PostgreSQL 15 to 18."""
    match = _LABEL.fullmatch(data)
    if match is None:
        raise NotPostgres("backup_label is not as a server writes it: cut off, or edited")
    text = {
        name: value.decode("utf-8", "surrogateescape")
        for name, value in match.groupdict().items()
        if value is not None
    }
    from_lsn, from_timeline = text.get("from_lsn"), text.get("from_timeline")
    return BackupLabel(
        start_lsn=parse_lsn(text["start"]),
        wal_file=text["file"],
        checkpoint_lsn=parse_lsn(text["checkpoint"]),
        method=text["method"],
        source=text["source"],
        start_time=text["time"],
        label=text["label"],
        timeline=int(text["timeline"]),
        incremental_from_lsn=None if from_lsn is None else parse_lsn(from_lsn),
        incremental_from_timeline=None if from_timeline is None else int(from_timeline),
    )


def strip_incremental(data: bytes) -> bytes:
    """The backup_label of the same backup made whole; all else stays, byte for byte.

    A server refuses to start with a label that says "INCREMENTAL FROM".
    """
    return _INCREMENTAL.sub(b"", data)


def parse_tablespace_map(data: bytes) -> tuple[MappedTablespace, ...]:
    """Every line of a tablespace_map; a backslash there takes the next byte literally.

    Raises NotPostgres for anything that is not such lines.
    """
    entries, position = [], 0
    while position < len(data):
        match = _MAP_ENTRY.match(data, position)
        if match is None:
            raise NotPostgres(f"tablespace_map is damaged at byte {position}")
        location = _ESCAPED.sub(rb"\1", match[2]).decode("utf-8", "surrogateescape")
        entries.append(MappedTablespace(int(match[1]), location))
        position = match.end()
    return tuple(entries)


def format_tablespace_map(entries: Iterable[MappedTablespace]) -> bytes:
    """A tablespace_map as the server writes it."""
    return b"".join(
        b"%d %s\n"
        % (
            entry.oid,
            _TO_ESCAPE.sub(rb"\\\g<0>", entry.location.encode("utf-8", "surrogateescape")),
        )
        for entry in entries
    )
