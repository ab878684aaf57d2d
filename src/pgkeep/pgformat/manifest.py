"""backup_manifest: the list of a backup's files, as the server sends and pg_verifybackup reads it.

JSON whose last line is the SHA-256 of everything before that line
(src/backend/backup/backup_manifest.c, src/common/parse_manifest.c).
"""

from __future__ import annotations

import calendar
import hashlib
import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import msgspec

from pgkeep.errors import NotPostgres
from pgkeep.pgformat.crc32c import crc32c
from pgkeep.pgformat.lsn import Lsn, format_lsn, parse_lsn

MANIFEST_FILE = "backup_manifest"
FIRST_MAJOR_WITH_VERSION_2 = 17

Algorithm = Literal["NONE", "CRC32C", "SHA224", "SHA256", "SHA384", "SHA512"]
Data = bytes | bytearray | memoryview

_DIGEST_LENGTHS = {
    "NONE": 0, "CRC32C": 8, "SHA224": 56, "SHA256": 64, "SHA384": 96, "SHA512": 128,
}  # fmt: skip
_CHUNK = 1 << 18
_TIME_FORMAT = "%Y-%m-%d %H:%M:%S GMT"


class ManifestFile(NamedTuple):
    """A file: `path` relative to the data directory, through the links of pg_tblspc.

    Bytes of the path that are not UTF-8 are surrogates. `size` is in bytes, `mtime` in seconds
    since 1970. `checksum` is in hexadecimal ("" with NONE), a CRC32C as crc32c_text() gives it.
    """

    path: str
    size: int
    mtime: int
    algorithm: Algorithm
    checksum: str


class WalRange(NamedTuple):
    """WAL that a backup needs before it is consistent: [start_lsn, end_lsn) of a timeline."""

    timeline: int
    start_lsn: Lsn
    end_lsn: Lsn


@dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest. `system_identifier` is None in version 1 (PostgreSQL 15 and 16)."""

    version: int
    system_identifier: int | None
    files: tuple[ManifestFile, ...]
    wal_ranges: tuple[WalRange, ...]


class _File(msgspec.Struct):
    size: int = msgspec.field(name="Size")
    modified: str = msgspec.field(name="Last-Modified")
    path: str | None = msgspec.field(name="Path", default=None)
    encoded_path: str | None = msgspec.field(name="Encoded-Path", default=None)
    algorithm: Algorithm = msgspec.field(name="Checksum-Algorithm", default="NONE")
    checksum: str = msgspec.field(name="Checksum", default="")


class _Range(msgspec.Struct):
    timeline: int = msgspec.field(name="Timeline")
    start: str = msgspec.field(name="Start-LSN")
    end: str = msgspec.field(name="End-LSN")


class _Document(msgspec.Struct):
    version: int = msgspec.field(name="PostgreSQL-Backup-Manifest-Version")
    files: list[_File] = msgspec.field(name="Files")
    ranges: list[_Range] = msgspec.field(name="WAL-Ranges")
    checksum: str = msgspec.field(name="Manifest-Checksum")
    system_identifier: int | None = msgspec.field(name="System-Identifier", default=None)


def crc32c_text(data: Data) -> str:
    """A CRC32C as manifests have it: the bytes of the number as in memory, so little-endian."""
    return crc32c(bytes(data)).to_bytes(4, "little").hex()


def parse_manifest(data: Data) -> Manifest:
    """From the whole file. Raises NotPostgres if it is damaged, cut off, or of a newer version."""
    document = _decode(data)
    _check_digest(bytes(data), document.checksum)
    if document.version not in (1, 2):
        raise NotPostgres(f"the backup manifest is of the unknown version {document.version}")
    if (document.version == 2) != (document.system_identifier is not None):
        raise NotPostgres("the backup manifest's version and system identifier do not fit")
    times: dict[str, int] = {}
    return Manifest(
        version=document.version,
        system_identifier=document.system_identifier,
        files=tuple(_file(file, times) for file in document.files),
        wal_ranges=tuple(
            WalRange(r.timeline, parse_lsn(r.start), parse_lsn(r.end)) for r in document.ranges
        ),
    )


def _decode(data: Data) -> _Document:
    try:
        return msgspec.json.decode(data, type=_Document)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise NotPostgres(f"this is not a backup manifest: {error}") from error


def _check_digest(data: bytes, checksum: str) -> None:
    last_line = data.rfind(b"\n", 0, len(data) - 1) + 1
    if not data.endswith(b"\n") or hashlib.sha256(data[:last_line]).hexdigest() != checksum:
        raise NotPostgres("the backup manifest does not match its own checksum: it is damaged")


def _file(file: _File, times: dict[str, int]) -> ManifestFile:
    if (file.path is None) == (file.encoded_path is None):
        raise NotPostgres("a file in the backup manifest has no path, or two")
    if len(file.checksum) != _DIGEST_LENGTHS[file.algorithm]:
        raise NotPostgres(f"a checksum in the backup manifest is not a {file.algorithm}")
    mtime = times.get(file.modified)
    if mtime is None:
        mtime = times[file.modified] = _parse_time(file.modified)
    path = _decode_path(file.encoded_path or "") if file.path is None else file.path
    return ManifestFile(path, file.size, mtime, file.algorithm, file.checksum)


def _decode_path(encoded: str) -> str:
    try:
        return bytes.fromhex(encoded).decode("utf-8", "surrogateescape")
    except ValueError as error:
        raise NotPostgres(f"a path in the backup manifest is not hexadecimal: {encoded}") from error


def _parse_time(text: str) -> int:
    try:
        return calendar.timegm(time.strptime(text, _TIME_FORMAT))
    except ValueError as error:
        raise NotPostgres(f"not a time of a backup manifest: {text!r}") from error


def write_manifest(
    files: Iterable[ManifestFile],
    *,
    major: int,
    system_identifier: int,
    wal_ranges: Iterable[WalRange],
) -> Iterator[bytes]:
    """A manifest for PostgreSQL `major`, in pieces of about 256 KiB.

    The pg_verifybackup of 15 and 16 accepts only version 1, which has no system identifier.
    """
    digest = hashlib.sha256()
    for piece in _body(files, major, system_identifier, wal_ranges):
        digest.update(piece)
        yield piece
    yield f'"Manifest-Checksum": "{digest.hexdigest()}"}}\n'.encode()


def _body(
    files: Iterable[ManifestFile],
    major: int,
    system_identifier: int,
    wal_ranges: Iterable[WalRange],
) -> Iterator[bytes]:
    version = 2 if major >= FIRST_MAJOR_WITH_VERSION_2 else 1
    buffer = bytearray(b'{ "PostgreSQL-Backup-Manifest-Version": %d,\n' % version)
    if version == 2:
        buffer += b'"System-Identifier": %d,\n' % system_identifier
    buffer += b'"Files": ['
    separator = b"\n"
    for file in files:
        buffer += separator
        buffer += _format_file(file)
        separator = b",\n"
        if len(buffer) >= _CHUNK:
            yield bytes(buffer)
            buffer.clear()
    buffer += b'\n],\n"WAL-Ranges": [\n'
    buffer += b",\n".join(_format_range(wal_range) for wal_range in wal_ranges)
    buffer += b"\n],\n"
    yield bytes(buffer)


def _format_file(file: ManifestFile) -> bytes:
    try:
        file.path.encode()
        path = f'"Path": {json.dumps(file.path, ensure_ascii=False)}'
    except UnicodeEncodeError:
        encoded = file.path.encode("utf-8", "surrogateescape").hex()
        path = f'"Encoded-Path": "{encoded}"'
    modified = time.strftime(_TIME_FORMAT, time.gmtime(file.mtime))
    checksum = ""
    if file.algorithm != "NONE":
        checksum = f', "Checksum-Algorithm": "{file.algorithm}", "Checksum": "{file.checksum}"'
    return f'{{ {path}, "Size": {file.size}, "Last-Modified": "{modified}"{checksum} }}'.encode()


def _format_range(wal_range: WalRange) -> bytes:
    return (
        f'{{ "Timeline": {wal_range.timeline}, "Start-LSN": "{format_lsn(wal_range.start_lsn)}", '
        f'"End-LSN": "{format_lsn(wal_range.end_lsn)}" }}'
    ).encode()
