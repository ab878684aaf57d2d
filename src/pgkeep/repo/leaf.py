"""Which generation has each block: leaves (docs/format.md 6, "Leaf").

A leaf maps up to 16,384 consecutive blocks of one file. Everything here is pure and works on whole
leaves with NumPy, never with a Python object a block: a 1 TiB cluster has 8,192 leaves and 134
million blocks.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pgkeep.errors import Damaged, NewerFormat

LEAF_BLOCKS = 16_384
MAX_ENTRIES = 255
MAX_GAP = 65_535
ZEROS = 255
"""Index value of a block that is all zeros and stored nowhere."""
NOWHERE = 0
"""Generation that `resolve` gives for such a block; a generation's number is never 0, since it is
the number of a log entry."""

FRAME_MAGIC = b"LEAF"

_HEAD = struct.Struct("<IBBH")
_ENTRY = struct.Struct("<QQ")
_HAS_MAP = 1

_NO_GAPS: NDArray[np.uint16] = np.empty(0, np.uint16)
_NO_GAPS.flags.writeable = False


class Entry(NamedTuple):
    """Where blocks of a leaf lie: a generation, and the ordinal of the first of them."""

    generation: int
    first: int


@dataclass(frozen=True, slots=True, eq=False)
class Leaf:
    """The map of `blocks` consecutive blocks.

    `index` has the entry of each block (uint8, `ZEROS` for none); None means that all blocks are in
    entry 0, or all zeros when there is no entry. `gaps` (uint16) has the ordinals that are skipped
    between blocks of the entries from 1 on, entry by entry.
    """

    blocks: int
    entries: tuple[Entry, ...]
    index: NDArray[np.uint8] | None
    gaps: NDArray[np.uint16]

    @classmethod
    def single(cls, blocks: int, generation: int, first: int) -> Self:
        """Blocks that all lie one after another in one generation."""
        _check_blocks(blocks)
        return cls(blocks, (Entry(generation, first),), None, _NO_GAPS)

    @classmethod
    def zeros(cls, blocks: int) -> Self:
        """Blocks that are all zeros."""
        _check_blocks(blocks)
        return cls(blocks, (), None, _NO_GAPS)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Leaf) and encode(self) == encode(other)

    def __hash__(self) -> int:
        return hash(encode(self))


class _Moved(NamedTuple):
    """Blocks of the entries from 1 on, in the order of entries, within one in file order."""

    positions: NDArray[np.intp]
    generations: NDArray[np.uint64]
    ordinals: NDArray[np.uint64]

    def where(self, wanted: NDArray[np.bool_]) -> _Moved:
        return _Moved(self.positions[wanted], self.generations[wanted], self.ordinals[wanted])


def split_blocks(blocks: int) -> list[int]:
    """How many blocks each leaf of a file of `blocks` blocks has."""
    whole, rest = divmod(blocks, LEAF_BLOCKS)
    return [LEAF_BLOCKS] * whole + [rest] * bool(rest)


def resolve(leaf: Leaf) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Generation and ordinal of each block; both 0 (`NOWHERE`) for blocks that are zeros."""
    if not leaf.entries:
        return np.zeros(leaf.blocks, np.uint64), np.zeros(leaf.blocks, np.uint64)
    base = leaf.entries[0]
    generations = np.full(leaf.blocks, base.generation, np.uint64)
    ordinals = np.arange(base.first, base.first + leaf.blocks, dtype=np.uint64)
    if leaf.index is not None:
        moved = _moved(leaf)
        generations[moved.positions] = moved.generations
        ordinals[moved.positions] = moved.ordinals
        nowhere = leaf.index == ZEROS
        generations[nowhere] = NOWHERE
        ordinals[nowhere] = 0
    return generations, ordinals


