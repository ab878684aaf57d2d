"""Stores what one backup read: frames of blocks in data packs, numbered in order.

Writing takes two steps, so that the dear one can run in many threads: `GenerationWriter.encode`
compresses and identifies, `add` seals in order, numbers and hands full packs to the uploads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import msgspec
import numpy as np
from numpy.typing import NDArray

from pgkeep.codec.compress import compress
from pgkeep.codec.container import MAX_RAW, Kind
from pgkeep.parallel import Pool
from pgkeep.repo import framelist
from pgkeep.repo import prints as prints_
from pgkeep.repo.framelist import FrameList
from pgkeep.repo.mapwriter import MapWriter
from pgkeep.repo.packs import PACK_SIZE, FinishedPack, PackStream
from pgkeep.repo.prints import Prints, page_prints
from pgkeep.repo.refs import JsonRef, PackTable, Ref, to_json
from pgkeep.repo.repository import Repository


class GenerationDocument(msgspec.Struct, frozen=True):
    """The generation document (docs/format.md 6); members of a newer writer are ignored."""

    generation: int
    owner: str
    block_size: Annotated[int, msgspec.Meta(ge=1, le=MAX_RAW)]
    frames: int
    blocks: int
    data_packs: int
    data_bytes: int
    packs: list[str]
    frame_lists: list[JsonRef]
    frame_list_starts: list[int]
    prints: list[JsonRef]


@dataclass(frozen=True, slots=True)
class GenerationRef:
    """A generation as a root names it: its number, who wrote it, and where its document lies."""

    generation: int
    owner: str
    refs: list[Ref]


@dataclass(frozen=True, slots=True, eq=False)
class EncodedFrame:
    """A frame that is ready to be sealed; `prints` has one uint64 a block."""

    compressed: bytes
    raw_length: int
    blocks: int
    id: bytes
    prints: NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class GenerationSummary:
    """What was stored; `data_bytes` is the size of the data packs, in bytes."""

    ref: GenerationRef
    frames: int
    blocks: int
    data_packs: int
    data_bytes: int


class GenerationWriter:
    """Stores the frames of one generation.

    `encode` may run in many threads at once; `add` and `close` belong to one thread. `maps` takes
    the frame list and the document, `prints` the page prints; both are still to be closed.
    """

    def __init__(
        self,
        repo: Repository,
        cluster: str,
        owner: str,
        number: int,
        *,
        block_size: int,
        maps: MapWriter,
        prints: MapWriter,
        level: int = 1,
        pack_size: int = PACK_SIZE,
        uploads: Pool | None = None,
    ) -> None:
        self._ring = repo.ring
        self._owner = owner
        self._number = number
        self._block_size = block_size
        self._level = level
        self._maps = maps
        self._print_maps = prints
        self._list = framelist.FrameListBuilder(number)
        self._prints = prints_.PrintsBuilder(number, MAX_RAW // block_size)
        self._list_refs: list[Ref] = []
        self._list_starts: list[int] = []
        self._print_refs: list[Ref] = []
        self._frames = self._blocks = 0
        self._packs = PackStream(
            repo,
            Kind.DATA,
            cluster,
            owner,
            pack_size=pack_size,
            uploads=uploads,
            on_full=self._end_pack,
        )

    def encode(self, data: bytes | bytearray | memoryview) -> EncodedFrame:
        """Compress and identify 1 byte to 1 MiB of whole blocks; safe to use from many threads."""
        view = memoryview(data).cast("B")
        blocks, rest = divmod(len(view), self._block_size)
        if rest or not 0 < len(view) <= MAX_RAW:
            raise ValueError(f"a frame has whole blocks and up to 1 MiB, not {len(view)} bytes")
        return EncodedFrame(
            compress(view, self._level),
            len(view),
            blocks,
            self._ring.frame_id(view),
            page_prints(view, self._block_size, self._ring.print_seed),
        )

    def add(self, frame: EncodedFrame) -> int:
        """Seal the frame as the generation's next one; its number."""
        placed = self._packs.append(frame.compressed, frame.raw_length, frame.id)
        self._list.add(placed.stored, frame.blocks, frame.id)
        chunk = self._prints.add(frame.prints)
        if chunk is not None:
            self._put_prints(chunk)
        number = self._frames
        self._frames += 1
        self._blocks += frame.blocks
        return number

    def close(self) -> GenerationSummary:
        """Store what is open, wait for the uploads, and store the generation document."""
        self._packs.close()
        chunk = self._list.finish()
        if chunk is not None:
            self._put_list(chunk)
        last = self._prints.finish()
        if last is not None:
            self._put_prints(last)
        packs = PackTable()
        document = GenerationDocument(
            generation=self._number,
            owner=self._owner,
            block_size=self._block_size,
            frames=self._frames,
            blocks=self._blocks,
            data_packs=len(self._packs.packs),
            data_bytes=self._packs.stored_bytes,
            frame_lists=to_json(self._list_refs, packs),
            frame_list_starts=self._list_starts,
            prints=to_json(self._print_refs, packs),
            packs=packs.names,
        )
        refs = self._maps.put_document(msgspec.json.encode(document))
        return GenerationSummary(
            GenerationRef(self._number, self._owner, refs),
            self._frames,
            self._blocks,
            len(self._packs.packs),
            self._packs.stored_bytes,
        )

    def _end_pack(self, pack: FinishedPack) -> None:
        chunk = self._list.end_pack(pack.header, pack.digest)
        if chunk is not None:
            self._put_list(chunk)

    def _put_list(self, chunk: FrameList) -> None:
        self._list_refs.append(self._maps.put(framelist.encode(chunk)))
        self._list_starts.append(chunk.first_frame)

    def _put_prints(self, chunk: Prints) -> None:
        self._print_refs.append(self._print_maps.put(prints_.encode(chunk)))
