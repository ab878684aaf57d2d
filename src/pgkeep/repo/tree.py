"""A backup's tree: root, file table, leaves, and the generations that they name.

Written as files come, in any order, and read chunk by chunk; what stays in memory is about a
hundred bytes a file while writing, and a few frames while reading.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated

import msgspec
import numpy as np

from pgkeep.codec.container import MAX_RAW
from pgkeep.errors import Damaged
from pgkeep.repo import filetable
from pgkeep.repo import leaf as leaves_
from pgkeep.repo.filecolumns import FileColumns
from pgkeep.repo.filetable import FileEntry, FileKind, FileTable
from pgkeep.repo.generation import GenerationRef
from pgkeep.repo.generationreader import GenerationReader
from pgkeep.repo.leaf import Leaf
from pgkeep.repo.mapreader import MapReader
from pgkeep.repo.mapwriter import MapWriter
from pgkeep.repo.recent import Recent
from pgkeep.repo.refs import JsonRef, PackTable, Ref, from_json, to_json
from pgkeep.repo.repository import Repository

_LEAF_FRAME = 1 << 16
_CACHED_LEAF_FRAMES = 256


class JsonGeneration(msgspec.Struct, frozen=True):
    generation: int
    owner: str
    document: list[JsonRef]


class Root(msgspec.Struct, frozen=True):
    """The root document (docs/format.md 6); members that a newer writer adds are ignored."""

    block_size: Annotated[int, msgspec.Meta(ge=1, le=MAX_RAW)]
    files: int
    bytes: int
    packs: list[str]
    chunks: list[JsonRef]
    generations: list[JsonGeneration]
    manifest: list[JsonRef]


@dataclass(frozen=True, slots=True)
class RootRef:
    """Where the root document lies, and how many files and bytes the backup has."""

    refs: list[Ref]
    files: int
    bytes: int


class TreeWriter:
    """Stores the files of one backup and what each of their blocks is.

    `add` each file once, in any order, from one thread, then `finish`.
    """

    def __init__(self, maps: MapWriter, block_size: int) -> None:
        self._maps = maps
        self._block_size = block_size
        self._files = FileColumns()
        self._generations: set[int] = set()
        self._frames: list[Ref] = []
        self._pending: list[bytes] = []
        self._pending_bytes = 0

    def add(self, entry: FileEntry, leaves: Sequence[Leaf] = ()) -> None:
        """One file with its leaves, in the order of its blocks.

        Raises UsageError for a name that the repository can't hold, ValueError when the leaves are
        not those of a file of this size.
        """
        filetable.check_entry(entry)
        blocks = -(-entry.size // self._block_size) if entry.kind is FileKind.FILE else 0
        expected = leaves_.split_blocks(blocks)
        if [leaf.blocks for leaf in leaves] != expected:
            raise ValueError(f"{entry.path!r}: {blocks} blocks don't make the leaves given")
        self._files.add(entry, len(leaves))
        for leaf in leaves:
            self._add_leaf(leaf)

    def finish(self, generations: Sequence[GenerationRef], manifest: bytes = b"") -> RootRef:
        """Store the file table and the root; the map writer is still to be closed.

        Of `generations` those are listed that a leaf names. Raises ValueError when one is absent,
        or when a path was added twice.
        """
        self._flush_leaves()
        by_number = {generation.generation: generation for generation in generations}
        absent = self._generations - by_number.keys()
        if absent:
            raise ValueError(f"leaves name generations that were not given: {sorted(absent)}")
        packs = PackTable()
        chunks = [
            self._maps.put(filetable.encode(self._files.table(chunk, self._frames)))
            for chunk in self._files.chunks()
        ]
        root = Root(
            block_size=self._block_size,
            files=len(self._files),
            bytes=self._files.bytes,
            chunks=to_json(chunks, packs),
            generations=[
                JsonGeneration(number, known.owner, to_json(known.refs, packs))
                for number in sorted(self._generations)
                for known in [by_number[number]]
            ],
            manifest=to_json(self._maps.put_document(manifest), packs),
            packs=packs.names,
        )
        refs = self._maps.put_document(msgspec.json.encode(root))
        return RootRef(refs, root.files, root.bytes)

    def _add_leaf(self, leaf: Leaf) -> None:
        self._generations.update(generation for generation, _ in leaf.entries)
        encoded = leaves_.encode(leaf)
        if self._pending and self._pending_bytes + len(encoded) > _LEAF_FRAME:
            self._flush_leaves()
        self._files.add_leaf(len(self._frames), len(self._pending))
        self._pending.append(encoded)
        self._pending_bytes += len(encoded) + 4

    def _flush_leaves(self) -> None:
        if self._pending:
            self._frames.append(self._maps.put(leaves_.encode_frame(self._pending)))
            self._pending = []
            self._pending_bytes = 0


class Chunk:
    """Up to 4,096 files of a backup: columns as in `FileTable`, and each file's leaves.

    Safe to use from several threads.
    """

    def __init__(self, table: FileTable, frames: _LeafFrames, block_size: int, source: str) -> None:
        self._table = table
        self._frames = frames
        self._block_size = block_size
        self._source = source
        self._ends = np.cumsum(table.leaf_counts, dtype=np.int64)
        self._link = np.cumsum(table.kinds == FileKind.SYMLINK) - 1
        self.paths = table.paths
        self.kinds = table.kinds
        self.modes = table.modes
        self.sizes = table.sizes
        self.mtimes = table.mtimes
        self.flags = table.flags
        self.targets = table.targets

    def __len__(self) -> int:
        return len(self.paths)

    def entry(self, file: int) -> FileEntry:
        """File number `file` of this chunk."""
        kind = FileKind(int(self.kinds[file]))
        return FileEntry(
            path=self.paths[file],
            kind=kind,
            mode=int(self.modes[file]),
            size=int(self.sizes[file]),
            mtime=int(self.mtimes[file]),
            flags=int(self.flags[file]),
            target=self.targets[self._link[file]] if kind is FileKind.SYMLINK else b"",
        )

    def leaves(self, file: int) -> list[Leaf]:
        """The leaves of file number `file`, in the order of its blocks.

        Raises Damaged when they are not those of a file of its size.
        """
        end = int(self._ends[file])
        rows = slice(end - int(self._table.leaf_counts[file]), end)
        wanted = [self._table.frames[number] for number in self._table.leaf_frames[rows].tolist()]
        frames = self._frames.get(wanted)
        source = f"{self._source}: {self.paths[file]!r}"
        try:
            encoded = [
                frames[ref][place]
                for ref, place in zip(wanted, self._table.leaf_places[rows].tolist(), strict=True)
            ]
        except IndexError:
            raise Damaged(f"{source} names a leaf that does not exist") from None
        leaves = [leaves_.decode(data, source) for data in encoded]
        is_file = self.kinds[file] == FileKind.FILE
        blocks = -(-int(self.sizes[file]) // self._block_size) if is_file else 0
        if [leaf.blocks for leaf in leaves] != leaves_.split_blocks(blocks):
            raise Damaged(f"{source} has {blocks} blocks, its leaves have others")
        return leaves


class TreeReader:
    """Reads the tree of one backup, chunk by chunk; safe to use from several threads."""

    def __init__(
        self, repo: Repository, cluster: str, root: Sequence[Ref], *, maps: MapReader | None = None
    ) -> None:
        self._repo = repo
        self._cluster = cluster
        self._maps = maps or MapReader(repo, cluster)
        self._source = f"the root of a backup in {root[0].pack}" if root else "a root"
        try:
            self.root = msgspec.json.decode(self._maps.get_document(root), type=Root)
        except msgspec.DecodeError as error:
            raise Damaged(f"{self._source}: not a root document: {error}") from error
        self._leaf_frames = _LeafFrames(self._maps)
        self._generations: dict[int, GenerationReader] = {}

    def chunks(self) -> Iterator[Chunk]:
        """The file table, in byte order of paths."""
        for ref in from_json(self.root.chunks, self.root.packs, self._source):
            source = f"file table in frame {ref.frame} of {ref.pack}"
            table = filetable.decode(self._maps.get(ref), source)
            yield Chunk(table, self._leaf_frames, self.root.block_size, source)

    def generation(self, number: int) -> GenerationReader:
        """The generation that leaves of this backup name `number`; Damaged when there is none."""
        reader = self._generations.get(number)
        if reader is None:
            reader = self._generations.setdefault(number, self._open_generation(number))
        return reader

    def manifest(self) -> bytes:
        """The server's backup_manifest as it came."""
        return self._maps.get_document(from_json(self.root.manifest, self.root.packs, self._source))

    def _open_generation(self, number: int) -> GenerationReader:
        for known in self.root.generations:
            if known.generation == number:
                refs = from_json(known.document, self.root.packs, self._source)
                return GenerationReader(self._repo, self._cluster, refs, maps=self._maps)
        raise Damaged(f"{self._source}: generation {number} is not listed, but a leaf names it")


class _LeafFrames:
    """LEAF frames that were read lately, cut into their leaves."""

    def __init__(self, maps: MapReader) -> None:
        self._maps = maps
        self._recent: Recent[Ref, list[memoryview]] = Recent(_CACHED_LEAF_FRAMES)

    def get(self, refs: Sequence[Ref]) -> dict[Ref, list[memoryview]]:
        """The leaves of each of these frames; what is not at hand is read in one go."""
        frames: dict[Ref, list[memoryview]] = {}
        absent: list[Ref] = []
        for ref in dict.fromkeys(refs):
            known = self._recent.get(ref)
            if known is None:
                absent.append(ref)
            else:
                frames[ref] = known
        for ref, raw in zip(absent, self._maps.get_many(absent), strict=True):
            source = f"leaves in frame {ref.frame} of {ref.pack}"
            frames[ref] = leaves_.split_frame(raw, source)
            self._recent.put(ref, frames[ref])
        return frames