def compose(generations: ArrayLike, ordinals: ArrayLike) -> Leaf:
    """The leaf that `resolve` turns into these arrays; the opposite of `resolve`.

    Entry 0 becomes the run of consecutive ordinals that has the most blocks. Raises ValueError when
    more than 255 entries were needed.
    """
    generation = np.asarray(generations, np.uint64)
    ordinal = np.asarray(ordinals, np.uint64)
    _check_blocks(len(generation))
    index = np.where(generation == NOWHERE, np.uint8(ZEROS), np.uint8(1)).astype(np.uint8)
    stored = np.flatnonzero(index != ZEROS)
    order = stored[np.argsort(generation[stored], kind="stable")]
    return _assemble(index, None, _Moved(order, generation[order], ordinal[order]))


def overlay(
    leaf: Leaf,
    positions: ArrayLike,
    generation: int,
    ordinals: ArrayLike,
    *,
    blocks: int | None = None,
    zeroed: ArrayLike = (),
) -> Leaf:
    """The leaf after `generation` stored the blocks at `positions` under `ordinals`.

    `positions` rise strictly and count from the leaf's start; `ordinals` is as long. `blocks` is
    the new number of blocks when the file grew or shrank (what grew and is not in `positions` is
    zeros), `zeroed` has the positions that became zeros. Raises ValueError when more than 255
    entries were needed; `crowded` tells before that what to store again.
    """
    at = np.asarray(positions, np.intp)
    blocks = leaf.blocks if blocks is None else blocks
    _check_blocks(blocks)
    if len(at) and (at[0] < 0 or at[-1] >= blocks or (np.diff(at) <= 0).any()):
        raise ValueError("positions must rise strictly and lie within the leaf")
    index = _resized_index(leaf, blocks)
    index[np.asarray(zeroed, np.intp)] = ZEROS
    index[at] = ZEROS
    kept = _moved(leaf)
    if blocks < leaf.blocks:
        kept = kept.where(kept.positions < blocks)
    kept = kept.where(index[kept.positions] != ZEROS)
    moved = _Moved(
        np.concatenate([kept.positions, at]),
        np.concatenate([kept.generations, np.full(len(at), generation, np.uint64)]),
        np.concatenate([kept.ordinals, np.asarray(ordinals, np.uint64)]),
    )
    return _assemble(index, leaf.entries[0] if leaf.entries else None, moved)


def crowded(leaf: Leaf, spare: int = 1) -> NDArray[np.intp]:
    """Positions to store again so that the leaf has room for `spare` more entries; mostly none.

    They are the blocks of the smallest entries, so that as little as possible is stored twice.
    """
    surplus = len(leaf.entries) + spare - MAX_ENTRIES
    if surplus <= 0 or leaf.index is None:
        return np.empty(0, np.intp)
    counts = np.bincount(leaf.index, minlength=256)[1 : len(leaf.entries)]
    smallest = np.argsort(counts, kind="stable")[:surplus] + 1
    return np.flatnonzero(np.isin(leaf.index, smallest.astype(np.uint8)))


def encode(leaf: Leaf) -> bytes:
    """The leaf's bytes as they stand in a LEAF frame."""
    has_map = leaf.index is not None
    head = _HEAD.pack(leaf.blocks, len(leaf.entries), _HAS_MAP if has_map else 0, 0)
    numbers = list(chain.from_iterable(leaf.entries))
    entries = struct.pack(f"<{len(numbers)}Q", *numbers)
    if leaf.index is None:
        return head + entries
    halves = leaf.gaps.astype("<u2").view(np.uint8).reshape(-1, 2)
    return b"".join(
        [head, entries, leaf.index.tobytes(), halves[:, 0].tobytes(), halves[:, 1].tobytes()]
    )


