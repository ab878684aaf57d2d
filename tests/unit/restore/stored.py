"""A backup held in memory: files cut into generations, as backups before would have stored them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pgkeep.repo import leaf as leaves
from pgkeep.repo.filetable import FileKind
from pgkeep.repo.leaf import LEAF_BLOCKS, Leaf

BLOCK = 8192
SLOTS = 128


@dataclass
class StoredChunk:
    """What `restore.plan` wants of a chunk of the file table."""

    paths: list[bytes] = field(default_factory=list)
    kinds: NDArray[np.uint8] = field(default_factory=lambda: np.empty(0, np.uint8))
    modes: NDArray[np.uint32] = field(default_factory=lambda: np.empty(0, np.uint32))
    sizes: NDArray[np.uint64] = field(default_factory=lambda: np.empty(0, np.uint64))
    targets: list[bytes] = field(default_factory=list)
    maps: dict[int, list[Leaf]] = field(default_factory=dict)

    def leaves(self, file_no: int) -> list[Leaf]:
        return self.maps.get(file_no, [])


class Stored:
    """Generations as lists of blocks; `reads` notes which frames were asked for."""

    def __init__(self) -> None:
        self.blocks: dict[int, list[bytes]] = {}
        self.files: dict[bytes, bytes] = {}
        self.reads: list[tuple[int, int]] = []
        self._entries: dict[bytes, tuple[int, int, bytes, list[Leaf]]] = {}

    def add(
        self, path: str, content: bytes = b"", *, mode: int = 0o600, generation: int = 1
    ) -> None:
        """Stores a whole file in one generation, leaf after leaf."""
        name = path.encode()
        maps = []
        for start in range(0, len(content), LEAF_BLOCKS * BLOCK):
            part = content[start : start + LEAF_BLOCKS * BLOCK]
            blocks = _blocks(part)
            maps.append(Leaf.single(len(blocks), generation, self._store(generation, blocks)))
        self.files[name] = content
        self._entries[name] = (FileKind.FILE, mode, b"", maps)

    def change(self, path: str, generation: int, blocks: dict[int, bytes | None]) -> None:
        """Later contents of some blocks, stored in another generation; None makes a block zeros."""
        name = path.encode()
        kind, mode, link, maps = self._entries[name]
        content = bytearray(self.files[name])
        for number, block in blocks.items():
            content[number * BLOCK : (number + 1) * BLOCK] = block or bytes(BLOCK)
        for place in range(len(maps)):
            here = range(place * LEAF_BLOCKS, place * LEAF_BLOCKS + maps[place].blocks)
            at = sorted(n for n, block in blocks.items() if n in here and block is not None)
            none = sorted(n for n, block in blocks.items() if n in here and block is None)
            fresh = [blocks[n] or b"" for n in at]
            first = self._store(generation, fresh)
            maps[place] = leaves.overlay(
                maps[place],
                [n - here.start for n in at],
                generation,
                list(range(first, first + len(fresh))),
                zeroed=[n - here.start for n in none],
            )
        self.files[name] = bytes(content)
        self._entries[name] = (kind, mode, link, maps)

    def directory(self, path: str, mode: int = 0o700) -> None:
        self._entries[path.encode()] = (FileKind.DIRECTORY, mode, b"", [])

    def link(self, path: str, target: str) -> None:
        self._entries[path.encode()] = (FileKind.SYMLINK, 0o777, target.encode(), [])

    def chunks(self, files: int = 3) -> Iterator[StoredChunk]:
        """The file table, a few files a chunk."""
        ordered = sorted(self._entries.items())
        for start in range(0, len(ordered), files):
            rows = ordered[start : start + files]
            yield StoredChunk(
                paths=[path for path, _ in rows],
                kinds=np.array([kind for _, (kind, _, _, _) in rows], np.uint8),
                modes=np.array([mode for _, (_, mode, _, _) in rows], np.uint32),
                sizes=np.array([len(self.files.get(path, b"")) for path, _ in rows], np.uint64),
                targets=[link for _, (_, _, link, _) in rows if link],
                maps={number: maps for number, (_, (_, _, _, maps)) in enumerate(rows)},
            )

    def read(self, generation: int, frames: NDArray[np.int64]) -> Iterator[tuple[int, bytes]]:
        """Frames as a GenerationReader gives them."""
        assert (np.diff(frames) > 0).all()
        stored = self.blocks[generation]
        for frame in frames.tolist():
            self.reads.append((generation, frame))
            yield frame, b"".join(stored[frame * SLOTS : (frame + 1) * SLOTS])

    def _store(self, generation: int, blocks: list[bytes]) -> int:
        stored = self.blocks.setdefault(generation, [])
        first = len(stored)
        stored.extend(blocks)
        return first


def _blocks(part: bytes) -> list[bytes]:
    return [part[at : at + BLOCK].ljust(BLOCK, b"\0") for at in range(0, len(part), BLOCK)]
