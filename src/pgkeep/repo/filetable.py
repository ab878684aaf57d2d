"""A backup's files: chunks of the file table as columns (docs/format.md 6, "File table")."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from pgkeep.errors import Damaged, UsageError
from pgkeep.repo import refs

MAX_FILES = 4_096
MAGIC = b"FTBL"
BYTES_PER_FILE = 1 + 4 + 8 + 8 + 1 + 4
"""What a file needs in a chunk, beside its path, its target and its leaves."""
BYTES_PER_LEAF = 4 + 4
FLAG_CHECKSUMS = 1
"""The file carries PostgreSQL page checksums."""

_HEAD = struct.Struct("<4s3I")
_SECTIONS = 12
_LENGTHS = struct.Struct(f"<{_SECTIONS}I")

_Scalar = TypeVar("_Scalar", bound=np.generic)


class FileKind(IntEnum):
    FILE = 0
    DIRECTORY = 1
    SYMLINK = 2


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file, directory or symbolic link of a data directory.

    `path` is relative to the data directory, in the file system's own bytes; `mode` has the
    permission bits, `size` is in bytes, `mtime` in seconds since 1970; `target` is where a symbolic
    link leads.
    """

    path: bytes
    kind: FileKind = FileKind.FILE
    mode: int = 0o600
    size: int = 0
    mtime: int = 0
    flags: int = 0
    target: bytes = b""

    def with_flags(self, flags: int) -> FileEntry:
        """The same file with other flags."""
        return replace(self, flags=flags)


@dataclass(frozen=True, slots=True, eq=False)
class FileTable:
    """Columns of up to 4,096 files, in byte order of their paths.

    `leaf_counts` says how many leaves each file has; `leaf_frames` and `leaf_places`, one row a
    leaf, say which of `frames` has it and where in that frame. `targets` are those of the symbolic
    links, in order.
    """

    frames: Sequence[refs.Ref]
    paths: list[bytes]
    kinds: NDArray[np.uint8]
    modes: NDArray[np.uint32]
    sizes: NDArray[np.uint64]
    mtimes: NDArray[np.int64]
    flags: NDArray[np.uint8]
    leaf_counts: NDArray[np.uint32]
    leaf_frames: NDArray[np.uint32]
    leaf_places: NDArray[np.uint32]
    targets: list[bytes]

    def __len__(self) -> int:
        return len(self.paths)


def check_entry(entry: FileEntry) -> None:
    """Raise UsageError for what the file table can't hold, or a restore must not write."""
    if not _safe_paths([entry.path]) or b"\0" in entry.path or b"\0" in entry.target:
        raise UsageError(f"can't back up a file named {entry.path!r}")
    if (entry.kind is FileKind.SYMLINK) != bool(entry.target):
        raise UsageError(f"{entry.path!r}: a symbolic link, and nothing else, has a target")


def encode(table: FileTable) -> bytes:
    """The raw bytes of a FTBL frame."""
    packs = refs.PackTable()
    references = refs.encode_binary(table.frames, packs)
    sections = [
        "\n".join(packs.names).encode("ascii"),
        references,
        b"\0".join(table.paths),
        table.kinds.astype("u1").tobytes(),
        table.modes.astype("<u4").tobytes(),
        table.sizes.astype("<u8").tobytes(),
        table.mtimes.astype("<i8").tobytes(),
        table.flags.astype("u1").tobytes(),
        table.leaf_counts.astype("<u4").tobytes(),
        table.leaf_frames.astype("<u4").tobytes(),
        table.leaf_places.astype("<u4").tobytes(),
        b"\0".join(table.targets),
    ]
    head = _HEAD.pack(MAGIC, len(table), len(table.leaf_frames), _SECTIONS)
    return b"".join([head, _LENGTHS.pack(*map(len, sections)), *sections])


def decode(raw: bytes, source: str) -> FileTable:
    """The chunk in a FTBL frame; arrays share its memory.

    Raises Damaged, naming `source`, when it is none, or has a path that leads out of the data
    directory.
    """
    files, leaves, sections = _sections(raw, source)
    references = refs.decode_binary(sections[1], _pack_names(sections[0]), source)

    def column(number: int, dtype: str, rows: int) -> NDArray[Any]:
        section = sections[number]
        if len(section) != rows * np.dtype(dtype).itemsize:
            raise Damaged(f"{source}: section {number + 1} of the file table has the wrong length")
        return np.frombuffer(section, dtype)

    table = FileTable(
        frames=references,
        paths=_joined(sections[2], files, source),
        kinds=column(3, "u1", files),
        modes=column(4, "<u4", files),
        sizes=column(5, "<u8", files),
        mtimes=column(6, "<i8", files),
        flags=column(7, "u1", files),
        leaf_counts=column(8, "<u4", files),
        leaf_frames=column(9, "<u4", leaves),
        leaf_places=column(10, "<u4", leaves),
        targets=_joined(sections[11], int((column(3, "u1", files) == 2).sum()), source),
    )
    _check(table, source)
    return table


def _sections(raw: bytes, source: str) -> tuple[int, int, list[memoryview]]:
    start = _HEAD.size + _LENGTHS.size
    if len(raw) < start or raw[:4] != MAGIC:
        raise Damaged(f"{source}: not a file table")
    _, files, leaves, count = _HEAD.unpack_from(raw)
    lengths = _LENGTHS.unpack_from(raw, _HEAD.size)
    if count != _SECTIONS or len(raw) != start + sum(lengths):
        raise Damaged(f"{source}: the file table has the wrong length")
    view = memoryview(raw)
    sections = []
    for length in lengths:
        sections.append(view[start : start + length])
        start += length
    return files, leaves, sections


def _pack_names(section: memoryview) -> list[str]:
    return bytes(section).decode("ascii", "replace").split("\n")


def _joined(section: memoryview, count: int, source: str) -> list[bytes]:
    parts = bytes(section).split(b"\0") if count else []
    if len(parts) != count or (not count and len(section)):
        raise Damaged(f"{source}: the file table has {len(parts)} names where {count} belong")
    return parts


def _check(table: FileTable, source: str) -> None:
    if (table.kinds > FileKind.SYMLINK).any():
        raise Damaged(f"{source}: the file table has a kind of file that does not exist")
    if not all(table.targets):
        raise Damaged(f"{source}: the file table has a symbolic link that leads nowhere")
    if int(table.leaf_counts.sum(dtype=np.uint64)) != len(table.leaf_frames):
        raise Damaged(f"{source}: the file table counts its leaves wrongly")
    if len(table.leaf_frames) and int(table.leaf_frames.max()) >= len(table.frames):
        raise Damaged(f"{source}: the file table names a leaf frame that it does not have")
    if not _safe_paths(table.paths):
        raise Damaged(f"{source}: the file table has a path that leads out of the data directory")


def _safe_paths(paths: Sequence[bytes]) -> bool:
    """No path is empty or absolute, and none has a part that is empty, `.` or `..`."""
    # Framed by slashes, all of them are one search: no loop over parts of paths.
    framed = b"/" + b"/".join(paths) + b"/"
    return not paths or not any(bad in framed for bad in (b"//", b"/./", b"/../"))
