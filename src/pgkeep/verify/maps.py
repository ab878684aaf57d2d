"""Reads everything that leads to a backup's blocks: root, file table, leaves, frame lists.

Map frames are shared between backups and are looked at once. Nothing here goes through readers that
stop at the first error: one damaged chunk must not hide the state of the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from pgkeep.catalog.records import Record
from pgkeep.errors import Damaged, PgkeepError
from pgkeep.repo import filetable, framelist, names, prints
from pgkeep.repo import leaf as leaves
from pgkeep.repo.filetable import FileKind, FileTable
from pgkeep.repo.framelist import FrameList
from pgkeep.repo.generation import GenerationDocument
from pgkeep.repo.mapreader import MapReader
from pgkeep.repo.refs import Ref, from_json
from pgkeep.repo.repository import Repository
from pgkeep.repo.tree import Root
from pgkeep.verify.findings import Ledger

_AT_ONCE = 64
_FRAME = 1 << 20


@dataclass(frozen=True, slots=True)
class _LeafFrame:
    """What is remembered of a LEAF frame: blocks of each leaf, last ordinal in each generation."""

    blocks: NDArray[np.int64]
    ends: dict[int, int]


@dataclass(frozen=True, slots=True)
class KnownGeneration:
    """A generation that can be read: its document and, of its frame lists, those that can be."""

    key: tuple[str, bytes]
    document: GenerationDocument
    lists: list[FrameList]


class MapChecker:
    """Looks at backups one after another."""

    def __init__(self, repo: Repository, cluster: str, ledger: Ledger) -> None:
        self._cluster = cluster
        self._ledger = ledger
        self._maps = MapReader(repo, cluster)
        self._leaf_frames: dict[bytes, _LeafFrame] = {}
        self._generations: dict[tuple[str, bytes], KnownGeneration] = {}
        self.frames = 0

    def check(self, record: Record) -> Iterator[KnownGeneration]:
        """Looks at all of a backup's map; gives the generations that nobody has looked at yet."""
        name = names.record(self._cluster, record.id)
        key = ("root", record.id)
        self._ledger.needs(record.id, key)
        root = self._ledger.attempt(key, name, lambda: self._root(record))
        if root is None:
            return
        source = f"the root of backup {record.id}"
        ends: dict[int, int] = {}
        for ref in self._refs(key, name, root.chunks, root.packs, source):
            for generation, end in self._chunk(record.id, ref, root.block_size).items():
                ends[generation] = max(ends.get(generation, 0), end)
        self._manifest(record.id, root, source)
        yield from self._root_generations(record.id, root, source, ends)

    def _root(self, record: Record) -> Root:
        source = f"the record of backup {record.id}"
        refs = from_json(record.root, record.packs, source)
        try:
            return msgspec.json.decode(self._maps.get_document(refs), type=Root)
        except msgspec.MsgspecError as error:
            raise Damaged(f"{source} leads to something that is no root: {error}") from None

    def _refs(
        self,
        key: tuple[str, str],
        name: str,
        refs: Sequence[object],
        packs: Sequence[str],
        source: str,
    ) -> list[Ref]:
        found = self._ledger.attempt(key, name, lambda: from_json(refs, packs, source))  # type: ignore[arg-type]
        return found or []

    def _object(self, ref: Ref) -> str:
        return names.map_pack(self._cluster, ref.pack)

    def _get(self, ref: Ref) -> bytes:
        self.frames += 1
        return self._maps.get(ref)

    def _chunk(self, backup: str, ref: Ref, block_size: int) -> dict[int, int]:
        """Looks at a chunk and its leaves; the highest ordinals that it names, by generation.

        A chunk that an older backup has as well is not read again, but its leaves' frames are
        remembered, so that what is wrong with them counts for this backup too.
        """
        key = ("chunk", ref.id)
        self._ledger.needs(backup, key)
        source = f"the file table in frame {ref.frame} of {ref.pack}"
        table = self._ledger.attempt(
            key, self._object(ref), lambda: filetable.decode(self._get(ref), source)
        )
        if table is None:
            return {}
        ends: dict[int, int] = {}
        frames = [self._leaf_frame(backup, leaf_ref) for leaf_ref in table.frames]
        for frame in frames:
            for generation, end in frame.ends.items() if frame else ():
                ends[generation] = max(ends.get(generation, 0), end)
        if all(frames):
            known = [frame for frame in frames if frame]
            self._ledger.attempt(
                key, self._object(ref), lambda: _check_leaves(table, known, block_size, source)
            )
        return ends

    def _leaf_frame(self, backup: str, ref: Ref) -> _LeafFrame | None:
        key = ("leaves", ref.id)
        if self._ledger.needs(backup, key):
            read = self._ledger.attempt(key, self._object(ref), lambda: self._read_leaves(ref))
            if read is not None:
                self._leaf_frames[ref.id] = read
        return self._leaf_frames.get(ref.id)

    def _read_leaves(self, ref: Ref) -> _LeafFrame:
        source = f"the leaves in frame {ref.frame} of {ref.pack}"
        blocks, ends = [], dict[int, int]()
        for data in leaves.split_frame(self._get(ref), source):
            leaf = leaves.decode(data, source)
            blocks.append(leaf.blocks)
            generations, ordinals = leaves.resolve(leaf)
            for generation in {entry.generation for entry in leaf.entries}:
                inside = ordinals[generations == generation]
                end = int(inside.max()) + 1 if len(inside) else 0
                ends[generation] = max(ends.get(generation, 0), end)
        return _LeafFrame(np.array(blocks, np.int64), ends)

    def _manifest(self, backup: str, root: Root, source: str) -> None:
        key = ("manifest", backup)
        self._ledger.needs(backup, key)
        for ref in self._refs(key, source, root.manifest, root.packs, source):
            self._ledger.attempt(
                key,
                self._object(ref),
                lambda ref=ref: self._get(ref),
                hint="the backup can be restored, but without its backup_manifest; make a new one",
            )

    def _root_generations(
        self, backup: str, root: Root, source: str, ends: dict[int, int]
    ) -> Iterator[KnownGeneration]:
        listed = {generation.generation: generation for generation in root.generations}
        key = ("root", backup)
        for number in sorted(ends.keys() - listed.keys()):
            self._ledger.attempt(
                key,
                names.record(self._cluster, backup),
                lambda number=number: _raise(
                    f"{source} does not list generation {number}, but a leaf names it"
                ),
            )
        for number, generation in sorted(listed.items()):
            refs = self._refs(key, source, generation.document, root.packs, source)
            if not refs:
                continue
            known_key = ("generation", refs[0].id)
            if self._ledger.needs(backup, known_key):
                known = self._read_generation(known_key, refs)
                if known is not None:
                    self._generations[known_key] = known
                    yield known
            self._check_ends(known_key, ends.get(number, 0))

    def _read_generation(
        self, key: tuple[str, bytes], refs: Sequence[Ref]
    ) -> KnownGeneration | None:
        name = self._object(refs[0])
        document = self._ledger.attempt(key, name, lambda: self._document(refs))
        if document is None:
            return None
        source = f"generation {document.generation} ({document.owner})"
        lists = []
        for ref in self._refs(key, name, document.frame_lists, document.packs, source):  # type: ignore[arg-type]
            chunk = self._ledger.attempt(
                key,
                self._object(ref),
                lambda ref=ref: framelist.decode(self._get(ref), f"{source}: a frame list"),
            )
            if chunk is not None:
                lists.append(chunk)
        self._prints(key, name, document, source)
        return KnownGeneration(key, document, lists)

    def _document(self, refs: Sequence[Ref]) -> GenerationDocument:
        self.frames += len(refs)
        raw = self._maps.get_document(refs)
        try:
            return msgspec.json.decode(raw, type=GenerationDocument)
        except msgspec.MsgspecError as error:
            raise Damaged(f"it is no generation's document: {error}") from None

    def _prints(
        self, key: tuple[str, bytes], name: str, document: GenerationDocument, source: str
    ) -> None:
        slots = _FRAME // document.block_size
        for ref in self._refs(key, name, document.prints, document.packs, source):  # type: ignore[arg-type]
            self._ledger.attempt(
                key,
                self._object(ref),
                lambda ref=ref: prints.decode(self._get(ref), slots, f"{source}: prints"),
                hint="every backup can still be restored; the next one reads everything anew",
            )

    def _check_ends(self, key: tuple[str, bytes], end: int) -> None:
        known = self._generations.get(key)
        if known is None:
            return
        document = known.document
        room = document.frames * (_FRAME // document.block_size)
        if end > room:
            self._ledger.attempt(
                key,
                f"generation {document.generation} ({document.owner})",
                lambda: _raise(f"a leaf names its block {end - 1}, but it has room for {room}"),
            )


def _raise(what: str) -> None:
    raise Damaged(what)


def _check_leaves(
    table: FileTable, frames: Sequence[_LeafFrame], block_size: int, source: str
) -> None:
    """Every file's leaves must cover exactly its blocks."""
    starts = np.cumsum([0, *(len(frame.blocks) for frame in frames)])
    blocks = np.concatenate([np.empty(0, np.int64), *(frame.blocks for frame in frames)])
    places = table.leaf_places.astype(np.int64)
    rows = starts[table.leaf_frames] + places
    if len(rows) and (rows >= starts[table.leaf_frames.astype(np.int64) + 1]).any():
        raise Damaged(f"{source} names a leaf that does not exist")
    owners = np.repeat(np.arange(len(table)), table.leaf_counts)
    covered = np.bincount(owners, weights=blocks[rows], minlength=len(table)).astype(np.int64)
    sizes = np.where(table.kinds == FileKind.FILE, table.sizes.astype(np.int64), 0)
    wrong = np.flatnonzero(covered != -(-sizes // block_size))
    if len(wrong):
        raise Damaged(f"{source}: the leaves of {table.paths[int(wrong[0])]!r} don't fit its size")


__all__ = ["KnownGeneration", "MapChecker", "PgkeepError"]
