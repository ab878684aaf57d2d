"""Generations and trees against a model: what is read back is what the model's files hold."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pgkeep.repo.filetable import FileEntry
from pgkeep.repo.generation import GenerationRef, GenerationWriter
from pgkeep.repo.leaf import LEAF_BLOCKS, NOWHERE, Leaf, overlay, resolve
from pgkeep.repo.mapwriter import MapWriter
from pgkeep.repo.repository import Repository
from pgkeep.repo.repository import create as create_repository
from pgkeep.repo.tree import RootRef, TreeReader, TreeWriter
from pgkeep.store.memory import MemoryStore

BLOCK = 256
SLOTS = (1 << 20) // BLOCK
CLUSTER = "bss"

Blocks = NDArray[np.uint8]
"""A file: a row of BLOCK bytes a block."""


@dataclass
class Shape:
    """What one backup does to the model, drawn by hypothesis, filled in from `seed`."""

    seed: int
    new_files: list[int]
    resize: dict[int, int]
    delete: set[int]
    changed: float
    zeroed: float
    frame_blocks: int


sizes = st.one_of(
    st.integers(0, 40),
    st.sampled_from([SLOTS - 1, SLOTS, SLOTS + 1, LEAF_BLOCKS, LEAF_BLOCKS + 1, 20_000]),
)
shapes = st.builds(
    Shape,
    seed=st.integers(0, 2**32 - 1),
    new_files=st.lists(sizes, max_size=4),
    resize=st.dictionaries(st.integers(0, 8), st.integers(0, 300), max_size=2),
    delete=st.sets(st.integers(0, 8), max_size=1),
    changed=st.sampled_from([0.0, 0.001, 0.05, 0.5, 1.0]),
    zeroed=st.sampled_from([0.0, 0.01, 0.3]),
    frame_blocks=st.sampled_from([1, 7, 100, SLOTS]),
)


@dataclass
class Writing:
    """A generation under way; `frame_blocks` is where frames of changed blocks are cut."""

    writer: GenerationWriter
    frame_blocks: int
    frame: list[Blocks] = field(default_factory=list)
    fill: int = 0
    number: int = 0

    def base(self, blocks: Blocks) -> int:
        """Store a leaf's blocks one after another; the first one's ordinal."""
        if self.fill + len(blocks) > SLOTS:
            self.cut()
        first = self.number * SLOTS + self.fill
        self._store(blocks, SLOTS)
        return first

    def changed(self, blocks: Blocks) -> NDArray[np.uint64]:
        """Store changed blocks in frames that are cut early; their ordinals."""
        ordinals = []
        for block in blocks:
            if self.fill >= self.frame_blocks:
                self.cut()
            ordinals.append(self.number * SLOTS + self.fill)
            self._store(block[np.newaxis], SLOTS)
        return np.array(ordinals, np.uint64)

    def _store(self, blocks: Blocks, capacity: int) -> None:
        while len(blocks):
            part = blocks[: capacity - self.fill]
            self.frame.append(part)
            self.fill += len(part)
            blocks = blocks[len(part) :]
            if self.fill == capacity:
                self.cut()

    def cut(self) -> None:
        if self.fill:
            data = np.concatenate(self.frame).tobytes()
            assert self.writer.add(self.writer.encode(data)) == self.number
            self.number += 1
            self.frame, self.fill = [], 0


@dataclass
class Model:
    """The cluster as it should be, and what the repository's leaves say about it."""

    files: dict[bytes, Blocks] = field(default_factory=dict)
    leaves: dict[bytes, list[Leaf]] = field(default_factory=dict)
    created: int = 0


def new_repository(store: MemoryStore) -> Repository:
    return create_repository(store, host_name="test", keep=lambda key_file: None).repository


