"""Leaves: round trips, what the bytes are, overlays, and bytes that are no leaf."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from pgkeep.errors import Damaged, NewerFormat
from pgkeep.repo.leaf import (
    LEAF_BLOCKS,
    MAX_ENTRIES,
    NOWHERE,
    ZEROS,
    Entry,
    Leaf,
    compose,
    crowded,
    decode,
    encode,
    encode_frame,
    overlay,
    resolve,
    split_frame,
)


def resolved(leaf: Leaf) -> list[tuple[int, int]]:
    generations, ordinals = resolve(leaf)
    return list(zip(generations.tolist(), ordinals.tolist(), strict=True))


def through_bytes(leaf: Leaf) -> Leaf:
    return decode(encode(leaf), "test")


def test_base_leaf_is_24_bytes() -> None:
    leaf = Leaf.single(LEAF_BLOCKS, 5, 1000)
    assert encode(leaf) == struct.pack("<IBBHQQ", 16384, 1, 0, 0, 5, 1000)
    generations, ordinals = resolve(through_bytes(leaf))
    assert (generations == 5).all()
    assert ordinals.tolist() == list(range(1000, 1000 + 16384))


def test_zeros_leaf_has_no_entry() -> None:
    leaf = Leaf.zeros(7)
    assert encode(leaf) == struct.pack("<IBBH", 7, 0, 0, 0)
    assert resolved(through_bytes(leaf)) == [(NOWHERE, 0)] * 7


def test_bytes_of_an_overlaid_leaf() -> None:
    leaf = overlay(Leaf.single(6, 2, 100), [1, 3, 4], 9, [500, 501, 801], zeroed=[5])
    assert encode(leaf) == (
        struct.pack("<IBBH4Q", 6, 2, 1, 0, 2, 100, 9, 500)
        + bytes([0, 1, 0, 1, 1, ZEROS])
        # Gaps 0 and 299: first the low bytes, then the high ones.
        + bytes([0, 299 & 255, 0, 299 >> 8])
    )
    assert resolved(through_bytes(leaf)) == [
        (2, 100),
        (9, 500),
        (2, 102),
        (9, 501),
        (9, 801),
        (NOWHERE, 0),
    ]


def test_a_gap_that_does_not_fit_begins_an_entry() -> None:
    leaf = overlay(Leaf.single(4, 2, 0), [0, 1, 2], 3, [10, 10 + 65_536, 10 + 65_536 + 65_537])
    assert leaf.entries == (Entry(2, 0), Entry(3, 10), Entry(3, 10 + 131_073))
    assert leaf.gaps.tolist() == [65_535]
    assert resolved(through_bytes(leaf)) == [(3, 10), (3, 65_546), (3, 131_083), (2, 3)]


def test_ordinals_that_fall_begin_an_entry() -> None:
    leaf = overlay(Leaf.single(3, 2, 0), [0, 1, 2], 3, [9, 4, 20])
    assert resolved(through_bytes(leaf)) == [(3, 9), (3, 4), (3, 20)]


def test_255_entries_round_trip() -> None:
    leaf = Leaf.single(1000, 1, 0)
    for generation in range(2, MAX_ENTRIES + 1):
        leaf = overlay(leaf, [generation, generation + 500], generation, [7, 11])
    assert len(leaf.entries) == MAX_ENTRIES
    assert through_bytes(leaf) == leaf
    generations, ordinals = resolve(through_bytes(leaf))
    assert generations[2:256].tolist() == list(range(2, 256))
    assert generations[502:756].tolist() == list(range(2, 256))
    assert ordinals[502:756].tolist() == [11] * 254
    assert generations[1] == 1


def test_a_full_leaf_says_what_to_store_again() -> None:
    leaf = Leaf.single(1000, 1, 0)
    for generation in range(2, MAX_ENTRIES + 1):
        wide = [generation] if generation == 77 else [generation, generation + 500]
        leaf = overlay(leaf, wide, generation, range(len(wide)))
    assert crowded(leaf).tolist() == [77]
    with pytest.raises(ValueError, match="255 entries"):
        overlay(leaf, [900], 300, [0])
    again = crowded(leaf).tolist()
    leaf = overlay(leaf, [*again, 900], 300, [0, 1])
    assert len(leaf.entries) == MAX_ENTRIES
    assert resolved(leaf)[77] == (300, 0)
    assert resolved(leaf)[900] == (300, 1)


def test_a_leaf_with_room_stores_nothing_again() -> None:
    assert crowded(overlay(Leaf.single(9, 1, 0), [3], 2, [0])).tolist() == []


def test_a_leaf_rewritten_in_order_is_a_base_leaf_again() -> None:
    leaf = overlay(Leaf.single(50, 2, 0), range(50), 3, range(640, 690))
    assert leaf == Leaf.single(50, 3, 640)


def test_a_leaf_rewritten_out_of_order_forgets_its_base() -> None:
    leaf = overlay(Leaf.single(3, 2, 0), [0, 1, 2], 3, [5, 6, 900])
    assert {entry.generation for entry in leaf.entries} == {3}
    assert resolved(through_bytes(leaf)) == [(3, 5), (3, 6), (3, 900)]


def test_overlay_grows_and_shrinks() -> None:
    leaf = overlay(Leaf.single(4, 2, 8), [1], 3, [0])
    grown = overlay(leaf, [4], 4, [70], blocks=6)
    assert resolved(grown) == [(2, 8), (3, 0), (2, 10), (2, 11), (4, 70), (NOWHERE, 0)]
    shrunk = overlay(grown, [], 5, [], blocks=2)
    assert resolved(through_bytes(shrunk)) == [(2, 8), (3, 0)]
    assert overlay(leaf, [], 5, [], zeroed=range(4)) == Leaf.zeros(4)


def test_compose_undoes_resolve() -> None:
    rng = np.random.default_rng(3)
    leaf = Leaf.single(LEAF_BLOCKS, 2, 128)
    for generation in range(3, 20):
        at = np.flatnonzero(rng.random(LEAF_BLOCKS) < 0.02)
        leaf = overlay(leaf, at, generation, np.arange(len(at)) + 17, zeroed=[generation])
    assert compose(*resolve(leaf)) == leaf


@pytest.mark.parametrize("positions", [[3, 3], [3, 2], [-1], [4]])
def test_overlay_refuses_positions_out_of_order_or_range(positions: list[int]) -> None:
    with pytest.raises(ValueError, match="rise strictly"):
        overlay(Leaf.single(4, 2, 0), positions, 3, range(len(positions)))


@pytest.mark.parametrize("blocks", [0, LEAF_BLOCKS + 1])
def test_a_leaf_has_1_to_16384_blocks(blocks: int) -> None:
    with pytest.raises(ValueError, match="16384"):
        Leaf.single(blocks, 1, 0)


GOOD = encode(overlay(Leaf.single(6, 2, 100), [1, 3, 4], 9, [500, 501, 801], zeroed=[5]))


@pytest.mark.parametrize("length", range(len(GOOD)))
def test_a_leaf_cut_short_is_damaged(length: int) -> None:
    with pytest.raises(Damaged, match="leaf 3 of somewhere"):
        decode(GOOD[:length], "leaf 3 of somewhere")


def test_bytes_after_a_leaf_are_damage() -> None:
    for leaf in (GOOD, encode(Leaf.zeros(3)), encode(Leaf.single(3, 1, 0))):
        with pytest.raises(Damaged):
            decode(leaf + b"\0\0", "test")


@pytest.mark.parametrize(
    ("offset", "value", "what"),
    [
        (0, 0, "0 blocks"),
        (2, 1, "65542 blocks"),
        (4, 1, "an entry that it does not have"),
        (4, 3, "leaf"),
        (40, 3, "an entry that it does not have"),
        (5, 0, "needs one"),
    ],
)
def test_nonsense_is_damaged(offset: int, value: int, what: str) -> None:
    bad = bytearray(GOOD)
    bad[offset] = value
    with pytest.raises(Damaged, match=what):
        decode(bytes(bad), "test")


def test_an_entry_without_blocks_is_damaged() -> None:
    bad = bytearray(GOOD)
    bad[40:46] = bytes([0, 0, 0, 0, 0, ZEROS])
    with pytest.raises(Damaged, match="entry without blocks"):
        decode(bytes(bad), "test")


@pytest.mark.parametrize(("offset", "value"), [(5, 3), (6, 1)])
def test_flags_of_a_newer_format_are_refused(offset: int, value: int) -> None:
    newer = bytearray(GOOD)
    newer[offset] = value
    with pytest.raises(NewerFormat):
        decode(bytes(newer), "test")


def test_frames_of_leaves_round_trip() -> None:
    leaves = [Leaf.single(3, 1, 0), Leaf.zeros(9), decode(GOOD, "test")]
    frame = encode_frame([encode(leaf) for leaf in leaves])
    assert frame[:4] == b"LEAF"
    assert [decode(part, "test") for part in split_frame(frame, "test")] == leaves


@pytest.mark.parametrize("length", [0, 3, 7, 10, 20, -1])
def test_a_frame_of_leaves_cut_short_is_damaged(length: int) -> None:
    frame = encode_frame([GOOD, GOOD])
    with pytest.raises(Damaged, match="somewhere"):
        split_frame(frame[:length], "somewhere")
    with pytest.raises(Damaged):
        split_frame(b"XXXX" + frame[4:], "somewhere")
