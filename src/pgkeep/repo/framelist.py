"""Where the frames of a generation lie: chunks of the frame list (docs/format.md 6, "Frame list").

A chunk holds whole packs and at most 16,384 frames, so that a reader keeps few of them at a time.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pgkeep.errors import Damaged

MAX_FRAMES = 16_384
MAX_BYTES = 1 << 20
PACK_HEADER = 160
DIGEST = 32
FRAME_ID = 32
MAGIC = b"FLST"

_HEAD = struct.Struct("<4sIQIIII")
_PER_FRAME = 4 + 2 + FRAME_ID
_PER_PACK = 4 + PACK_HEADER + DIGEST


@dataclass(frozen=True, slots=True, eq=False)
class FrameList:
    """The frames of some consecutive packs of one generation.

    `pack_frames` (uint32) counts the frames of each pack; `headers` (160 bytes) and `digests` (32)
    are one row a pack; `stored` (uint32, bytes), `blocks` (uint16) and `ids` (32 bytes a row) one a
    frame. `offsets` (int64) is where each frame starts in its pack, `packs` (int64) the number of
    the pack.
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

    def __post_init__(self) -> None:
        ends = np.cumsum(self.stored, dtype=np.int64)
        starts = ends - self.stored
        first_of_pack = np.cumsum(self.pack_frames, dtype=np.int64) - self.pack_frames
        offsets = starts + PACK_HEADER - np.repeat(starts[first_of_pack], self.pack_frames)
        packs = np.repeat(np.arange(len(self.pack_frames)), self.pack_frames) + self.first_pack
        object.__setattr__(self, "offsets", offsets)
        object.__setattr__(self, "packs", packs)

    @property
    def frames(self) -> int:
        return len(self.stored)

    def frame_of_pack(self, frame: int) -> int:
        """The number that frame `frame` of this chunk (from 0) has in its pack."""
        pack = int(self.packs[frame]) - self.first_pack
        return frame - int(self.pack_frames[:pack].sum())


def fits(frames: int, packs: int) -> bool:
    """Whether a chunk may have this many frames and packs."""
    size = _HEAD.size + frames * _PER_FRAME + packs * _PER_PACK
    return frames <= MAX_FRAMES and size <= MAX_BYTES


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
    digests_at = headers_at + PACK_HEADER * packs
    stored_at = digests_at + DIGEST * packs
    blocks_at = stored_at + 4 * frames
    return FrameList(
        generation,
        first_frame,
        first_pack,
        pack_frames,
        _rows(raw, headers_at, packs, PACK_HEADER),
        _rows(raw, digests_at, packs, DIGEST),
        np.frombuffer(raw, "<u4", frames, stored_at),
        np.frombuffer(raw, "<u2", frames, blocks_at),
        _rows(raw, blocks_at + 2 * frames, frames, FRAME_ID),
    )


def _rows(raw: bytes, offset: int, rows: int, width: int) -> NDArray[np.uint8]:
    return np.frombuffer(raw, np.uint8, rows * width, offset).reshape(rows, width)
