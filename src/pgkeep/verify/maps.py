"""Reads everything that leads to a backup's blocks: root, file table, leaves, frame lists.

Map frames are shared between backups and are looked at once. Nothing here goes through readers that
stop at the first error: one damaged chunk must not hide the state of the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from pgkeep.catalog.records import Record
from pgkeep.codec.container import MAX_RAW
from pgkeep.errors import Damaged
from pgkeep.repo import filetable, framelist, names, prints
from pgkeep.repo import leaf as leaves
from pgkeep.repo.filetable import FileKind, FileTable
from pgkeep.repo.framelist import FrameList
from pgkeep.repo.generation import GenerationDocument
from pgkeep.repo.mapreader import MapReader
from pgkeep.repo.refs import JsonRef, Ref, from_json
from pgkeep.repo.repository import Repository
from pgkeep.repo.tree import Root
from pgkeep.verify.findings import NEW_BACKUP, Ledger, Problem

_NO_MANIFEST = "the backup restores, but without its backup_manifest; make a new one"
_NO_PRINTS = "every backup still restores; the next one has to store everything anew"

T = TypeVar("T")
Key = tuple[str, bytes]


@dataclass(frozen=True, slots=True)
class _LeafFrame:
    """What is remembered of a LEAF frame: the blocks of each of its leaves, and how many ordinals
    each generation that they name must have."""

    blocks: NDArray[np.int64]
    ends: dict[int, int]


@dataclass(frozen=True, slots=True)
class KnownGeneration:
    """A generation whose document could be read, with those of its frame lists that could."""

    key: Key
    document: GenerationDocument
    lists: list[FrameList]


class MapChecker:
    """Looks at the maps of backups, one after another; `frames` counts the map frames read."""

    def __init__(self, repo: Repository, cluster: str, ledger: Ledger) -> None:
        self._cluster = cluster
        self._ledger = ledger
        self._maps = MapReader(repo, cluster)
        self._leaf_frames: dict[bytes, _LeafFrame] = {}
        self._room: dict[Key, int] = {}
        self.frames = 0

    def check(self, record: Record) -> Iterator[KnownGeneration]:
        """Looks at all of a backup's map; gives the generations that no backup before had."""
        key: Key = ("root", record.id.encode())
        self._ledger.needs(record.id, key)
        source = f"the record of backup {record.id}"
        refs = self._refs(key, record.root, record.packs, source)
        root = self._read_root(key, refs, source)
        if root is None:
            return
        ends: dict[int, int] = {}
        for ref in self._refs(key, root.chunks, root.packs, source):
            _raise_to(ends, self._chunk(record.id, ref, root.block_size))
        self._manifest(record.id, root, source)
        yield from self._root_generations(key, record.id, root, ends)

    def _read_root(self, key: Key, refs: Sequence[Ref], source: str) -> Root | None:
        if not refs:
            return None
        return self._look(key, refs, partial(_decode_json, type_=Root, source=source))

    def _refs(
        self, key: Key, refs: Sequence[JsonRef], packs: Sequence[str], source: str
    ) -> list[Ref]:
        found = self._ledger.attempt(key, source, lambda: from_json(refs, packs, source))
        return found or []

    def _look(
        self,
        key: Key,
        refs: Sequence[Ref],
        decode: Callable[[bytes], T],
        *,
        hint: str = NEW_BACKUP,
    ) -> T | None:
        """What a document or frame holds; None after what is wrong with it was noted."""
        self.frames += len(refs)
        name = names.map_pack(self._cluster, refs[0].pack)
        return self._ledger.attempt(
            key, name, lambda: decode(self._maps.get_document(refs)), hint=hint
        )

    def _chunk(self, backup: str, ref: Ref, block_size: int) -> dict[int, int]:
        """Looks at a chunk and its leaves; how many ordinals of each generation it relies on."""
        key: Key = ("chunk", ref.id)
        self._ledger.needs(backup, key)
        source = f"the file table in frame {ref.frame} of {ref.pack}"
        table = self._look(key, [ref], lambda raw: filetable.decode(raw, source))
        if table is None:
            return {}
        ends: dict[int, int] = {}
        frames = [self._leaf_frame(backup, leaf_ref) for leaf_ref in table.frames]
        known = [frame for frame in frames if frame is not None]
        for frame in known:
            _raise_to(ends, frame.ends)
        if len(known) == len(frames):
            name = names.map_pack(self._cluster, ref.pack)
            self._ledger.attempt(key, name, lambda: _check_leaves(table, known, block_size, source))
        return ends

    def _leaf_frame(self, backup: str, ref: Ref) -> _LeafFrame | None:
        key: Key = ("leaves", ref.id)
        if self._ledger.needs(backup, key):
            source = f"the leaves in frame {ref.frame} of {ref.pack}"
            read = self._look(key, [ref], lambda raw: _read_leaves(raw, source))
            if read is not None:
                self._leaf_frames[ref.id] = read
        return self._leaf_frames.get(ref.id)

    def _manifest(self, backup: str, root: Root, source: str) -> None:
        key: Key = ("manifest", backup.encode())
        self._ledger.needs(backup, key)
        for ref in self._refs(key, root.manifest, root.packs, source):
            self._look(key, [ref], len, hint=_NO_MANIFEST)

    def _root_generations(
        self, key: Key, backup: str, root: Root, ends: dict[int, int]
    ) -> Iterator[KnownGeneration]:
        source = f"the root of backup {backup}"
        for number in sorted(ends.keys() - {g.generation for g in root.generations}):
            what = f"it does not list generation {number}, but a leaf names it"
            self._ledger.note(key, Problem(source, what, NEW_BACKUP))
        for generation in root.generations:
            refs = self._refs(key, generation.document, root.packs, source)
            if not refs:
                continue
            known_key: Key = ("generation", refs[0].id)
            if self._ledger.needs(backup, known_key):
                known = self._read_generation(known_key, refs)
                if known is not None:
                    slots = MAX_RAW // known.document.block_size
                    self._room[known_key] = known.document.frames * slots
                    yield known
            self._check_room(known_key, generation.generation, ends)

    def _read_generation(self, key: Key, refs: Sequence[Ref]) -> KnownGeneration | None:
        document = self._look(
            key, refs, partial(_decode_json, type_=GenerationDocument, source="a generation")
        )
        if document is None:
            return None
        source = f"generation {document.generation} ({document.owner})"
        lists = [
            self._look(key, [ref], lambda raw: framelist.decode(raw, f"{source}: frame list"))
            for ref in self._refs(key, document.frame_lists, document.packs, source)
        ]
        known = [chunk for chunk in lists if chunk is not None]
        if len(known) == len(lists) and sum(chunk.frames for chunk in known) != document.frames:
            what = f"its frame lists don't make the {document.frames} frames that it should have"
            self._ledger.note(key, Problem(source, what, NEW_BACKUP))
        self._prints(key, document, source)
        return KnownGeneration(key, document, known)

    def _prints(self, key: Key, document: GenerationDocument, source: str) -> None:
        slots = MAX_RAW // document.block_size
        for ref in self._refs(key, document.prints, document.packs, source):
            self._look(
                key,
                [ref],
                lambda raw: prints.decode(raw, slots, f"{source}: prints"),
                hint=_NO_PRINTS,
            )

    def _check_room(self, key: Key, number: int, ends: dict[int, int]) -> None:
        room, end = self._room.get(key), ends.get(number, 0)
        if room is not None and end > room:
            what = f"a leaf names its block {end - 1}, but it has room for {room} blocks only"
            self._ledger.note(key, Problem(f"generation {number}", what, NEW_BACKUP))


