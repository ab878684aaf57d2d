"""The files of a backup being made: columns in the order in which files come, about a hundred bytes
a file, and how they are cut into chunks of the file table."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from pgkeep.errors import UsageError
from pgkeep.repo import filetable
from pgkeep.repo.filetable import FileEntry, FileKind, FileTable
from pgkeep.repo.refs import BINARY_SIZE, Ref

_CHUNK_BYTES = (1 << 20) - (1 << 16)
"""What a chunk of the file table may have, less its pack table and its head."""


class FileColumns:
    """Files and where their leaves are: `add` a file, then `add_leaf` each of its leaves."""

    def __init__(self) -> None:
        self.bytes = 0
        self._paths: list[bytes] = []
        self._targets: dict[int, bytes] = {}
        self._kinds = array("B")
        self._modes = array("I")
        self._sizes = array("Q")
        self._mtimes = array("q")
        self._flags = array("B")
        self._leaf_counts = array("I")
        self._first_leaves = array("Q")
        self._leaf_frames = array("I")
        self._leaf_places = array("I")

    def __len__(self) -> int:
        return len(self._paths)

    def add(self, entry: FileEntry, leaves: int) -> None:
        """A file that has `leaves` leaves."""
        if entry.kind is FileKind.SYMLINK:
            self._targets[len(self._paths)] = entry.target
        self.bytes += entry.size
        self._paths.append(entry.path)
        self._kinds.append(entry.kind)
        self._modes.append(entry.mode)
        self._sizes.append(entry.size)
        self._mtimes.append(entry.mtime)
        self._flags.append(entry.flags)
        self._leaf_counts.append(leaves)
        self._first_leaves.append(len(self._leaf_frames))

    def add_leaf(self, frame: int, place: int) -> None:
        """The next leaf of the file added last: which LEAF frame, and the place in it."""
        self._leaf_frames.append(frame)
        self._leaf_places.append(place)

    def chunks(self) -> Iterator[NDArray[np.intp]]:
        """The numbers of the files of each chunk, all chunks together in byte order of paths."""
        order = sorted(range(len(self._paths)), key=self._paths.__getitem__)
        start = size = 0
        frames: set[int] = set()
        previous = None
        for position, file in enumerate(order):
            if self._paths[file] == previous:
                raise ValueError(f"{previous!r} was added twice")
            previous = self._paths[file]
            own, touched = self._size_in_table(file)
            size += own
            frames |= touched
            if position - start == filetable.MAX_FILES or _table_size(size, frames) > _CHUNK_BYTES:
                if position > start:
                    yield np.array(order[start:position])
                start, size, frames = position, own, touched
            if _table_size(size, frames) > _CHUNK_BYTES:
                raise UsageError(f"{previous!r} is too large for this format of the repository")
        if order:
            yield np.array(order[start:])

    def _size_in_table(self, file: int) -> tuple[int, set[int]]:
        first, count = self._first_leaves[file], self._leaf_counts[file]
        # Its leaves came one after another: their frames are all from the first one to the last.
        touched = (
            set(range(self._leaf_frames[first], self._leaf_frames[first + count - 1] + 1))
            if count
            else set[int]()
        )
        text = len(self._paths[file]) + len(self._targets.get(file, b"")) + 2
        return text + filetable.BYTES_PER_FILE + filetable.BYTES_PER_LEAF * count, touched

    def table(self, files: NDArray[np.intp], frames: Sequence[Ref]) -> FileTable:
        """The chunk of these files; `frames` has the LEAF frames in the order of their numbers."""
        counts = np.asarray(self._leaf_counts)[files]
        ends = np.cumsum(counts, dtype=np.int64)
        firsts = np.asarray(self._first_leaves).astype(np.int64)[files]
        rows = np.arange(int(counts.sum())) + np.repeat(firsts - (ends - counts), counts)
        used, numbers = np.unique(np.asarray(self._leaf_frames)[rows], return_inverse=True)
        return FileTable(
            frames=[frames[number] for number in used],
            paths=[self._paths[file] for file in files],
            kinds=np.asarray(self._kinds)[files],
            modes=np.asarray(self._modes)[files],
            sizes=np.asarray(self._sizes)[files],
            mtimes=np.asarray(self._mtimes)[files],
            flags=np.asarray(self._flags)[files],
            leaf_counts=counts,
            leaf_frames=numbers.astype(np.uint32),
            leaf_places=np.asarray(self._leaf_places)[rows],
            targets=[self._targets[file] for file in files.tolist() if file in self._targets],
        )


def _table_size(size: int, frames: set[int]) -> int:
    return size + BINARY_SIZE * len(frames)
