"""backup_manifest: what the server says of its files, and a fresh one for what was restored.

Source: src/backend/backup/backup_manifest.c and the documentation's "Backup Manifest Format".
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec

from pgkeep.errors import NotPostgres
from pgkeep.pgformat.crc32c import crc32c
from pgkeep.pgformat.lsn import Lsn, format_lsn, parse_lsn

_LAST_LINE = re.compile(rb'"Manifest-Checksum": "(?P<digest>[0-9a-f]{64})"\}\n?\Z')


@dataclass(frozen=True, slots=True)
class ManifestFile:
    """`path` in the file system's bytes; `size` in bytes; `checksum` hexadecimal or None."""

    path: bytes
    size: int
    modified: str
    algorithm: str | None
    checksum: str | None


@dataclass(frozen=True, slots=True)
class WalRange:
    """WAL that is needed from the backup itself."""

    timeline: int
    start: Lsn
    end: Lsn


@dataclass(frozen=True, slots=True)
class Manifest:
    """A whole manifest; `system_identifier` from version 2 on."""

    version: int
    system_identifier: int | None
    files: list[ManifestFile]
    wal_ranges: list[WalRange]


class _File(msgspec.Struct):
    size: int = msgspec.field(name="Size")
    modified: str = msgspec.field(name="Last-Modified")
    path: str | None = msgspec.field(name="Path", default=None)
    encoded: str | None = msgspec.field(name="Encoded-Path", default=None)
    algorithm: str | None = msgspec.field(name="Checksum-Algorithm", default=None)
    checksum: str | None = msgspec.field(name="Checksum", default=None)


class _Range(msgspec.Struct):
    timeline: int = msgspec.field(name="Timeline")
    start: str = msgspec.field(name="Start-LSN")
    end: str = msgspec.field(name="End-LSN")


class _Manifest(msgspec.Struct):
    version: int = msgspec.field(name="PostgreSQL-Backup-Manifest-Version")
    files: list[_File] = msgspec.field(name="Files")
    ranges: list[_Range] = msgspec.field(name="WAL-Ranges")
    system: int | None = msgspec.field(name="System-Identifier", default=None)


def parse_manifest(content: bytes) -> Manifest:
    """Reads a manifest and checks its own checksum; raises NotPostgres."""
    found = _LAST_LINE.search(content[-200:])
    if found is None:
        raise NotPostgres("the backup manifest is cut short: it has no checksum at its end")
    digest = found["digest"].decode()
    covered = content[: len(content) - (len(content[-200:]) - found.start())]
    if hashlib.sha256(covered).hexdigest() != digest:
        raise NotPostgres("the backup manifest fails its own checksum")
    try:
        read = msgspec.json.decode(content, type=_Manifest)
        files = [
            ManifestFile(
                bytes.fromhex(f.encoded) if f.encoded is not None else (f.path or "").encode(),
                f.size,
                f.modified,
                f.algorithm,
                f.checksum,
            )
            for f in read.files
        ]
    except (msgspec.DecodeError, ValueError) as error:
        raise NotPostgres(f"the backup manifest can't be read: {error}") from None
    ranges = [WalRange(r.timeline, parse_lsn(r.start), parse_lsn(r.end)) for r in read.ranges]
    return Manifest(read.version, read.system, files, ranges)


def crc32c_text(content: bytes) -> str:
    """The checksum as a manifest has it: the CRC's bytes, little-endian, in hexadecimal."""
    return crc32c(content).to_bytes(4, "little").hex()


def modified_text(seconds: int) -> str:
    """A file's modification time as a manifest has it."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} GMT"


def write_manifest(
    files: Iterable[ManifestFile],
    wal_ranges: Iterable[WalRange],
    *,
    version: int,
    system_identifier: int | None,
) -> Iterator[bytes]:
    """A manifest in pieces; PostgreSQL 15 and 16 accept only version 1, newer ones 1 and 2."""
    digest = hashlib.sha256()

    def covered(text: str) -> bytes:
        piece = text.encode()
        digest.update(piece)
        return piece

    yield covered(f'{{ "PostgreSQL-Backup-Manifest-Version": {version},\n')
    if version >= 2:
        yield covered(f'"System-Identifier": {system_identifier},\n')
    yield covered('"Files": [')
    separator = "\n"
    for file in files:
        yield covered(separator + _file_line(file))
        separator = ",\n"
    yield covered("\n],\n" + '"WAL-Ranges": [')
    separator = "\n"
    for wal in wal_ranges:
        yield covered(
            f'{separator}{{ "Timeline": {wal.timeline}, "Start-LSN": "{format_lsn(wal.start)}", '
            f'"End-LSN": "{format_lsn(wal.end)}" }}'
        )
        separator = ",\n"
    yield covered("\n],\n")
    yield f'"Manifest-Checksum": "{digest.hexdigest()}"}}\n'.encode()


def _file_line(file: ManifestFile) -> str:
    try:
        text = file.path.decode("utf-8")
        path = f'"Path": {msgspec.json.encode(text).decode()}'
    except UnicodeDecodeError:
        path = f'"Encoded-Path": "{file.path.hex()}"'
    line = f'{{ {path}, "Size": {file.size}, "Last-Modified": "{file.modified}"'
    if file.algorithm is not None and file.checksum is not None:
        line += f', "Checksum-Algorithm": "{file.algorithm}", "Checksum": "{file.checksum}"'
    return line + " }"
