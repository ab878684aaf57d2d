"""Which directory gets what, in which order it is read, and how much room it takes (pure).

Blocks are read in the order in which they were stored, so that every frame is fetched and opened
once and reading is nearly sequential. A leaf without a map is one run of a generation and is cut
into pieces; one with a map may take blocks from many generations whose frames serve the whole
leaf, so it stays in one piece.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pgkeep.errors import Damaged
from pgkeep.repo.filetable import FileKind
from pgkeep.repo.leaf import LEAF_BLOCKS, Leaf
from pgkeep.restore.layout import Layout

UNIT_FRAMES = 8
CONTROL_FILE = b"global/pg_control"
LEFT_OUT = frozenset(
    {
        b"backup_label",
        b"backup_label.old",
        b"backup_manifest",
        b"postmaster.opts",
        b"postmaster.pid",
        b"recovery.signal",
        b"standby.signal",
        b"tablespace_map",
        b"tablespace_map.old",
    }
)
"""Files of a data directory that a restore makes anew or that must not reach the server."""


class Chunk(Protocol):
    """The part of `repo.tree.Chunk` that a plan is made from."""

    @property
    def paths(self) -> Sequence[bytes]: ...
    @property
    def kinds(self) -> NDArray[np.uint8]: ...
    @property
    def modes(self) -> NDArray[np.uint32]: ...
    @property
    def sizes(self) -> NDArray[np.uint64]: ...
    @property
    def targets(self) -> Sequence[bytes]: ...
    def leaves(self, file: int, /) -> list[Leaf]: ...


@dataclass(frozen=True, slots=True)
class Made:
    """A directory or an empty file to make: its path in the backup, its mode, its size."""

    path: bytes
    mode: int
    size: int = 0


@dataclass(frozen=True, slots=True)
class Piece:
    """Consecutive blocks of one file.

    Without a `leaf` they lie one after another in `generation` from the ordinal `first` on; with
    one it has the map of all of them. `file` is the number of the file in the plan, `start` the
    number of the first block in the file.
    """

    file: int
    start: int
    blocks: int
    generation: int
    first: int
    leaf: Leaf | None = None


class _Pieces:
    """Columns of all leaves to place: some 40 bytes each, and no object."""

    def __init__(self) -> None:
        self.file = array("q")
        self.start = array("q")
        self.blocks = array("q")
        self.generation = array("Q")
        self.first = array("Q")
        self.mapped = array("b")

    def add(self, file: int, start: int, leaf: Leaf) -> None:
        base = leaf.entries[0]
        self.file.append(file)
        self.start.append(start)
        self.blocks.append(leaf.blocks)
        self.generation.append(base.generation)
        self.first.append(base.first)
        self.mapped.append(leaf.index is not None)

    def in_order(self) -> Iterator[int]:
        order = np.lexsort(
            (np.frombuffer(self.first, np.uint64), np.frombuffer(self.generation, np.uint64))
        )
        for start in range(0, len(order), 4096):
            yield from order[start : start + 4096].tolist()

    def __len__(self) -> int:
        return len(self.file)


@dataclass(slots=True)
class Plan:
    """All that a restore writes, but for what recovery needs (`recovery` makes that).

    `bytes` counts all files; `needs` is how many bytes go to each directory (the target and the
    tablespaces'). The control file is no part of `files`: it is placed by itself, last.
    """

    layout: Layout
    block_size: int
    directories: list[Made] = field(default_factory=list)
    files: list[Made] = field(default_factory=list)
    links: list[tuple[bytes, bytes]] = field(default_factory=list)
    control: Piece | None = None
    control_size: int = 0
    bytes: int = 0
    needs: dict[Path, int] = field(default_factory=dict)
    _pieces: _Pieces = field(default_factory=_Pieces)
    _sources: list[tuple[int, Callable[[int], list[Leaf]]]] = field(default_factory=list)
    _numbers: array[int] = field(default_factory=lambda: array("q"))

    @property
    def pieces(self) -> int:
        return len(self._pieces)

    def units(self, slots: int) -> Iterator[list[Piece]]:
        """The work, in units of about 8 MiB and of one base generation each, in reading order.

        `slots` is how many blocks a frame holds at most; units end where a frame does, wherever
        that is possible.
        """
        unit: list[Piece] = []
        size = 0
        for piece in self._cut(slots):
            if unit and _ends_before(unit[-1], piece, size, slots):
                yield unit
                unit, size = [], 0
            unit.append(piece)
            size += piece.blocks
        if unit:
            yield unit

    def _cut(self, slots: int) -> Iterator[Piece]:
        p = self._pieces
        for i in p.in_order():
            if p.mapped[i]:
                yield Piece(
                    p.file[i], p.start[i], p.blocks[i], p.generation[i], p.first[i], self._leaf(i)
                )
                continue
            done = 0
            while done < p.blocks[i]:
                first = p.first[i] + done
                blocks = min(UNIT_FRAMES * slots - first % slots, p.blocks[i] - done)
                yield Piece(p.file[i], p.start[i] + done, blocks, p.generation[i], first)
                done += blocks

    def _leaf(self, i: int) -> Leaf:
        """A leaf with a map is read again when its turn comes: all of them would take too much."""
        file = self._pieces.file[i]
        source = _last_at_or_before(self._sources, file)
        return source(self._numbers[file])[self._pieces.start[i] // LEAF_BLOCKS]


def _last_at_or_before(
    sources: list[tuple[int, Callable[[int], list[Leaf]]]], file: int
) -> Callable[[int], list[Leaf]]:
    low, high = 0, len(sources)
    while high - low > 1:
        middle = (low + high) // 2
        if sources[middle][0] <= file:
            low = middle
        else:
            high = middle
    return sources[low][1]


def _ends_before(last: Piece, piece: Piece, size: int, slots: int) -> bool:
    if piece.leaf is not None or last.leaf is not None or piece.generation != last.generation:
        return True
    same_frame = (last.first + last.blocks - 1) // slots == piece.first // slots
    full = UNIT_FRAMES * slots
    return size + piece.blocks > full and not (same_frame and size < 2 * full)


def plan(chunks: Iterable[Chunk], where: Layout, *, block_size: int) -> Plan:
    """Goes once through a backup's file table.

    Raises Damaged when it has no control file, and what reading the table and leaves raises.
    """
    made = Plan(where, block_size)
    made.needs = dict.fromkeys([where.root, *(t.directory for t in where.tablespaces)], 0)
    for chunk in chunks:
        _take_chunk(made, chunk)
    if made.control is None:
        raise Damaged("the backup has no global/pg_control")
    return made


def _take_chunk(made: Plan, chunk: Chunk) -> None:
    made._sources.append((len(made.files), chunk.leaves))
    targets = iter(chunk.targets)
    columns = zip(
        chunk.paths,
        chunk.kinds.tolist(),
        chunk.modes.tolist(),
        chunk.sizes.tolist(),
        strict=True,
    )
    for number, (path, kind, mode, size) in enumerate(columns):
        if kind == FileKind.SYMLINK:
            _take_link(made, path, next(targets))
        elif path in LEFT_OUT:
            continue
        elif kind == FileKind.DIRECTORY:
            made.directories.append(Made(path, mode))
        else:
            _take_file(made, chunk, number, Made(path, mode, size))


def _take_link(made: Plan, path: bytes, target: bytes) -> None:
    """A tablespace's link is made from the layout, wherever the old one led to."""
    if made.layout.tablespace_of(path) is None:
        made.links.append((path, target))


def _take_file(made: Plan, chunk: Chunk, number: int, file: Made) -> None:
    leaves = chunk.leaves(number) if file.size else []
    made.bytes += file.size
    made.needs[made.layout.directory_of(file.path)] += _rounded(file.size)
    if file.path == CONTROL_FILE:
        base = leaves[0].entries[0]
        made.control = Piece(-1, 0, leaves[0].blocks, base.generation, base.first, leaves[0])
        made.control_size = file.size
        return
    made.files.append(file)
    made._numbers.append(number)
    start = 0
    for leaf in leaves:
        if leaf.entries:
            made._pieces.add(len(made.files) - 1, start, leaf)
        start += leaf.blocks


def _rounded(size: int) -> int:
    """What a file takes on disk: whole blocks of 4 KiB."""
    return -(-size // 4096) * 4096