def decode(data: bytes | memoryview, source: str) -> Leaf:
    """The leaf in `data`, exactly; arrays may share its memory.

    Raises Damaged, naming `source`, when the bytes are no leaf.
    """
    if len(data) < _HEAD.size:
        raise _damaged(source, f"has {len(data)} bytes")
    blocks, count, flags, reserved = _HEAD.unpack_from(data)
    if flags & ~_HAS_MAP or reserved:
        raise NewerFormat(f"{source}: the leaf has flags that this pgkeep does not know")
    if not 1 <= blocks <= LEAF_BLOCKS:
        raise _damaged(source, f"has {blocks} blocks")
    at = _HEAD.size + count * _ENTRY.size
    if len(data) < at:
        raise _damaged(source, "is cut short")
    entries = tuple(map(Entry._make, _ENTRY.iter_unpack(data[_HEAD.size : at])))
    if not flags & _HAS_MAP:
        if count > 1 or len(data) != at:
            raise _damaged(source, "has no map but needs one")
        return Leaf(blocks, entries, None, _NO_GAPS)
    if len(data) < at + blocks:
        raise _damaged(source, "is cut short")
    index = np.frombuffer(data, np.uint8, blocks, at)
    gaps = _decode_gaps(memoryview(data)[at + blocks :], _gap_count(index, count, source), source)
    return Leaf(blocks, entries, index, gaps)


def encode_frame(leaves: Sequence[bytes]) -> bytes:
    """A LEAF frame of encoded leaves."""
    lengths = struct.pack(f"<{len(leaves)}I", *map(len, leaves))
    return b"".join([FRAME_MAGIC, struct.pack("<I", len(leaves)), lengths, *leaves])


def split_frame(frame: bytes, source: str) -> list[memoryview]:
    """The encoded leaves of a LEAF frame; raises Damaged, naming `source`, when it is none."""
    if len(frame) < 8 or frame[:4] != FRAME_MAGIC:
        raise Damaged(f"{source}: not a frame of leaves")
    (count,) = struct.unpack_from("<I", frame, 4)
    if len(frame) < 8 + 4 * count:
        raise Damaged(f"{source}: the frame of leaves is cut short")
    lengths = struct.unpack_from(f"<{count}I", frame, 8)
    at = 8 + 4 * count
    if len(frame) != at + sum(lengths):
        raise Damaged(f"{source}: the frame of leaves has the wrong length")
    view = memoryview(frame)
    leaves = []
    for length in lengths:
        leaves.append(view[at : at + length])
        at += length
    return leaves


def _check_blocks(blocks: int) -> None:
    if not 1 <= blocks <= LEAF_BLOCKS:
        raise ValueError(f"a leaf has 1 to {LEAF_BLOCKS} blocks, not {blocks}")


def _damaged(source: str, what: str) -> Damaged:
    return Damaged(f"{source}: the leaf {what}")


def _gap_count(index: NDArray[np.uint8], entries: int, source: str) -> int:
    counts = np.bincount(index, minlength=256)
    if counts[entries:ZEROS].any():
        raise _damaged(source, "names an entry that it does not have")
    later = counts[1:entries]
    if not later.all():
        raise _damaged(source, "has an entry without blocks")
    return int(later.sum()) - len(later)


def _decode_gaps(data: memoryview, count: int, source: str) -> NDArray[np.uint16]:
    if len(data) != 2 * count:
        raise _damaged(source, f"has {len(data)} bytes of gaps, not {2 * count}")
    gaps = np.empty(count, "<u2")
    halves = gaps.view(np.uint8).reshape(-1, 2)
    halves.T[:] = np.frombuffer(data, np.uint8).reshape(2, -1)
    return gaps.astype(np.uint16, copy=False)


def _resized_index(leaf: Leaf, blocks: int) -> NDArray[np.uint8]:
    if leaf.index is None:
        old = np.full(leaf.blocks, 0 if leaf.entries else ZEROS, np.uint8)
    else:
        old = leaf.index
    index = np.full(blocks, ZEROS, np.uint8)
    index[: leaf.blocks] = old[:blocks]
    return index


