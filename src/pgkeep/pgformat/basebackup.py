"""The answers of BASE_BACKUP (PostgreSQL 15 and newer).

One COPY stream holds all archives and the manifest; the first byte of each CopyData message says
what it is (src/backend/backup/basebackup_copy.c, and "BASE_BACKUP" in the protocol's
documentation). Before it come a row with the start and rows with the tablespaces, after it a row
with the end.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from pgkeep.errors import NotPostgres
from pgkeep.pgformat.lsn import Lsn, parse_lsn

Data = bytes | bytearray | memoryview
Field = bytes | str | None

_NEW_ARCHIVE, _DATA, _PROGRESS, _MANIFEST = b"ndpm"


class NewArchive(NamedTuple):
    """A tar archive begins: its name ("base.tar", "16385.tar"), and the tablespace's location.

    `tablespace` is "" for the data directory itself.
    """

    name: str
    tablespace: str


class ArchiveData(NamedTuple):
    """The next bytes of the archive, or of the manifest if ManifestStart came; not a copy."""

    data: memoryview


class ProgressReport(NamedTuple):
    """How many bytes the server has read so far, over all tablespaces."""

    bytes_done: int


class ManifestStart(NamedTuple):
    """The archives are over; the manifest's bytes follow."""


Message = NewArchive | ArchiveData | ProgressReport | ManifestStart
_MANIFEST_START = ManifestStart()


class BackupPosition(NamedTuple):
    """The start or the end of a base backup in the WAL."""

    lsn: Lsn
    timeline: int


class BackupTablespace(NamedTuple):
    """A tablespace of the backup; `oid` and `location` are None for the data directory.

    `size` is the server's estimate in bytes (a multiple of 1024), None if it was not asked for.
    """

    oid: int | None
    location: str | None
    size: int | None


def parse_message(message: Data) -> Message:
    """What one CopyData message says. Raises NotPostgres for an unknown kind."""
    view = message if isinstance(message, memoryview) else memoryview(message)
    kind = view[0] if view else None
    if kind == _DATA:
        return ArchiveData(view[1:])
    if kind == _PROGRESS and len(view) == 9:
        return ProgressReport(int.from_bytes(view[1:], "big"))
    if kind == _MANIFEST and len(view) == 1:
        return _MANIFEST_START
    if kind == _NEW_ARCHIVE:
        return _new_archive(bytes(view[1:]))
    raise NotPostgres(
        f"a message of the base backup is of no known kind: {bytes(view[:20])!r}",
        hint="pgkeep backs up PostgreSQL 15 and newer",
    )


def _new_archive(payload: bytes) -> NewArchive:
    parts = payload.split(b"\0")
    if len(parts) != 3 or parts[2] or not parts[0]:
        raise NotPostgres(f"the base backup announces an archive wrongly: {payload!r}")
    name, location = (part.decode("utf-8", "surrogateescape") for part in parts[:2])
    if "/" in name or name.startswith("."):
        raise NotPostgres(f"the base backup announces an archive named {name!r}")
    return NewArchive(name, location)


def parse_position(row: Sequence[Field]) -> BackupPosition:
    """From the row (recptr, tli) before or after the stream."""
    if len(row) != 2:
        raise NotPostgres(f"a base backup's position has {len(row)} columns instead of 2")
    lsn, timeline = _text(row[0]), _integer(row[1])
    if lsn is None or not timeline:
        raise NotPostgres("the server did not say where in the WAL the base backup is")
    return BackupPosition(parse_lsn(lsn), timeline)


def parse_tablespaces(rows: Iterable[Sequence[Field]]) -> tuple[BackupTablespace, ...]:
    """From the rows (spcoid, spclocation, size), the data directory's among them."""
    return tuple(_tablespace(row) for row in rows)


def _tablespace(row: Sequence[Field]) -> BackupTablespace:
    if len(row) != 3:
        raise NotPostgres(f"a tablespace of the base backup has {len(row)} columns instead of 3")
    kilobytes = _integer(row[2])
    size = None if kilobytes is None else kilobytes * 1024
    return BackupTablespace(_integer(row[0]), _text(row[1]), size)


def _text(field: Field) -> str | None:
    if field is None or isinstance(field, str):
        return field
    return field.decode("utf-8", "surrogateescape")


def _integer(field: Field) -> int | None:
    text = _text(field)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit()):
        raise NotPostgres(f"the server answered {text!r} where a number is due")
    return int(text)
