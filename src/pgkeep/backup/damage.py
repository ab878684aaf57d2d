"""Finds every block with a wrong checksum in a backup whose server complained.

The server verifies each page as it sends it and reads torn ones again, but names only five blocks
of a file. So its complaint is the alarm, and the files that it names are read back from the
repository and checked whole. A backup without a complaint pays nothing for this.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from pgkeep.catalog.records import BadBlock
from pgkeep.pgformat.page import parse_relation_path, wrong_blocks
from pgkeep.repo.filetable import FLAG_CHECKSUMS
from pgkeep.repo.leaf import LEAF_BLOCKS, Leaf, resolve
from pgkeep.repo.tree import TreeReader

_PATH = re.compile(r"(?:base|global|pg_tblspc)/[0-9A-Za-z_./]*[0-9A-Za-z_]")


def named_files(notices: Iterable[str]) -> set[bytes]:
    """The relation files that the server's warnings name, in whatever language they are."""
    found = (match.encode() for text in notices for match in _PATH.findall(text))
    return {path for path in found if parse_relation_path(path) is not None}


def find_bad_blocks(
    tree: TreeReader, named: set[bytes], *, start_lsn: int, segment_blocks: int
) -> list[BadBlock]:
    """The bad blocks of the `named` files, or of all files when none is named."""
    found: list[BadBlock] = []
    for chunk in tree.chunks():
        for number in range(len(chunk)):
            entry = chunk.entry(number)
            wanted = entry.path in named if named else True
            if wanted and entry.flags & FLAG_CHECKSUMS:
                leaves = chunk.leaves(number)
                found += _of_file(tree, entry.path, leaves, start_lsn, segment_blocks)
    return found


def _of_file(
    tree: TreeReader, path: bytes, leaves: Sequence[Leaf], start_lsn: int, segment_blocks: int
) -> Iterator[BadBlock]:
    relation = parse_relation_path(path)
    if relation is None:
        return
    before = relation.segment * segment_blocks
    size = tree.root.block_size
    for number, leaf in enumerate(leaves):
        for at, pages in _pages(tree, leaf):
            in_file = number * LEAF_BLOCKS + at
            for wrong in wrong_blocks(pages, before + in_file, size, start_lsn):
                block = wrong.block - before
                yield BadBlock(path.decode(), block, wrong.stored, wrong.computed)


def _pages(tree: TreeReader, leaf: Leaf) -> Iterator[tuple[int, memoryview]]:
    """Runs of a leaf's blocks that lie side by side in one frame: the first's place, the bytes."""
    size = tree.root.block_size
    generations, ordinals = resolve(leaf)
    for number in np.unique(generations[generations > 0]).tolist():
        generation = tree.generation(int(number))
        places = np.flatnonzero(generations == number)
        frames, slots = np.divmod(ordinals[places].astype(np.int64), generation.frame_blocks)
        for frame, raw in generation.read(np.unique(frames)):
            view = memoryview(raw)
            mine = frames == frame
            for place, slot in zip(places[mine].tolist(), slots[mine].tolist(), strict=True):
                yield place, view[slot * size : (slot + 1) * size]
