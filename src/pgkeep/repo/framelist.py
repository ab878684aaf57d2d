"""Where the frames of a generation lie: chunks of the frame list (docs/format.md 6, "Frame list").

A chunk holds whole packs and at most 16,384 frames, so that a reader keeps few of them at a time.
"""

from __future__ import annotations

import struct
from array import array
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pgkeep.codec.container import HEADER_SIZE, MAX_RAW
from pgkeep.errors import Damaged

MAX_FRAMES = 16_384
DIGEST = 32
FRAME_ID = 32
MAGIC = b"FLST"

_HEAD = struct.Struct("<4sIQIIII")
_PER_FRAME = 4 + 2 + FRAME_ID
_PER_PACK = 4 + HEADER_SIZE + DIGEST


@dataclass(frozen=True, slots=True, eq=False)
class FrameList:
    """The frames of some consecutive packs of one generation.

    `pack_frames` (uint32) counts the frames of each pack; `headers` (160 bytes) and `digests` (32)
    are one row a pack; `stored` (uint32, bytes), `blocks` (uint16) and `ids` (32 bytes a row) one a
    frame. `offsets` (int64) is where each frame starts in its pack, `packs` (int64) the number of
    the pack, `numbers` (int64) the frame's number in it.
    """

    generation: int
    first_frame: int
    first_pack: int
    pack_frames: NDArray[np.uint32]
    headers: NDArray[np.uint8]
    digests: NDArray[np.uint8]
    stored: NDArray[np.uint32]
    blocks: NDArray[np.uint16]
    ids: NDArray[np.uint8]
    offsets: NDArray[np.int64] = field(init=False)
    packs: NDArray[np.int64] = field(init=False)
    numbers: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        counts = self.pack_frames
        starts = np.cumsum(self.stored, dtype=np.int64) - self.stored
        firsts = np.cumsum(counts, dtype=np.int64) - counts
        offsets = starts + HEADER_SIZE - np.repeat(starts[firsts], counts)
        object.__setattr__(self, "offsets", offsets)
        packs = np.repeat(np.arange(len(counts), dtype=np.int64), counts) + self.first_pack
        object.__setattr__(self, "packs", packs)
        numbers = np.arange(self.frames, dtype=np.int64) - np.repeat(firsts, counts)
        object.__setattr__(self, "numbers", numbers)

    @property
    def frames(self) -> int:
        return len(self.stored)


class FrameListBuilder:
    """Gathers the frames of a generation, in order, and gives out chunks as they fill up."""

    def __init__(self, generation: int) -> None:
        self._generation = generation
        self._first_frame = 0
        self._first_pack = 0
        self._pack_frames: list[int] = []
        self._headers = bytearray()
        self._digests = bytearray()
        self._stored = array("I")
        self._blocks = array("H")
        self._ids = bytearray()
        self._closed = 0

    def add(self, stored: int, blocks: int, frame_id: bytes) -> None:
        """The next frame of the open pack."""
        self._stored.append(stored)
        self._blocks.append(blocks)
        self._ids += frame_id

    def end_pack(self, header: bytes, digest: bytes) -> FrameList | None:
        """The open pack is complete; the packs before it, if it does not fit in their chunk."""
        frames = len(self._stored) - self._closed
        full = None
        if not fits(len(self._stored), len(self._pack_frames) + 1):
            full = self._cut()
        self._pack_frames.append(frames)
        self._headers += header
        self._digests += digest
        self._closed += frames
        return full

    def finish(self) -> FrameList | None:
        """The last chunk, unless the generation has no frame."""
        return self._cut() if self._pack_frames else None

    def _cut(self) -> FrameList:
        done, packs = self._closed, len(self._pack_frames)
        chunk = FrameList(
            self._generation,
            self._first_frame,
            self._first_pack,
            np.array(self._pack_frames, np.uint32),
            np.frombuffer(bytes(self._headers), np.uint8).reshape(packs, HEADER_SIZE),
            np.frombuffer(bytes(self._digests), np.uint8).reshape(packs, DIGEST),
            np.array(self._stored[:done], np.uint32),
            np.array(self._blocks[:done], np.uint16),
            np.frombuffer(bytes(self._ids[: done * FRAME_ID]), np.uint8).reshape(done, FRAME_ID),
        )
        self._first_frame += done
        self._first_pack += packs
        self._pack_frames = []
        self._headers.clear()
        self._digests.clear()
        del self._stored[:done], self._blocks[:done], self._ids[: done * FRAME_ID]
        self._closed = 0
        return chunk


def fits(frames: int, packs: int) -> bool:
    """Whether a chunk may have this many frames and packs."""
    size = _HEAD.size + frames * _PER_FRAME + packs * _PER_PACK
    return frames <= MAX_FRAMES and size <= MAX_RAW


def encode(chunk: FrameList) -> bytes:
    """The raw bytes of a FLST frame."""
    packs = len(chunk.pack_frames)
    head = _HEAD.pack(
        MAGIC, 0, chunk.generation, chunk.first_frame, chunk.frames, chunk.first_pack, packs
    )
    return b"".join(
        [
            head,
            chunk.pack_frames.astype("<u4").tobytes(),
            chunk.headers.tobytes(),
            chunk.digests.tobytes(),
            chunk.stored.astype("<u4").tobytes(),
            chunk.blocks.astype("<u2").tobytes(),
            chunk.ids.tobytes(),
        ]
    )


def decode(raw: bytes, source: str) -> FrameList:
    """The chunk in a FLST frame; arrays share its memory.

    Raises Damaged, naming `source`, when it is none.
    """
    if len(raw) < _HEAD.size or raw[:4] != MAGIC:
        raise Damaged(f"{source}: not a frame list")
    _, _, generation, first_frame, frames, first_pack, packs = _HEAD.unpack_from(raw)
    if len(raw) != _HEAD.size + frames * _PER_FRAME + packs * _PER_PACK:
        raise Damaged(f"{source}: the frame list has the wrong length")
    pack_frames = np.frombuffer(raw, "<u4", packs, _HEAD.size)
    if int(pack_frames.sum(dtype=np.uint64)) != frames or not pack_frames.all():
        raise Damaged(f"{source}: the frame list counts the frames of its packs wrongly")
    headers_at = _HEAD.size + 4 * packs
    digests_at = headers_at + HEADER_SIZE * packs
    stored_at = digests_at + DIGEST * packs
    blocks_at = stored_at + 4 * frames
    return FrameList(
        generation,
        first_frame,
        first_pack,
        pack_frames,
        _rows(raw, headers_at, packs, HEADER_SIZE),
        _rows(raw, digests_at, packs, DIGEST),
        np.frombuffer(raw, "<u4", frames, stored_at),
        np.frombuffer(raw, "<u2", frames, blocks_at),
        _rows(raw, blocks_at + 2 * frames, frames, FRAME_ID),
    )


def _rows(raw: bytes, offset: int, rows: int, width: int) -> NDArray[np.uint8]:
    return np.frombuffer(raw, np.uint8, rows * width, offset).reshape(rows, width)
