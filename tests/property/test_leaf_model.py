"""Leaves against plain lists, and decoders against bytes that nobody wrote."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgkeep.errors import FormatError
from pgkeep.repo import filetable, framelist, leaf, prints
from pgkeep.repo.leaf import MAX_ENTRIES, NOWHERE, Leaf, compose, decode, encode, overlay, resolve
from pgkeep.repo.refs import Ref

Block = tuple[int, int]
"""Generation and ordinal."""


@dataclass
class Change:
    """A generation's new blocks: position, and how far its ordinal is from the one before."""

    steps: dict[int, int]
    zeroed: set[int]
    blocks: int


far = st.sampled_from([1, 2, 3, 65_535, 65_536, 65_537, 1 << 20, -1, -7])
changes = st.lists(
    st.builds(
        Change,
        steps=st.dictionaries(st.integers(0, 59), far, max_size=30),
        zeroed=st.sets(st.integers(0, 59), max_size=8),
        blocks=st.integers(1, 60),
    ),
    max_size=6,
)
starts = st.sampled_from([Leaf.zeros(40), Leaf.single(40, 2, 0), Leaf.single(1, 2, 1 << 40)])


def as_blocks(made: Leaf) -> list[Block]:
    generations, ordinals = resolve(made)
    return list(zip(generations.tolist(), ordinals.tolist(), strict=True))


def apply(model: list[Block], change: Change, generation: int) -> tuple[list[Block], list[Block]]:
    """The model after the change; also (position, ordinal) of each block that was stored."""
    model = (model + [(NOWHERE, 0)] * change.blocks)[: change.blocks]
    ordinal, stored = 1 << 30, []
    for position in sorted(change.zeroed):
        if position < change.blocks:
            model[position] = (NOWHERE, 0)
    for position, step in sorted(change.steps.items()):
        if position < change.blocks:
            ordinal += step
            model[position] = (generation, ordinal)
            stored.append((position, ordinal))
    return model, stored


@given(starts, changes)
def test_overlays_say_what_the_model_says(made: Leaf, history: list[Change]) -> None:
    model = as_blocks(made)
    for generation, change in enumerate(history, start=3):
        model, stored = apply(model, change, generation)
        made = overlay(
            made,
            [position for position, _ in stored],
            generation,
            [ordinal for _, ordinal in stored],
            blocks=change.blocks,
            zeroed=[position for position in sorted(change.zeroed) if position < change.blocks],
        )
        assert as_blocks(made) == model
        assert as_blocks(decode(encode(made), "test")) == model
        assert as_blocks(compose(*resolve(made))) == model
        named = {entry.generation for entry in made.entries}
        # At most entry 0 may have lost its blocks; then it names what another entry does.
        assert len(named) <= MAX_ENTRIES
        if made.index is not None and not (made.index == 0).any():
            assert named == {generation for generation, _ in model} - {NOWHERE}


def encoded_table() -> bytes:
    ref = Ref("20261123T080000Z-abcdef.000000", 1, 160, 10, 20, bytes(32))
    count = 3
    column = np.ones(count, np.uint8)
    return filetable.encode(
        filetable.FileTable(
            frames=[ref],
            paths=[b"a", b"b", b"c"],
            kinds=np.array([0, 2, 0], np.uint8),
            modes=column.astype(np.uint32),
            sizes=column.astype(np.uint64),
            mtimes=column.astype(np.int64),
            flags=column,
            leaf_counts=column.astype(np.uint32),
            leaf_frames=np.zeros(count, np.uint32),
            leaf_places=np.zeros(count, np.uint32),
            targets=[b"there"],
        )
    )


def encoded_list() -> bytes:
    builder = framelist.FrameListBuilder(5)
    for number in range(9):
        builder.add(100 + number, 128, bytes(32))
        if number % 4 == 0:
            builder.end_pack(bytes(160), bytes(32))
    chunk = builder.finish()
    assert chunk is not None
    return framelist.encode(chunk)


changed = overlay(Leaf.single(30, 2, 5), [3, 5, 9], 7, [0, 4, 8], zeroed=[1])
DECODERS: dict[str, tuple[bytes, Callable[[bytes], object]]] = {
    "leaf": (encode(changed), lambda raw: resolve(decode(raw, "x"))),
    "leaves": (
        leaf.encode_frame([encode(changed), encode(Leaf.zeros(4))]),
        lambda raw: leaf.split_frame(raw, "x"),
    ),
    "file table": (encoded_table(), lambda raw: filetable.decode(raw, "x")),
    "frame list": (encoded_list(), lambda raw: framelist.decode(raw, "x")),
    "prints": (
        prints.encode(prints.Prints(2, 0, np.ones((2, 8), np.uint64))),
        lambda raw: prints.decode(raw, 8, "x"),
    ),
}


@pytest.mark.parametrize("name", DECODERS)
@given(data=st.data())
def test_decoders_refuse_nonsense_with_an_error_of_ours(name: str, data: st.DataObject) -> None:
    good, read = DECODERS[name]
    raw = bytearray(good[: data.draw(st.integers(0, len(good)))])
    for at, value in data.draw(
        st.dictionaries(st.integers(0, len(good)), st.integers(0, 255), max_size=4)
    ).items():
        if at < len(raw):
            raw[at] = value
    raw += data.draw(st.binary(max_size=8))
    # Anything but an error of ours, which says what is damaged, fails this test.
    with suppress(FormatError):
        read(bytes(raw))
