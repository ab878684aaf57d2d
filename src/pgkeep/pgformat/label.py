"""backup_label and tablespace_map (src/backend/access/transam/xlogbackup.c, xlogrecovery.c)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pgkeep.errors import NotPostgres
from pgkeep.pgformat.lsn import Lsn, parse_lsn

_START = re.compile(r"(?P<lsn>[0-9A-F]+/[0-9A-F]+) \(file (?P<file>[0-9A-F]{24})\)")
_INCREMENTAL = (b"INCREMENTAL FROM LSN:", b"INCREMENTAL FROM TLI:")


@dataclass(frozen=True, slots=True)
class BackupLabel:
    """What the server needs to begin recovery from a backup."""

    start_lsn: Lsn
    start_segment: str
    checkpoint_lsn: Lsn
    method: str
    taken_from: str
    start_time: str
    label: str
    timeline: int
    incremental_from: Lsn | None


def parse_backup_label(content: bytes) -> BackupLabel:
    """Reads it; raises NotPostgres, naming what is missing."""
    fields: dict[str, str] = {}
    for line in content.decode("utf-8", "replace").splitlines():
        key, colon, value = line.partition(": ")
        if colon:
            fields.setdefault(key, value)
    try:
        start = _START.fullmatch(fields["START WAL LOCATION"])
        if start is None:
            raise NotPostgres("backup_label has no WAL location that could be read")
        since = fields.get("INCREMENTAL FROM LSN")
        return BackupLabel(
            parse_lsn(start["lsn"]),
            start["file"],
            parse_lsn(fields["CHECKPOINT LOCATION"]),
            fields["BACKUP METHOD"],
            fields["BACKUP FROM"],
            fields["START TIME"],
            fields.get("LABEL", ""),
            int(fields["START TIMELINE"]),
            parse_lsn(since) if since is not None else None,
        )
    except KeyError as error:
        raise NotPostgres(f"backup_label has no line {error.args[0]}") from None
    except ValueError as error:
        raise NotPostgres(f"backup_label can't be read: {error}") from None


def strip_incremental(content: bytes) -> bytes:
    """Without the lines that make the server refuse to start; all else byte for byte."""
    lines = content.splitlines(keepends=True)
    return b"".join(line for line in lines if not line.startswith(_INCREMENTAL))


def parse_tablespace_map(content: bytes) -> dict[int, str]:
    """Tablespace directories by OID; a backslash keeps the next character (read_tablespace_map)."""
    found: dict[int, str] = {}
    line = bytearray()
    escaped = False
    for byte in content + b"\n":
        if not escaped and byte in b"\n\r":
            if line:
                _add_tablespace(found, bytes(line))
            line.clear()
        elif not escaped and byte == ord("\\"):
            escaped = True
        else:
            line.append(byte)
            escaped = False
    return found


def _add_tablespace(found: dict[int, str], line: bytes) -> None:
    oid, space, path = line.partition(b" ")
    if not space or not oid.isdigit() or not path:
        raise NotPostgres(f"tablespace_map has a line that is none: {line!r}")
    found[int(oid)] = path.decode("utf-8", "surrogateescape")