def fresh(rng: np.random.Generator, count: int) -> Blocks:
    # One random byte a block would hide blocks that changed places; eight tell all of them apart.
    return np.tile(rng.integers(0, 256, (count, 8), np.uint8), (1, BLOCK // 8))


def change(
    model: Model, shape: Shape, rng: np.random.Generator, generation: int, to: Writing
) -> None:
    """Change each known file as `shape` says, block by block, and overlay its leaves."""
    for number, path in enumerate(sorted(model.files)):
        old = model.files[path]
        count = shape.resize.get(number, len(old))
        new = np.zeros((count, BLOCK), np.uint8)
        kept = min(count, len(old))
        new[:kept] = old[:kept]
        touched = rng.random(count) < shape.changed
        touched[kept:] |= rng.random(count - kept) < 0.5
        zeroed = (rng.random(count) < shape.zeroed) & ~touched
        new[touched] = fresh(rng, int(touched.sum()))
        new[zeroed] = 0
        model.files[path] = new
        model.leaves[path] = [
            overlaid(model.leaves[path], start, new, touched, zeroed, generation, to)
            for start in range(0, count, LEAF_BLOCKS)
        ]


def overlaid(
    leaves: list[Leaf],
    start: int,
    new: Blocks,
    touched: NDArray[np.bool_],
    zeroed: NDArray[np.bool_],
    generation: int,
    to: Writing,
) -> Leaf:
    part = slice(start, start + LEAF_BLOCKS)
    blocks = len(new[part])
    number = start // LEAF_BLOCKS
    old = leaves[number] if number < len(leaves) else Leaf.zeros(blocks)
    at = np.flatnonzero(touched[part])
    ordinals = to.changed(new[part][at])
    return overlay(
        old, at, generation, ordinals, blocks=blocks, zeroed=np.flatnonzero(zeroed[part])
    )


def create(
    model: Model, shape: Shape, rng: np.random.Generator, generation: int, to: Writing
) -> None:
    for size in shape.new_files:
        model.created += 1
        path = b"base/%d/%d" % (rng.integers(1, 4), model.created)
        model.files[path] = fresh(rng, size)
        model.leaves[path] = [
            Leaf.single(len(part), generation, to.base(part))
            for start in range(0, size, LEAF_BLOCKS)
            for part in [model.files[path][start : start + LEAF_BLOCKS]]
        ]


def back_up(
    repo: Repository, model: Model, shape: Shape, generation: int, known: list[GenerationRef]
) -> RootRef:
    rng = np.random.default_rng(shape.seed)
    owner = f"20261123T0800{generation:02}Z-abcdef"
    maps = MapWriter(repo, CLUSTER, owner)
    prints = maps.beside()
    writer = GenerationWriter(
        repo,
        CLUSTER,
        owner,
        generation,
        block_size=BLOCK,
        maps=maps,
        prints=prints,
        pack_size=1 << 17,
    )
    to = Writing(writer, shape.frame_blocks)
    for number, path in enumerate(sorted(model.files)):
        if number in shape.delete:
            del model.files[path], model.leaves[path]
    change(model, shape, rng, generation, to)
    to.cut()
    create(model, shape, rng, generation, to)
    to.cut()
    known.append(writer.close().ref)
    tree = TreeWriter(maps, BLOCK)
    for path in rng.permutation(sorted(model.files)).tolist():
        size = len(model.files[path]) * BLOCK
        tree.add(FileEntry(path, size=size), model.leaves[path])
    root = tree.finish(known, manifest=b"manifest %d" % generation)
    maps.close()
    prints.close()
    return root


def read_back(repo: Repository, root: RootRef) -> dict[bytes, Blocks]:
    reader = TreeReader(repo, CLUSTER, root.refs)
    return {
        chunk.paths[number]: read_file(reader, chunk.leaves(number))
        for chunk in reader.chunks()
        for number in range(len(chunk))
    }


def read_file(reader: TreeReader, leaves: list[Leaf]) -> Blocks:
    parts = [np.empty((0, BLOCK), np.uint8)]
    for leaf in leaves:
        generations, ordinals = resolve(leaf)
        blocks = np.zeros((leaf.blocks, BLOCK), np.uint8)
        for generation in set(generations.tolist()) - {NOWHERE}:
            rows = np.flatnonzero(generations == generation)
            frames, slots = np.divmod(ordinals[rows].astype(np.int64), SLOTS)
            for frame, raw in reader.generation(generation).read(np.unique(frames)):
                stored = np.frombuffer(raw, np.uint8).reshape(-1, BLOCK)
                here = frames == frame
                blocks[rows[here]] = stored[slots[here]]
        parts.append(blocks)
    return np.concatenate(parts)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(shapes, min_size=1, max_size=4))
def test_every_backup_reads_back_as_the_model_was(history: list[Shape]) -> None:
    repo = new_repository(MemoryStore())
    model = Model()
    known: list[GenerationRef] = []
    backups: list[tuple[RootRef, dict[bytes, Blocks]]] = []
    for generation, shape in enumerate(history, start=2):
        root = back_up(repo, model, shape, generation, known)
        backups.append((root, dict(model.files)))
    for root, files in backups:
        found = read_back(repo, root)
        assert list(found) == sorted(files)
        for path, blocks in files.items():
            assert np.array_equal(found[path], blocks), path
