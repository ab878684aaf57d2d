"""Eight bytes a block that tell whether it changed (docs/format.md 6, "Page prints").

A print proves nothing: it saves storing a block again, and writing one that a restore finds in
place. Integrity is the business of seals and frame ids.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np
import xxhash
from numpy.typing import NDArray

from pgkeep.errors import Damaged

MAGIC = b"PRNT"

_HEAD = struct.Struct("<4sIQII")
_MOST_PRINTS = 65_536
_MOST_FRAMES = 512


@dataclass(frozen=True, slots=True, eq=False)
class Prints:
    """The prints of consecutive frames: `values` is frames × blocks of a full frame, uint64."""

    generation: int
    first_frame: int
    values: NDArray[np.uint64]


def page_prints(
    data: bytes | bytearray | memoryview, block_size: int, seed: int
) -> NDArray[np.uint64]:
    """XXH3-64 of each block of `data`, whose length is a multiple of `block_size`."""
    view = memoryview(data).cast("B")
    count = len(view) // block_size
    digest = xxhash.xxh3_64_intdigest
    return np.fromiter(
        (digest(view[at : at + block_size], seed) for at in range(0, len(view), block_size)),
        np.uint64,
        count,
    )


def frames_per_chunk(frame_blocks: int) -> int:
    """How many frames' prints a chunk has (the last one may have fewer)."""
    return min(_MOST_FRAMES, _MOST_PRINTS // frame_blocks)


class PrintsBuilder:
    """Gathers the prints of a generation's frames, in order, and gives out chunks as they fill."""

    def __init__(self, generation: int, frame_blocks: int) -> None:
        self._generation = generation
        self._first_frame = 0
        self._count = 0
        self._values = np.zeros((frames_per_chunk(frame_blocks), frame_blocks), np.uint64)

    def add(self, prints: NDArray[np.uint64]) -> Prints | None:
        """The next frame's prints, fewer for a short frame; the chunk, when this one fills it."""
        self._values[self._count, : len(prints)] = prints
        self._count += 1
        return self.finish() if self._count == len(self._values) else None

    def finish(self) -> Prints | None:
        """What has been gathered since the last chunk, if anything."""
        if not self._count:
            return None
        chunk = Prints(self._generation, self._first_frame, self._values[: self._count].copy())
        self._first_frame += self._count
        self._count = 0
        self._values[:] = 0
        return chunk


def encode(prints: Prints) -> bytes:
    """The raw bytes of a PRNT frame."""
    head = _HEAD.pack(MAGIC, 0, prints.generation, prints.first_frame, len(prints.values))
    return head + prints.values.astype("<u8", copy=False).tobytes()


def decode(raw: bytes, frame_blocks: int, source: str) -> Prints:
    """The chunk in a PRNT frame; raises Damaged, naming `source`, when it is none."""
    if len(raw) < _HEAD.size or raw[:4] != MAGIC:
        raise Damaged(f"{source}: not page prints")
    _, _, generation, first_frame, frames = _HEAD.unpack_from(raw)
    if len(raw) != _HEAD.size + 8 * frames * frame_blocks:
        raise Damaged(f"{source}: the page prints have the wrong length")
    values = np.frombuffer(raw, "<u8", offset=_HEAD.size).reshape(frames, frame_blocks)
    return Prints(generation, first_frame, values)
