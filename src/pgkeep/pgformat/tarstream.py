"""Tar archives as the server writes them, read as their bytes come.

ustar without name prefixes (src/port/tar.c), sizes above 8 GiB in base 256, ended by two zero
blocks. Names are checked: a server that was taken over must not make us write elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from pgkeep.errors import NotPostgres

BLOCK = 512


class MemberKind(StrEnum):
    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symlink"


_KINDS = {b"0": MemberKind.FILE, b"\0": MemberKind.FILE, b"5": MemberKind.DIRECTORY}
_KINDS[b"2"] = MemberKind.SYMLINK


@dataclass(frozen=True, slots=True)
class TarMember:
    """A file's `size` bytes of data follow, then `TarEnd`; others have neither.

    `name` is relative, without `./` and trailing slash, with odd bytes as surrogate escapes.
    """

    name: str
    kind: MemberKind
    size: int
    mode: int
    mtime: int
    uid: int
    gid: int
    link_target: str


@dataclass(frozen=True, slots=True)
class TarData:
    """Bytes of the current file; a slice of what was fed."""

    data: memoryview


@dataclass(frozen=True, slots=True)
class TarEnd:
    """The current file is whole."""


TarEvent = TarMember | TarData | TarEnd
_END = TarEnd()


class TarReader:
    """Feed it one archive in pieces of any size; `finish` when there is no more."""

    def __init__(self) -> None:
        self._header = bytearray()
        self._in_file = False
        self._left = 0
        self._padding = 0
        self._over = False

    def feed(self, chunk: memoryview) -> Iterator[TarEvent]:
        """The events in the next piece; raises NotPostgres."""
        at, end = 0, len(chunk)
        while at < end and not self._over:
            if self._left:
                take = min(self._left, end - at)
                self._left -= take
                yield TarData(chunk[at : at + take])
                at += take
            elif self._in_file:
                self._in_file = False
                yield _END
            elif self._padding:
                take = min(self._padding, end - at)
                self._padding -= take
                at += take
            else:
                take = min(BLOCK - len(self._header), end - at)
                self._header += chunk[at : at + take]
                at += take
                if len(self._header) == BLOCK:
                    yield from self._begin()
        if self._in_file and not self._left:
            self._in_file = False
            yield _END

    def finish(self) -> None:
        """Raises NotPostgres when the archive stops in the middle of a file."""
        if self._left or self._header:
            raise NotPostgres("a tar archive from the server ended in the middle of a file")

    def _begin(self) -> Iterator[TarEvent]:
        header = bytes(self._header)
        self._header.clear()
        if not header.strip(b"\0"):
            self._over = True
            return
        member = _parse(header)
        if member is None:
            return
        yield member
        if member.kind is MemberKind.FILE:
            self._in_file = True
            self._left = member.size
            self._padding = -member.size % BLOCK
            if not self._left:
                self._in_file = False
                yield _END


def _parse(header: bytes) -> TarMember | None:
    """The member, or None for the archive's own directory."""
    stored = _number(header[148:156])
    if sum(header[:148]) + 8 * 32 + sum(header[156:]) != stored:
        raise NotPostgres("a tar header from the server has a wrong checksum")
    kind = _KINDS.get(header[156:157])
    if kind is None:
        raise NotPostgres(f"a tar member of unknown kind {header[156:157]!r}")
    raw_name = _text(header[0:100])
    prefix = _text(header[345:500])
    name = _checked(f"{prefix}/{raw_name}" if prefix else raw_name)
    if not name:
        return None
    return TarMember(
        name=name,
        kind=kind,
        size=_number(header[124:136]) if kind is MemberKind.FILE else 0,
        mode=_number(header[100:108]) & 0o7777,
        mtime=_number(header[136:148]),
        uid=_number(header[108:116]),
        gid=_number(header[116:124]),
        link_target=_text(header[157:257]),
    )


def _checked(name: str) -> str:
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") or ".." in parts:
        raise NotPostgres(f"the server named a file outside of the data directory: {name!r}")
    return "/".join(parts)


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode("utf-8", "surrogateescape")


def _number(field: bytes) -> int:
    """Octal, or base 256 when the first bit is set (src/port/tar.c, read_tar_number)."""
    if field[0] & 0x80:
        return int.from_bytes(bytes((field[0] & 0x7F,)) + field[1:], "big")
    text = field.strip(b" \0")
    try:
        return int(text, 8) if text else 0
    except ValueError:
        raise NotPostgres(f"a tar header has {field!r} where a number belongs") from None
