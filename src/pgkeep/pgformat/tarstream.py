"""The archives of a base backup, taken apart as they arrive.

The server writes ustar headers (src/port/tar.c): names of up to 99 bytes, numbers in octal or, if
they are too large, in base 256, only files, directories and symbolic links.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from pgkeep.errors import NotPostgres

BLOCK = 512

_NAME, _PREFIX, _LINK = slice(0, 100), slice(345, 500), slice(157, 257)
_MODE, _UID, _GID = slice(100, 108), slice(108, 116), slice(116, 124)
_SIZE, _MTIME, _SUM = slice(124, 136), slice(136, 148), slice(148, 156)
_TYPE, _MAGIC = 156, slice(257, 263)
_ZEROS = bytes(BLOCK)
_BLANK_SUM = 8 * ord(" ")

Data = bytes | bytearray | memoryview


class MemberKind(Enum):
    """What kind of file a member is."""

    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symlink"


_KINDS = {
    ord("0"): MemberKind.FILE,
    0: MemberKind.FILE,
    ord("2"): MemberKind.SYMLINK,
    ord("5"): MemberKind.DIRECTORY,
}


@dataclass(frozen=True, slots=True)
class TarMember:
    """A member begins.

    `name` is relative, without "./" in front or "/" behind, "" for the archive's own directory;
    bytes that are not UTF-8 are surrogates, also in `link_target`. `size` is in bytes, `mtime` in
    seconds since 1970, `mode` has the permission bits only.
    """

    name: str
    kind: MemberKind
    size: int
    mode: int
    mtime: int
    uid: int
    gid: int
    link_target: str


class TarData(NamedTuple):
    """The next bytes of the file that began last: a part of what was fed, not a copy."""

    data: memoryview


class TarEnd(NamedTuple):
    """All bytes of a file have come; directories and links have no data and no end."""


Event = TarMember | TarData | TarEnd
_END = TarEnd()


class TarReader:
    """Feed it one archive in pieces of any size; each piece gives the events that it completes.

    A reader is for one archive. After an error it can't go on.
    """

    __slots__ = ("_ended", "_file_left", "_header", "_member", "_skip")

    def __init__(self) -> None:
        self._file_left = 0
        self._skip = 0
        self._header = bytearray()
        self._member = ""
        self._ended = False

    def feed(self, chunk: Data) -> Iterator[Event]:
        """The events of the archive's next bytes: go through all of them before the next call.

        Raises NotPostgres where the archive is not what a server writes, or where a name would
        lead out of the directory that it is unpacked into.
        """
        view = chunk if isinstance(chunk, memoryview) else memoryview(chunk)
        if len(view) < self._file_left:
            self._file_left -= len(view)
            if view:
                yield TarData(view)
            return
        position = 0
        while position < len(view):
            if self._file_left:
                data = view[position : position + self._file_left]
                position += len(data)
                self._file_left -= len(data)
                yield TarData(data)
                if not self._file_left:
                    yield _END
            elif self._skip:
                step = min(self._skip, len(view) - position)
                position += step
                self._skip -= step
            else:
                part = view[position : position + BLOCK - len(self._header)]
                position += len(part)
                self._header += part
                if len(self._header) == BLOCK:
                    yield from self._block()

    def finish(self) -> None:
        """The archive is over. Raises NotPostgres if it was cut off; no byte at all is right."""
        if self._file_left:
            raise NotPostgres(
                f"a base backup's archive ends {self._file_left} bytes before the end of "
                f"{self._member!r}"
            )
        if not self._ended and (self._member or self._header):
            raise NotPostgres("a base backup's archive was cut off: it has no end mark")

    def _block(self) -> Iterator[Event]:
        header = bytes(self._header)
        self._header.clear()
        if header == _ZEROS:
            self._ended = True
            return
        if self._ended:
            raise NotPostgres("a base backup's archive goes on after its end")
        member = _parse_header(header)
        self._member = member.name or "./"
        yield member
        if member.kind is MemberKind.FILE:
            self._file_left = member.size
            self._skip = -member.size % BLOCK
            if not member.size:
                yield _END


def _parse_header(header: bytes) -> TarMember:
    if header[_MAGIC] != b"ustar\0":
        raise NotPostgres("a base backup's archive has no tar header where one is due")
    unsummed = sum(header) - sum(header[_SUM]) + _BLANK_SUM
    if _number(header[_SUM]) != unsummed:
        raise NotPostgres("a tar header of the base backup is damaged: its sum is wrong")
    kind = _KINDS.get(header[_TYPE])
    name = _text(header[_NAME])
    if kind is None:
        raise NotPostgres(f"{name!r} in the base backup is of tar type {header[_TYPE]:#x}")
    if prefix := _text(header[_PREFIX]):
        name = f"{prefix}/{name}"
    return TarMember(
        name=_relative(name, kind),
        kind=kind,
        size=_number(header[_SIZE]) if kind is MemberKind.FILE else 0,
        mode=_number(header[_MODE]) & 0o7777,
        mtime=_number(header[_MTIME]),
        uid=_number(header[_UID]),
        gid=_number(header[_GID]),
        link_target=_link(header[_LINK], kind, name),
    )


def _text(field: bytes) -> str:
    text, _, rest = field.partition(b"\0")
    if rest.strip(b"\0"):
        raise NotPostgres(f"a name in the base backup contains a NUL byte: {field!r}")
    return text.decode("utf-8", "surrogateescape")


def _number(field: bytes) -> int:
    """Octal digits up to a blank or NUL, or base 256 after 0x80 (GNU's extension)."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    digits = field.strip(b" \0")
    if digits.strip(b"01234567"):
        raise NotPostgres(f"not a number of a tar header: {field!r}")
    return int(digits or b"0", 8)


def _relative(name: str, kind: MemberKind) -> str:
    """The name without decoration; raises NotPostgres if it leads out of its directory."""
    plain = name
    while plain.startswith("./"):
        plain = plain[2:]
    if kind is not MemberKind.FILE:
        plain = plain.removesuffix("/")
    if plain in ("", ".") and kind is MemberKind.DIRECTORY and name[:1] == ".":
        return ""
    if any(part in ("", ".", "..") for part in plain.split("/")):
        raise NotPostgres(
            f"the base backup contains a file named {name!r}, which can't be restored safely",
            hint="no PostgreSQL server writes such a name: is this really one?",
        )
    return plain


def _link(field: bytes, kind: MemberKind, name: str) -> str:
    target = _text(field)
    if (kind is MemberKind.SYMLINK) != bool(target):
        raise NotPostgres(f"{name!r} in the base backup has the link target {target!r}")
    return target
