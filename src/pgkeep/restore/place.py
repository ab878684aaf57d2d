"""Makes directories, links and files, writes blocks into place, and makes all of it durable.

Many threads call `Placement` at once, each with work of its own. A thread holds one frame and one
open file at a time. Writing back is started as soon as a piece is written, so that the disk works
while frames are opened and little is left for the last `fsync`; measured, that took 0.65 of the
time of writing everything first. Blocks that are zeros stay holes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pgkeep.errors import Damaged, TargetDirectoryError
from pgkeep.repo.leaf import NOWHERE, resolve
from pgkeep.restore.destination import Owner, make_directory, sync_directory, take_over
from pgkeep.restore.layout import Layout
from pgkeep.restore.plan import CONTROL_FILE, Made, Piece, Plan

ReadFrames = Callable[[int, NDArray[np.int64]], Iterable[tuple[int, bytes]]]
"""Given a generation and the numbers of frames of it, rising: each with its raw bytes, in order."""

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_EARLY_WRITEBACK = 256 * 1024
_CONTROL_DRAFT = CONTROL_FILE + b".pgkeep"
_PERMISSIONS = 0o777


class Runs(NamedTuple):
    """Blocks that lie side by side both in a frame and in a file, ordered by generation and frame.

    One row a run: its generation, frame, place of its first block in the frame, file, number of its
    first block in the file, and number of blocks.
    """

    generation: list[int]
    frame: list[int]
    slot: list[int]
    file: list[int]
    block: list[int]
    blocks: list[int]


def runs_of(unit: list[Piece], slots: int) -> Runs:
    """What to copy for a unit of `Plan.units`; `slots` is how many blocks a frame holds at most."""
    generation, ordinal, file, block = _mapped(unit[0]) if unit[0].leaf else _plain(unit)
    frame = ordinal // slots
    begins = np.ones(len(ordinal), np.bool_)
    begins[1:] = (np.diff(ordinal) != 1) | (np.diff(block) != 1) | (np.diff(frame) != 0)
    begins[1:] |= (np.diff(file) != 0) | (generation[1:] != generation[:-1])
    first = np.flatnonzero(begins)
    columns = (generation, frame, ordinal % slots, file, block)
    count = np.diff(first, append=len(ordinal))
    rows: list[list[int]] = [column[first].tolist() for column in columns]
    return Runs._make([*rows, count.tolist()])


_Columns = tuple[NDArray[np.uint64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]


def _mapped(piece: Piece) -> _Columns:
    assert piece.leaf is not None
    generations, ordinals = resolve(piece.leaf)
    stored = np.flatnonzero(generations != NOWHERE)
    order = stored[np.lexsort((ordinals[stored], generations[stored]))]
    file = np.full(len(order), piece.file, np.int64)
    return generations[order], ordinals[order].astype(np.int64), file, order + piece.start


def _plain(unit: list[Piece]) -> _Columns:
    rows = np.array([(p.first, p.file, p.start, p.blocks) for p in unit], np.int64)
    blocks = rows[:, 3]
    inner = np.arange(int(blocks.sum())) - np.repeat(np.cumsum(blocks) - blocks, blocks)
    first, file, start = (np.repeat(rows[:, column], blocks) for column in range(3))
    generation = np.full(len(inner), unit[0].generation, np.uint64)
    return generation, first + inner, file, start + inner


class _File:
    """The file that a thread is writing to; closing it starts writing back what was written."""

    def __init__(self) -> None:
        self._fd = -1
        self._path = b""
        self._low = self._high = 0

    def __enter__(self) -> _File:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close()

    def write(self, path: bytes, data: memoryview, offset: int) -> None:
        if path != self._path:
            self._close()
            self._fd = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            self._path, self._low, self._high = path, offset, offset
        self._low = min(self._low, offset)
        self._high = max(self._high, offset + len(data))
        _write_all(self._fd, data, offset, path)

    def _close(self) -> None:
        if self._fd < 0:
            return
        if self._high - self._low >= _EARLY_WRITEBACK:
            # Dirty pages are not dropped by this but handed to the disk, without waiting for it.
            os.posix_fadvise(self._fd, self._low, self._high - self._low, os.POSIX_FADV_DONTNEED)
        os.close(self._fd)
        self._fd, self._path = -1, b""


def _write_all(fd: int, data: memoryview, offset: int, path: bytes) -> None:
    try:
        while data:
            written = os.pwrite(fd, data, offset)
            data, offset = data[written:], offset + written
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from None


class Placement:
    """A plan being carried out. The methods are called in the order in which they stand here."""

    def __init__(self, plan: Plan, owner: Owner, read: ReadFrames, *, directory_mode: int) -> None:
        self._plan = plan
        self._where: Layout = plan.layout
        self._owner = owner
        self._read = read
        self._directory_mode = directory_mode
        self._directories: list[bytes] = []

    def make_directories(self) -> None:
        """The target, the tablespaces' directories, all directories in them, and the links."""
        places = [self._where.root, *(t.directory for t in self._where.tablespaces)]
        for place in places:
            make_directory(place, self._directory_mode, self._owner)
        self._directories = [os.fsencode(place) for place in places]
        for path, mode in sorted(self._wanted_directories().items()):
            directory = self._where.destination(path)
            if directory in self._directories:
                continue
            os.mkdir(directory)
            take_over(Path(os.fsdecode(directory)), mode, self._owner)
            self._directories.append(directory)
        links = [(path, target) for path, target in self._plan.links]
        for space in self._where.tablespaces:
            links.append((b"pg_tblspc/%d" % space.oid, os.fsencode(space.directory)))
        for path, target in links:
            self._make_link(os.path.join(os.fsencode(self._where.root), path), target)

    def _wanted_directories(self) -> dict[bytes, int]:
        """Every directory's mode: the table's, and ours for what it only implies."""
        wanted = dict.fromkeys([b"global", b"pg_tblspc", b"pg_wal"], self._directory_mode)
        for path in {os.path.dirname(file.path) for file in self._plan.files}:
            while path:
                wanted[path] = self._directory_mode
                path = os.path.dirname(path)
        wanted |= {made.path: made.mode & _PERMISSIONS for made in self._plan.directories}
        return wanted

    def _make_link(self, path: bytes, target: bytes) -> None:
        os.symlink(target, path)
        if self._owner.change:
            os.chown(path, self._owner.uid, self._owner.gid, follow_symlinks=False)

    def make_files(self, files: list[Made]) -> None:
        """Makes files of their final size, all holes."""
        for file in files:
            fd = os.open(self._where.destination(file.path), _NEW, 0o600)
            try:
                self._owner.give(fd)
                os.fchmod(fd, file.mode & _PERMISSIONS)
                if file.size:
                    os.ftruncate(fd, file.size)
            finally:
                os.close(fd)

    def write(self, unit: list[Piece], slots: int) -> int:
        """Writes the blocks of a unit; returns how many bytes."""
        written = 0
        with _File() as open_file:
            for file, block, data in self._blocks(unit, slots):
                made = self._plan.files[file]
                offset = block * self._plan.block_size
                wanted = data[: made.size - offset]
                open_file.write(self._where.destination(made.path), wanted, offset)
                written += len(wanted)
        return written

    def _blocks(self, unit: list[Piece], slots: int) -> Iterator[tuple[int, int, memoryview]]:
        """(file, first block in it, bytes) of each run of a unit."""
        runs, size = runs_of(unit, slots), self._plan.block_size
        at = 0
        for generation, frames in _by_generation(runs):
            for frame, raw in self._read(generation, frames):
                view = memoryview(raw)
                while at < len(runs.frame) and (
                    runs.frame[at] == frame and runs.generation[at] == generation
                ):
                    data = view[runs.slot[at] * size : (runs.slot[at] + runs.blocks[at]) * size]
                    if len(data) != runs.blocks[at] * size:
                        raise Damaged(
                            f"frame {frame} of generation {generation} has fewer blocks than "
                            "the backup's map says"
                        )
                    yield runs.file[at], runs.block[at], data
                    at += 1
        if at != len(runs.frame):
            raise Damaged(
                f"frame {runs.frame[at]} of generation {runs.generation[at]} is not there"
            )

    def sync_files(self, files: list[Made]) -> int:
        """Waits until files are on disk; returns how many.

        Raises OSError when one could not be written back.
        """
        for file in files:
            path = self._where.destination(file.path)
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                os.fsync(fd)
            except OSError as error:
                raise OSError(error.errno, error.strerror, path) from None
            finally:
                os.close(fd)
        return len(files)

    def sync_directories(self) -> None:
        """Waits until the names in all directories are on disk."""
        for directory in self._directories:
            sync_directory(directory)

    def place_control(self, slots: int) -> None:
        """Puts `global/pg_control` in place, whole and durable: from now on a server can start."""
        piece = self._plan.control
        assert piece is not None
        (content,) = (data for _, _, data in self._blocks([piece], slots))
        draft = self._where.destination(_CONTROL_DRAFT)
        fd = os.open(draft, _NEW, 0o600)
        try:
            self._owner.give(fd)
            os.fchmod(fd, 0o640 if self._directory_mode & 0o050 else 0o600)
            _write_all(fd, content[: self._plan.control_size], 0, draft)
            os.fsync(fd)
        finally:
            os.close(fd)
        final = self._where.destination(CONTROL_FILE)
        os.rename(draft, final)
        sync_directory(os.path.dirname(final))


def _by_generation(runs: Runs) -> Iterator[tuple[int, NDArray[np.int64]]]:
    generations = np.array(runs.generation, np.uint64)
    frames = np.array(runs.frame, np.int64)
    edges = np.flatnonzero(generations[1:] != generations[:-1]) + 1
    for group in np.split(np.arange(len(generations)), edges):
        if len(group):
            yield runs.generation[int(group[0])], np.unique(frames[group])


def explain(error: OSError, target: Path) -> TargetDirectoryError:
    """What the system said while the target was written, as an error with a remedy."""
    name = os.fsdecode(error.filename) if error.filename is not None else str(target)
    return TargetDirectoryError(
        f"writing {name} failed: {error.strerror or error}",
        hint=f"mend that, empty {target} and its tablespaces' directories, and restore again",
    )
