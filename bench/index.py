"""What the map of a large cluster costs: leaves, file table and frame list of 1 TiB.

    python bench/index.py [--tib 1] [--days 30] [--store memory|local] [--skip-frames]

A base backup and, for each day, an overlay of 1 % of all blocks at random: the worst case, since
every leaf changes every day. Leaf by leaf, through the real writers and readers.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from pgkeep.codec.compress import compress
from pgkeep.repo.filetable import FileEntry
from pgkeep.repo.generation import EncodedFrame, GenerationRef, GenerationWriter
from pgkeep.repo.generationreader import GenerationReader
from pgkeep.repo.leaf import LEAF_BLOCKS, Leaf, encode, overlay, resolve
from pgkeep.repo.mapwriter import MapWriter
from pgkeep.repo.refs import Ref
from pgkeep.repo.repository import Repository, create
from pgkeep.repo.tree import RootRef, TreeReader, TreeWriter
from pgkeep.store.base import Store
from pgkeep.store.local import LocalStore
from pgkeep.store.memory import MemoryStore

BLOCK = 8_192
SLOTS = (1 << 20) // BLOCK
FILE_LEAVES = 8
"""A relation's file of 1 GiB."""
CHANGED = 0.01
FRAMES_PER_PACK = 48
CLUSTER = "bench"
BASE = 2


def owner(number: int) -> str:
    return f"20261123T{number:06}Z-abcdef"


class Clock:
    """Adds up the time spent within `running`."""

    def __init__(self) -> None:
        self.seconds = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds += time.perf_counter() - start


def memory() -> float:
    """The most memory that this process has had so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def stored(store: Store, prefix: str) -> float:
    return sum(entry.size for entry in store.list(prefix)) / 1e6


def write_leaves(repo: Repository, leaves: int, days: int) -> tuple[RootRef, float]:
    """The last day's tree; also the raw size of its leaves in MB."""
    rng = np.random.default_rng(1)
    maps = MapWriter(repo, CLUSTER, owner(0))
    tree = TreeWriter(maps, BLOCK)
    overlaying, writing = Clock(), Clock()
    ordinals = [0] * days
    raw = 0
    for start in range(0, leaves, FILE_LEAVES):
        made = []
        for number in range(start, start + FILE_LEAVES):
            leaf = Leaf.single(LEAF_BLOCKS, BASE, number * LEAF_BLOCKS)
            for day in range(days):
                at = np.unique(rng.integers(0, LEAF_BLOCKS, int(LEAF_BLOCKS * CHANGED)))
                first = ordinals[day]
                ordinals[day] += len(at)
                with overlaying.running():
                    leaf = overlay(leaf, at, BASE + 1 + day, np.arange(first, first + len(at)))
            made.append(leaf)
            raw += len(encode(leaf))
        entry = FileEntry(
            b"base/16384/%d" % (16_384 + start), size=FILE_LEAVES * LEAF_BLOCKS * BLOCK, mtime=start
        )
        with writing.running():
            tree.add(entry, made)
    known = [
        GenerationRef(
            number, owner(number), [Ref(f"{owner(number)}.000000", 0, 160, 9, 9, bytes(32))]
        )
        for number in range(BASE, BASE + 1 + days)
    ]
    with writing.running():
        root = tree.finish(known)
        maps.close()
    if days:
        print(f"  overlay of one day       {overlaying.seconds / days:8.2f} s")
    print(f"  write (encode, store)    {writing.seconds:8.2f} s")
    return root, raw / 1e6


def read_leaves(repo: Repository, root: RootRef, leaves: int) -> None:
    reading, resolving = Clock(), Clock()
    seen = blocks = 0
    reader = TreeReader(repo, CLUSTER, root.refs)
    for chunk in reader.chunks():
        for file in range(len(chunk)):
            with reading.running():
                found = chunk.leaves(file)
            with resolving.running():
                for leaf in found:
                    generations, _ = resolve(leaf)
                    blocks += len(generations)
            seen += len(found)
    assert (seen, blocks) == (leaves, leaves * LEAF_BLOCKS)
    print(f"  read (fetch, decode)     {reading.seconds:8.2f} s")
    print(f"  resolve every block      {resolving.seconds:8.2f} s")


