"""Frame lists and page prints: chunks, places, round trips, damage."""

from __future__ import annotations

import struct

import numpy as np
import pytest
import xxhash

from pgkeep.codec.container import MAX_RAW
from pgkeep.errors import Damaged
from pgkeep.repo import framelist, prints
from pgkeep.repo.framelist import MAX_FRAMES, FrameList, FrameListBuilder


def build(packs: list[int], stored: int = 100) -> list[FrameList]:
    builder = FrameListBuilder(5)
    chunks = []
    number = 0
    for pack, frames in enumerate(packs):
        for _ in range(frames):
            builder.add(stored + number % 7, 128 - number % 3, number.to_bytes(32, "big"))
            number += 1
        chunks.append(builder.end_pack(bytes([pack % 256]) * 160, bytes([pack % 256]) * 32))
    chunks.append(builder.finish())
    return [chunk for chunk in chunks if chunk is not None]


def test_places_of_frames() -> None:
    (chunk,) = build([3, 1, 2])
    assert chunk.packs.tolist() == [0, 0, 0, 1, 2, 2]
    assert chunk.numbers.tolist() == [0, 1, 2, 0, 0, 1]
    assert chunk.stored.tolist() == [100, 101, 102, 103, 104, 105]
    assert chunk.offsets.tolist() == [160, 260, 361, 160, 160, 264]
    assert chunk.blocks.tolist() == [128, 127, 126, 128, 127, 126]
    assert chunk.ids[4].tobytes() == (4).to_bytes(32, "big")


def test_round_trip() -> None:
    (chunk,) = build([3, 1, 2])
    raw = framelist.encode(chunk)
    assert struct.unpack_from("<4sIQ4I3I", raw) == (b"FLST", 0, 5, 0, 6, 0, 3, 3, 1, 2)
    assert raw[44:204] == bytes(160)
    read = framelist.decode(raw, "test")
    for name in ("pack_frames", "headers", "digests", "stored", "blocks", "ids", "offsets"):
        assert (getattr(read, name) == getattr(chunk, name)).all()
    assert (read.generation, read.first_frame, read.first_pack) == (5, 0, 0)


def test_chunks_have_whole_packs_and_at_most_16384_frames() -> None:
    chunks = build([6000, 6000, 6000, 384, 16384, 5])
    assert [chunk.pack_frames.tolist() for chunk in chunks] == [
        [6000, 6000],
        [6000, 384],
        [16384],
        [5],
    ]
    assert [chunk.first_frame for chunk in chunks] == [0, 12000, 18384, 34768]
    assert [chunk.first_pack for chunk in chunks] == [0, 2, 4, 5]
    assert chunks[1].packs[[0, -1]].tolist() == [2, 3]
    assert chunks[2].ids[0].tobytes() == (18384).to_bytes(32, "big")
    assert all(chunk.frames <= MAX_FRAMES for chunk in chunks)


def test_chunks_of_tiny_packs_stay_under_1_mib() -> None:
    chunks = build([1] * 10_000)
    assert sum(chunk.frames for chunk in chunks) == 10_000
    sizes = [len(framelist.encode(chunk)) for chunk in chunks]
    assert max(sizes) <= MAX_RAW
    assert min(sizes[:-1]) > MAX_RAW - 300


def test_no_frames_no_chunk() -> None:
    assert build([]) == []


@pytest.mark.parametrize("length", [0, 4, 31, 40, 500, -1])
def test_a_frame_list_cut_short_is_damaged(length: int) -> None:
    raw = framelist.encode(build([3, 1])[0])
    with pytest.raises(Damaged, match="somewhere"):
        framelist.decode(raw[:length], "somewhere")


@pytest.mark.parametrize("counts", [(4, 0), (3, 2), (0, 4)])
def test_packs_that_do_not_add_up_are_damaged(counts: tuple[int, int]) -> None:
    raw = bytearray(framelist.encode(build([3, 1])[0]))
    raw[32:40] = struct.pack("<2I", *counts)
    with pytest.raises(Damaged, match="counts"):
        framelist.decode(bytes(raw), "test")


def test_prints_are_xxh3_of_each_block() -> None:
    data = np.random.default_rng(1).bytes(4 * 1024)
    values = prints.page_prints(memoryview(data), 1024, 77)
    expected = [xxhash.xxh3_64_intdigest(data[at : at + 1024], 77) for at in range(0, 4096, 1024)]
    assert values.dtype == np.uint64
    assert values.tolist() == expected
    assert prints.page_prints(data, 1024, 78).tolist() != expected


def test_prints_come_in_chunks_of_512_frames() -> None:
    builder = prints.PrintsBuilder(9, 128)
    chunks = []
    for frame in range(1030):
        blocks = 100 if frame == 600 else 128
        chunk = builder.add(np.full(blocks, frame + 1, np.uint64))
        chunks += [chunk] if chunk is not None else []
    last = builder.finish()
    assert last is not None
    chunks.append(last)
    assert [(chunk.first_frame, len(chunk.values)) for chunk in chunks] == [
        (0, 512),
        (512, 512),
        (1024, 6),
    ]
    assert chunks[1].values[88].tolist() == [601] * 100 + [0] * 28
    assert chunks[1].values[89].tolist() == [602] * 128
    assert builder.finish() is None
    raw = prints.encode(chunks[1])
    assert len(raw) == 24 + 512 * 128 * 8
    read = prints.decode(raw, 128, "test")
    assert (read.generation, read.first_frame) == (9, 512)
    assert (read.values == chunks[1].values).all()


@pytest.mark.parametrize("block_size", [1024, 2048, 4096, 8192, 16384, 32768])
def test_a_chunk_of_prints_stays_under_1_mib(block_size: int) -> None:
    blocks = (1 << 20) // block_size
    assert 24 + prints.frames_per_chunk(blocks) * blocks * 8 <= 1 << 20


def test_prints_cut_short_are_damaged() -> None:
    raw = prints.encode(prints.Prints(1, 0, np.ones((2, 128), np.uint64)))
    for bad in (raw[:-1], raw[:20], b"", b"XXXX" + raw[4:], raw + b"\0"):
        with pytest.raises(Damaged, match="somewhere"):
            prints.decode(bad, 128, "somewhere")