def _raise_to(ends: dict[int, int], more: dict[int, int]) -> None:
    for generation, end in more.items():
        ends[generation] = max(ends.get(generation, 0), end)


def _decode_json(raw: bytes, *, type_: type[T], source: str) -> T:
    try:
        return msgspec.json.decode(raw, type=type_)
    except msgspec.MsgspecError as error:
        raise Damaged(f"{source} has something in the place of its document: {error}") from None


def _read_leaves(raw: bytes, source: str) -> _LeafFrame:
    blocks, ends = [], dict[int, int]()
    for data in leaves.split_frame(raw, source):
        leaf = leaves.decode(data, source)
        blocks.append(leaf.blocks)
        generations, ordinals = leaves.resolve(leaf)
        for generation in {entry.generation for entry in leaf.entries}:
            inside = ordinals[generations == generation]
            _raise_to(ends, {generation: int(inside.max()) + 1 if len(inside) else 0})
    return _LeafFrame(np.array(blocks, np.int64), ends)


def _check_leaves(
    table: FileTable, frames: Sequence[_LeafFrame], block_size: int, source: str
) -> None:
    """Every file's leaves must cover exactly its blocks."""
    counts = np.array([len(frame.blocks) for frame in frames], np.int64)
    starts = np.cumsum(counts) - counts
    places = table.leaf_places.astype(np.int64)
    if (places >= counts[table.leaf_frames]).any():
        raise Damaged(f"{source} names a leaf that does not exist")
    blocks = np.concatenate([np.empty(0, np.int64), *(frame.blocks for frame in frames)])
    owners = np.repeat(np.arange(len(table)), table.leaf_counts)
    leaf_blocks = blocks[starts[table.leaf_frames] + places]
    covered = np.bincount(owners, weights=leaf_blocks, minlength=len(table)).astype(np.int64)
    sizes = np.where(table.kinds == FileKind.FILE, table.sizes.astype(np.int64), 0)
    wrong = np.flatnonzero(covered != -(-sizes // block_size))
    if len(wrong):
        raise Damaged(f"{source}: the leaves of {table.paths[int(wrong[0])]!r} don't fit its size")