def index(store: Store, leaves: int, days: int) -> None:
    repo = create(store, host_name="bench", keep=lambda key_file: None).repository
    root, raw = write_leaves(repo, leaves, days)
    size = stored(store, "packs/map/")
    read_leaves(repo, root, leaves)
    print(f"  leaves raw               {raw:8.1f} MB")
    print(f"  stored, with file table  {size:8.1f} MB")
    print(f"  most memory so far       {memory():8.1f} MB{_of_store(store)}")


def frame_lists(store: Store, frames: int) -> None:
    """A generation of `frames` tiny frames, packed as 1 MiB frames would be in packs of 16 MiB."""
    repo = create(store, host_name="bench", keep=lambda key_file: None).repository
    rng = np.random.default_rng(2)
    compressed = compress(bytes(BLOCK))
    maps = MapWriter(repo, CLUSTER, owner(0))
    prints = maps.beside()
    writer = GenerationWriter(
        repo,
        CLUSTER,
        owner(0),
        BASE,
        block_size=BLOCK,
        maps=maps,
        prints=prints,
        pack_size=160 + FRAMES_PER_PACK * (len(compressed) + 16),
    )
    clock = Clock()
    batch = 16_384
    for start in range(0, frames, batch):
        ids = rng.bytes(32 * batch)
        made = [
            EncodedFrame(compressed, BLOCK, 1, ids[32 * number : 32 * number + 32], _PRINTS)
            for number in range(min(batch, frames - start))
        ]
        with clock.running():
            for frame in made:
                writer.add(frame)
    with clock.running():
        summary = writer.close()
        maps.close()
        prints.close()
    print(f"  write                    {clock.seconds:8.2f} s ({summary.data_packs} data packs)")
    reader = GenerationReader(repo, CLUSTER, summary.ref.refs)
    clock = Clock()
    with clock.running():
        located = reader.locate(np.arange(frames))
    assert len(located.offsets) == frames
    lists = reader.document.frame_lists
    print(f"  locate every frame       {clock.seconds:8.2f} s")
    print(f"  frame list raw           {sum(ref.raw for ref in lists) / 1e6:8.1f} MB")
    print(f"  stored                   {sum(ref.stored for ref in lists) / 1e6:8.1f} MB")
    print(f"  most memory so far       {memory():8.1f} MB{_of_store(store)}")


_PRINTS = np.ones(1, np.uint64)


def _of_store(store: Store) -> str:
    if not isinstance(store, MemoryStore):
        return ""
    return f", of which the store has {stored(store, ''):.0f} MB"


def run(options: argparse.Namespace, stores: Iterator[Store]) -> None:
    leaves = int(options.tib * (1 << 40)) // (LEAF_BLOCKS * BLOCK) // FILE_LEAVES * FILE_LEAVES
    print(f"start: {memory():.1f} MB")
    print(f"{options.tib:g} TiB, {leaves} leaves, base backup")
    index(next(stores), leaves, 0)
    print(f"{options.tib:g} TiB, {leaves} leaves, day {options.days}")
    index(next(stores), leaves, options.days)
    if not options.skip_frames:
        frames = leaves * LEAF_BLOCKS // SLOTS
        print(f"frame list of {frames} frames")
        frame_lists(next(stores), frames)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tib", type=float, default=1)
    parser.add_argument("--days", type=int, default=30)
    parser.add_argument("--store", choices=["memory", "local"], default="memory")
    parser.add_argument("--skip-frames", action="store_true")
    options = parser.parse_args()
    if options.store == "memory":
        run(options, iter([MemoryStore(), MemoryStore(), MemoryStore()]))
        return
    with tempfile.TemporaryDirectory() as directory:
        paths = [Path(directory) / name for name in ("base", "days", "frames")]
        for path in paths:
            path.mkdir()
        run(options, iter([LocalStore(path) for path in paths]))


if __name__ == "__main__":
    main()