def _moved(leaf: Leaf) -> _Moved:
    if leaf.index is None or len(leaf.entries) < 2:
        nothing = np.empty(0, np.uint64)
        return _Moved(np.empty(0, np.intp), nothing, nothing)
    # Unsigned wrap-around puts 0 and 255 above all entries from 1 on: one comparison for both.
    positions = np.flatnonzero(leaf.index - np.uint8(1) < ZEROS - 1)
    numbers = leaf.index[positions]
    positions = positions[np.argsort(numbers, kind="stable")]
    counts = np.bincount(numbers, minlength=len(leaf.entries))[1:]
    starts = np.cumsum(counts) - counts
    inner = np.ones(len(positions), np.bool_)
    inner[starts] = False
    steps = np.zeros(len(positions), np.uint64)
    steps[inner] = leaf.gaps
    steps += inner
    ordinals = np.cumsum(steps)
    table = np.array(leaf.entries[1:], np.uint64)
    ordinals += np.repeat(table[:, 1] - ordinals[starts], counts)
    return _Moved(positions, np.repeat(table[:, 0], counts), ordinals)


def _assemble(index: NDArray[np.uint8], base: Entry | None, moved: _Moved) -> Leaf:
    """Number the entries of `moved`; `index` already has the blocks of entry 0 and the zeros."""
    gaps = moved.ordinals[1:] - moved.ordinals[:-1] - np.uint64(1)
    begins = np.ones(len(moved.positions), np.bool_)
    # An ordinal that falls wraps around to a huge gap, so that it begins an entry as well.
    begins[1:] = gaps > MAX_GAP
    begins[1:] |= moved.generations[1:] != moved.generations[:-1]
    begins[1:] |= moved.positions[1:] <= moved.positions[:-1]
    starts = np.flatnonzero(begins)
    index[moved.positions] = 1
    if base is None or not (index == 0).any():
        if not len(starts):
            return Leaf.zeros(len(index))
        run = _longest_run(moved, starts)
        if run is not None:
            return _with_base(index, moved, run)
        # Entry 0 has no block; naming entry 1's generation keeps no other one alive.
        base = Entry(int(moved.generations[0]), 0)
    if len(starts) >= MAX_ENTRIES:
        raise ValueError(f"a leaf has at most {MAX_ENTRIES} entries, not {len(starts) + 1}")
    index[moved.positions] = np.cumsum(begins)
    firsts = zip(moved.generations[starts].tolist(), moved.ordinals[starts].tolist(), strict=True)
    entries = (base, *map(Entry._make, firsts))
    if len(entries) == 1 and not index.any():
        return Leaf(len(index), entries, None, _NO_GAPS)
    return Leaf(len(index), entries, index, gaps[~begins[1:]].astype(np.uint16))


def _longest_run(moved: _Moved, starts: NDArray[np.intp]) -> slice | None:
    """The longest entry that could be entry 0: its ordinals rise exactly as its positions do."""
    offsets = moved.ordinals - moved.positions.astype(np.uint64)
    lengths = np.diff(starts, append=len(offsets))
    fits = np.minimum.reduceat(offsets, starts) == np.maximum.reduceat(offsets, starts)
    # A run that starts before its generation does has no first ordinal.
    fits &= moved.ordinals[starts] >= moved.positions[starts].astype(np.uint64)
    if not fits.any():
        return None
    best = int(np.argmax(np.where(fits, lengths, 0)))
    return slice(int(starts[best]), int(starts[best] + lengths[best]))


def _with_base(index: NDArray[np.uint8], moved: _Moved, run: slice) -> Leaf:
    first = int(moved.ordinals[run.start]) - int(moved.positions[run.start])
    base = Entry(int(moved.generations[run.start]), first)
    index[moved.positions[run]] = 0
    rest = np.ones(len(moved.positions), np.bool_)
    rest[run] = False
    return _assemble(index, base, moved.where(rest))
