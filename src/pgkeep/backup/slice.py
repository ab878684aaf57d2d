"""Cuts a stream of files into frames, and says where each block of each file went.

Every file is a sequence of blocks, the last one filled with zeros. A leaf's blocks have consecutive
ordinals: a leaf starts in the open frame if all of it fits there, otherwise at a new frame
(`docs/format.md`, "Leaf"). Pure: bytes in, frames out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from pgkeep.pgformat.page import parse_relation_path
from pgkeep.repo.filetable import FLAG_CHECKSUMS, FileEntry
from pgkeep.repo.leaf import LEAF_BLOCKS, Leaf

FRAME_SIZE = 1 << 20


@dataclass(slots=True)
class Span:
    """Whole pages of one relation file inside a frame, to be checked.

    `block` is the first one's number in the relation, as its checksum counts it; `file_block` is
    its number in the file.
    """

    path: bytes
    block: int
    file_block: int
    offset: int
    length: int


@dataclass(slots=True)
class Frame:
    """Up to 1 MiB of blocks, numbered in the generation."""

    number: int
    data: memoryview
    spans: list[Span]


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
    relation_block: int | None
    leaves: list[Leaf] = field(default_factory=list)
    sliced: int = 0
    received: int = 0
    kept: bytearray | None = None


class Slicer:
    """Feed it `begin`, `data` and `end` for each file, then `finish`.

    `segment_blocks` is how many blocks a relation's file has at most (pg_control's RELSEG_SIZE);
    `keep` are the paths whose content is wanted whole afterwards.
    """

    def __init__(
        self,
        generation: int,
        *,
        block_size: int,
        segment_blocks: int,
        keep: frozenset[bytes] = frozenset(),
    ) -> None:
        self._generation = generation
        self._block_size = block_size
        self._segment_blocks = segment_blocks
        self._keep = keep
        self._slots = FRAME_SIZE // block_size
        self._number = 0
        self._buffer = memoryview(bytearray(FRAME_SIZE))
        self._fill = 0
        self._spans: list[Span] = []
        self._file: _Open | None = None
        self._leaf_left = 0

    @property
    def frames(self) -> int:
        """How many frames have been given out."""
        return self._number

    def begin(self, entry: FileEntry) -> None:
        """A regular file starts; `entry.size` bytes of `data` follow."""
        relation = parse_relation_path(entry.path)
        whole = entry.size % self._block_size == 0
        checked = relation is not None and whole and entry.size > 0
        if checked:
            entry = entry.with_flags(entry.flags | FLAG_CHECKSUMS)
        self._file = _Open(
            entry=entry,
            blocks=-(-entry.size // self._block_size),
            relation_block=relation.segment * self._segment_blocks
            if relation is not None and checked
            else None,
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
        if file.relation_block is not None:
            self._note_spans(file, start // self._block_size, blocks)

    def _note_spans(self, file: _Open, file_block: int, blocks: int) -> None:
        """A leaf may run over many frames: its spans are noted as each is cut."""
        assert file.relation_block is not None
        self._spans.append(
            Span(
                path=file.entry.path,
                block=file.relation_block + file_block,
                file_block=file_block,
                offset=self._fill,
                length=blocks * self._block_size,
            )
        )

    def _cut(self) -> Frame:
        spans, rest = self._spans, []
        if spans and spans[-1].offset + spans[-1].length > self._fill:
            last = spans[-1]
            here = self._fill - last.offset
            done = here // self._block_size
            if last.length > here:
                rest = [
                    Span(
                        last.path, last.block + done, last.file_block + done, 0, last.length - here
                    )
                ]
            last.length = here
        frame = Frame(self._number, self._buffer[: self._fill], spans)
        self._number += 1
        self._buffer = memoryview(bytearray(FRAME_SIZE))
        self._fill = 0
        self._spans = rest
        return frame
