"""Reads what one backup stored: frames by number, each verified against the frame list."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from pgkeep.codec.container import MAX_RAW, ContainerOpener, Kind
from pgkeep.errors import Damaged
from pgkeep.repo import framelist, names
from pgkeep.repo import prints as prints_
from pgkeep.repo.framelist import FrameList
from pgkeep.repo.generation import GenerationDocument
from pgkeep.repo.mapreader import MapReader
from pgkeep.repo.prints import Prints
from pgkeep.repo.ranges import runs
from pgkeep.repo.recent import Recent
from pgkeep.repo.refs import Ref, from_json
from pgkeep.repo.repository import Repository

_CACHED_LISTS = 8
_CACHED_OPENERS = 256
_CACHED_PRINTS = 8
_NONE = np.empty(0, np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class Located:
    """Where frames lie, one row a frame: the pack's number, offset and stored length in bytes, and
    how many blocks the frame has."""

    packs: NDArray[np.int64]
    offsets: NDArray[np.int64]
    stored: NDArray[np.int64]
    blocks: NDArray[np.int64]


class GenerationReader:
    """Reads frames of one generation by number; safe to use from several threads."""

    def __init__(
        self,
        repo: Repository,
        cluster: str,
        document: Sequence[Ref],
        *,
        maps: MapReader | None = None,
    ) -> None:
        self._repo = repo
        self._cluster = cluster
        self._maps = maps or MapReader(repo, cluster)
        self._source = f"the document of a generation in {document[0].pack}"
        try:
            raw = self._maps.get_document(document)
            self.document = msgspec.json.decode(raw, type=GenerationDocument)
        except msgspec.DecodeError as error:
            raise Damaged(f"{self._source}: {error}") from error
        known = self.document
        self._source = f"generation {known.generation} ({known.owner})"
        self._lists = from_json(known.frame_lists, known.packs, self._source)
        self._starts = np.array(known.frame_list_starts, np.int64)
        if len(self._starts) != len(self._lists):
            raise Damaged(f"{self._source}: its document has too few or too many frame lists")
        self._print_refs = from_json(known.prints, known.packs, self._source)
        self._recent_lists: Recent[int, FrameList] = Recent(_CACHED_LISTS)
        self._recent_prints: Recent[int, Prints] = Recent(_CACHED_PRINTS)
        self._openers: Recent[int, ContainerOpener] = Recent(_CACHED_OPENERS)

    @property
    def frame_blocks(self) -> int:
        """How many blocks a full frame has: ordinal ÷ this is the frame, the rest the place."""
        return MAX_RAW // self.document.block_size

    def locate(self, frames: ArrayLike) -> Located:
        """Where these frames lie; `frames` rise strictly."""
        columns: list[tuple[NDArray[np.int64], ...]] = [(_NONE, _NONE, _NONE, _NONE)]
        for chunk, rows in self._by_list(frames):
            stored, blocks = chunk.stored[rows], chunk.blocks[rows]
            columns.append(
                (
                    chunk.packs[rows],
                    chunk.offsets[rows],
                    stored.astype(np.int64),
                    blocks.astype(np.int64),
                )
            )
        return Located(*map(np.concatenate, zip(*columns, strict=True)))

    def read(self, frames: ArrayLike) -> Iterator[tuple[int, bytes]]:
        """Each of these frames with its raw bytes; `frames` rise strictly.

        Frames that lie close together in one pack are read at once, 8 MiB at most. Raises Damaged,
        naming the object, when a frame is not what the frame list says.
        """
        for chunk, rows in self._by_list(frames):
            places = (chunk.packs[rows], chunk.offsets[rows], chunk.stored[rows])
            for run in runs(zip(*(column.tolist() for column in places), strict=True)):
                yield from self._read_run(chunk, rows[run[0] : run[-1] + 1].tolist())

    def prints(self, first_frame: int, count: int) -> NDArray[np.uint64]:
        """The prints of `count` frames: a row a frame, 0 where a short frame has no block."""
        self._check_range(first_frame, first_frame + count)
        per_chunk = prints_.frames_per_chunk(self.frame_blocks)
        rows = [np.empty((0, self.frame_blocks), np.uint64)]
        at, end = first_frame, first_frame + count
        while at < end:
            number, start = divmod(at, per_chunk)
            part = self._prints_chunk(number).values[start : start + end - at]
            rows.append(part)
            at += len(part)
        return np.concatenate(rows)

    def _by_list(self, frames: ArrayLike) -> Iterator[tuple[FrameList, NDArray[np.int64]]]:
        """The chunks of the frame list that have `frames`, each with its rows that are wanted."""
        wanted = np.asarray(frames, np.int64)
        if not len(wanted):
            return
        if (np.diff(wanted) <= 0).any():
            raise ValueError("frames must rise strictly")
        self._check_range(int(wanted[0]), int(wanted[-1]) + 1)
        lists = np.searchsorted(self._starts, wanted, "right") - 1
        cuts = np.flatnonzero(np.diff(lists)) + 1
        for part, number in zip(
            np.split(wanted, cuts), lists[np.concatenate([[0], cuts])].tolist(), strict=True
        ):
            yield self._list(number), part - self._starts[number]

    def _read_run(self, chunk: FrameList, rows: Sequence[int]) -> Iterator[tuple[int, bytes]]:
        first, last = rows[0], rows[-1]
        pack = int(chunk.packs[first])
        name = names.data_pack(self._cluster, self.document.owner, pack)
        opener = self._opener(chunk, pack, name)
        start = int(chunk.offsets[first])
        length = int(chunk.offsets[last]) + int(chunk.stored[last]) - start
        stored = memoryview(self._repo.store.get_range(name, start, length))
        for row in rows:
            at = int(chunk.offsets[row]) - start
            sealed = stored[at : at + int(chunk.stored[row])]
            raw_length = int(chunk.blocks[row]) * self.document.block_size
            identity = chunk.ids[row].tobytes()
            raw = opener.open_frame(int(chunk.numbers[row]), sealed, raw_length, identity)
            yield chunk.first_frame + row, raw

    def _opener(self, chunk: FrameList, pack: int, name: str) -> ContainerOpener:
        opener = self._openers.get(pack)
        if opener is None:
            header = chunk.headers[pack - chunk.first_pack].tobytes()
            opener = ContainerOpener(self._repo.ring, Kind.DATA, name, header)
            self._openers.put(pack, opener)
        return opener

    def _list(self, number: int) -> FrameList:
        chunk = self._recent_lists.get(number)
        if chunk is None:
            raw = self._maps.get(self._lists[number])
            chunk = framelist.decode(raw, f"{self._source}: frame list {number}")
            self._check_chunk(chunk.generation, chunk.first_frame, int(self._starts[number]))
            self._recent_lists.put(number, chunk)
        return chunk

    def _prints_chunk(self, number: int) -> Prints:
        chunk = self._recent_prints.get(number)
        if chunk is None:
            raw = self._maps.get(self._print_refs[number])
            chunk = prints_.decode(raw, self.frame_blocks, f"{self._source}: prints {number}")
            per_chunk = prints_.frames_per_chunk(self.frame_blocks)
            self._check_chunk(chunk.generation, chunk.first_frame, number * per_chunk)
            self._recent_prints.put(number, chunk)
        return chunk

    def _check_chunk(self, generation: int, first_frame: int, expected: int) -> None:
        if (generation, first_frame) != (self.document.generation, expected):
            raise Damaged(
                f"{self._source}: where frame {expected} belongs there is frame {first_frame} "
                f"of generation {generation}"
            )

    def _check_range(self, start: int, stop: int) -> None:
        if start < 0 or stop > self.document.frames:
            raise Damaged(
                f"{self._source} has {self.document.frames} frames: "
                f"there is no frame {start if start < 0 else stop - 1}"
            )
