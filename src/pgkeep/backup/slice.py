"""Cuts a stream of files into frames, and says where each block of each file went.

Every file is a sequence of blocks, the last one filled with zeros. A leaf's blocks have consecutive
ordinals: a leaf starts in the open frame if all of it fits there, otherwise at a new frame
(`docs/format.md`, "Leaf"). Pure: bytes in, frames out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from pgkeep.pgformat.page import checksummed
from pgkeep.repo.filetable import FLAG_CHECKSUMS, FileEntry
from pgkeep.repo.leaf import LEAF_BLOCKS, Leaf

FRAME_SIZE = 1 << 20


@dataclass(slots=True)
class Frame:
    """Up to 1 MiB of blocks, numbered in the generation."""

    number: int
    data: memoryview


@dataclass(slots=True)
class SlicedFile:
    """A file that has gone by: its entry and its leaves; `content` only where it was asked for."""

    entry: FileEntry
    leaves: list[Leaf]
    content: bytes | None = None


@dataclass(slots=True)
class _Open:
    entry: FileEntry
    blocks: int
    leaves: list[Leaf] = field(default_factory=list)
    sliced: int = 0
    received: int = 0
    kept: bytearray | None = None


class Slicer:
    """Feed it `begin`, `data` and `end` for each file, then `finish`.

    `keep` are the paths whose content is wanted whole afterwards.
    """

    def __init__(
        self,
        generation: int,
        *,
        block_size: int,
        keep: frozenset[bytes] = frozenset(),
    ) -> None:
        self._generation = generation
        self._block_size = block_size
        self._keep = keep
        self._slots = FRAME_SIZE // block_size
        self._number = 0
        self._buffer = memoryview(bytearray(FRAME_SIZE))
        self._fill = 0
        self._file: _Open | None = None
        self._leaf_left = 0

    @property
    def frames(self) -> int:
        """How many frames have been given out."""
        return self._number

    def begin(self, entry: FileEntry) -> None:
        """A regular file starts; `entry.size` bytes of `data` follow."""
        if checksummed(entry.path) and entry.size and entry.size % self._block_size == 0:
            entry = entry.with_flags(entry.flags | FLAG_CHECKSUMS)
        self._file = _Open(
            entry=entry,
            blocks=-(-entry.size // self._block_size),
            kept=bytearray() if entry.path in self._keep else None,
        )
        self._leaf_left = 0

    def data(self, chunk: memoryview) -> Iterator[Frame]:
        """The file's next bytes; yields each frame that they fill."""
        file = self._file
        assert file is not None
        if file.kept is not None:
            file.kept += chunk
        file.received += len(chunk)
        position = 0
        while position < len(chunk):
            if self._leaf_left == 0:
                yield from self._open_leaf(file)
            room = min(FRAME_SIZE - self._fill, self._leaf_left, len(chunk) - position)
            self._buffer[self._fill : self._fill + room] = chunk[position : position + room]
            self._fill += room
            self._leaf_left -= room
            position += room
            if self._fill == FRAME_SIZE:
                yield self._cut()

    def end(self) -> tuple[SlicedFile, Frame | None]:
        """The file is over: it, with the frame that its last block filled, if it did."""
        file = self._file
        assert file is not None
        filled: Frame | None = None
        if self._fill % self._block_size:
            padding = -self._fill % self._block_size
            self._buffer[self._fill : self._fill + padding] = bytes(padding)
            self._fill += padding
            if self._fill == FRAME_SIZE:
                filled = self._cut()
        self._file = None
        content = bytes(file.kept) if file.kept is not None else None
        return SlicedFile(file.entry, file.leaves, content), filled

    def finish(self) -> Iterator[Frame]:
        """The stream is over: the last frame, if one is open."""
        if self._fill:
            yield self._cut()

    def _open_leaf(self, file: _Open) -> Iterator[Frame]:
        blocks = min(file.blocks - file.sliced, LEAF_BLOCKS)
        if self._fill and self._fill // self._block_size + blocks > self._slots:
            yield self._cut()
        first = self._number * self._slots + self._fill // self._block_size
        file.leaves.append(Leaf.single(blocks, self._generation, first))
        start = file.sliced * self._block_size
        file.sliced += blocks
        self._leaf_left = min(blocks * self._block_size, file.entry.size - start)

    def _cut(self) -> Frame:
        frame = Frame(self._number, self._buffer[: self._fill])
        self._number += 1
        self._buffer = memoryview(bytearray(FRAME_SIZE))
        self._fill = 0
        return frame
