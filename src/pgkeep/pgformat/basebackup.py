"""Messages of BASE_BACKUP's copy stream, PostgreSQL 15 and newer.

Source: src/backend/backup/basebackup_copy.c and the protocol's documentation.
"""

from __future__ import annotations

from dataclasses import dataclass

from pgkeep.errors import NotPostgres


@dataclass(frozen=True, slots=True)
class NewArchive:
    """An archive begins: `base.tar`, or `<oid>.tar` of the tablespace at `tablespace`."""

    name: str
    tablespace: str


@dataclass(frozen=True, slots=True)
class ManifestStart:
    """What follows is the manifest."""


@dataclass(frozen=True, slots=True)
class ArchiveData:
    """Bytes of the current archive, or of the manifest."""

    data: memoryview


@dataclass(frozen=True, slots=True)
class ProgressReport:
    """How many bytes the server has sent of the current archive."""

    bytes: int


Message = NewArchive | ManifestStart | ArchiveData | ProgressReport
_DATA, _NEW, _PROGRESS, _MANIFEST = b"dnpm"


def parse_message(raw: memoryview) -> Message:
    """One CopyData payload; raises NotPostgres for a kind that no server sends."""
    kind = raw[0] if len(raw) else -1
    if kind == _DATA:
        return ArchiveData(raw[1:])
    if kind == _NEW:
        name, end, rest = bytes(raw[1:]).partition(b"\0")
        path, second_end, _ = rest.partition(b"\0")
        if not end or not second_end:
            raise NotPostgres("the server began an archive without saying which")
        return NewArchive(name.decode(), path.decode("utf-8", "surrogateescape"))
    if kind == _PROGRESS and len(raw) == 9:
        return ProgressReport(int.from_bytes(raw[1:9], "big"))
    if kind == _MANIFEST:
        return ManifestStart()
    raise NotPostgres(f"the server sent a message of unknown kind {bytes(raw[:1])!r}")
