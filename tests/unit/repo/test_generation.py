"""Generations through the real writers: what is read back, from where, and what damage does."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import msgspec
import numpy as np
import pytest
import xxhash

from pgkeep.codec.container import HEADER_SIZE
from pgkeep.errors import Damaged, KeyProblem, NewerFormat, ObjectMissing, StoreFull
from pgkeep.parallel import Pool
from pgkeep.repo.generation import GenerationSummary, GenerationWriter
from pgkeep.repo.generationreader import GenerationReader
from pgkeep.repo.mapreader import MapReader
from pgkeep.repo.mapwriter import MapWriter
from pgkeep.repo.repository import Repository, create
from pgkeep.store.base import Data
from pgkeep.store.memory import MemoryStore

BLOCK = 8192
SLOTS = 128
CLUSTER = "bss"
OWNER = "20261123T080000Z-abcdef"
FOOTER_COMMITMENT = 120
"""From here on a header is about the footer, which reading frames does not need."""


class WatchedStore(MemoryStore):
    """Notes every range that is read."""

    def __init__(self) -> None:
        super().__init__()
        self.ranges: list[tuple[str, int, int]] = []

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        self.ranges.append((name, offset, length))
        return super().get_range(name, offset, length)


def new_repository(store: MemoryStore) -> Repository:
    return create(store, host_name="test", keep=lambda key_file: None).repository


def frame(number: int, blocks: int = 4) -> bytes:
    """Blocks that zstd can't shrink, so that packs fill up."""
    return np.random.default_rng(number).bytes(blocks * BLOCK)


@dataclass
class Written:
    """A generation in a store of its own."""

    store: WatchedStore
    repo: Repository
    summary: GenerationSummary
    data: list[bytes]

    def reader(self) -> GenerationReader:
        return GenerationReader(self.repo, CLUSTER, self.summary.ref.refs)


def write(data: list[bytes], *, pack_size: int = 200_000, number: int = 5) -> Written:
    store = WatchedStore()
    repo = new_repository(store)
    maps = MapWriter(repo, CLUSTER, OWNER)
    prints = maps.beside()
    writer = GenerationWriter(
        repo,
        CLUSTER,
        OWNER,
        number,
        block_size=BLOCK,
        maps=maps,
        prints=prints,
        pack_size=pack_size,
    )
    for expected, raw in enumerate(data):
        assert writer.add(writer.encode(raw)) == expected
    summary = writer.close()
    maps.close()
    prints.close()
    return Written(store, repo, summary, data)


@pytest.fixture(scope="module")
def written() -> Written:
    return write([frame(number, 1 + number % 7) for number in range(60)])


def test_frames_read_back_as_they_were(written: Written) -> None:
    reader = written.reader()
    assert dict(reader.read(range(60))) == dict(enumerate(written.data))
    assert [number for number, _ in reader.read([3, 7, 59])] == [3, 7, 59]
    assert list(reader.read([])) == []


def test_summary_and_document_tell_what_is_stored(written: Written) -> None:
    names = [entry.name for entry in written.store.list("packs/data/")]
    assert names == [f"packs/data/bss/{OWNER}.{number:06d}" for number in range(len(names))]
    stored = sum(entry.size for entry in written.store.list("packs/data/"))
    summary, document = written.summary, written.reader().document
    assert (summary.frames, summary.blocks) == (60, sum(len(raw) // BLOCK for raw in written.data))
    assert (summary.data_packs, summary.data_bytes) == (len(names), stored)
    assert (document.generation, document.owner, document.block_size) == (5, OWNER, BLOCK)
    assert (document.frames, document.blocks) == (summary.frames, summary.blocks)
    assert (document.data_packs, document.data_bytes) == (len(names), stored)


def test_packs_stay_within_their_size(written: Written) -> None:
    footer = 1_000
    sizes = [entry.size for entry in written.store.list("packs/data/")]
    assert len(sizes) > 5
    assert max(sizes) <= 200_000 + footer


def test_locate_agrees_with_what_is_read(written: Written) -> None:
    reader = written.reader()
    wanted = np.array([0, 1, 30, 59])
    located = reader.locate(wanted)
    assert located.blocks.tolist() == [1, 2, 3, 4]
    for number, pack, offset, stored in zip(
        wanted.tolist(), located.packs, located.offsets, located.stored, strict=True
    ):
        written.store.ranges.clear()
        list(reader.read([number]))
        name = f"packs/data/bss/{OWNER}.{pack:06d}"
        assert written.store.ranges == [(name, offset, stored)]


def test_neighbours_are_read_at_once_and_far_frames_apart() -> None:
    small, large = frame(1, 1), frame(2, 16)
    made = write([small, small, large, small, small, large, large], pack_size=1 << 20)
    reader = made.reader()
    list(reader.read([0]))
    made.store.ranges.clear()
    # Between 0 and 3 lie 128 kB that nobody asked for, between 3 and 4 nothing.
    assert [number for number, _ in reader.read([0, 1, 3, 4])] == [0, 1, 3, 4]
    assert len(made.store.ranges) == 2


def test_reads_are_never_much_larger_than_8_mib() -> None:
    made = write([frame(number, SLOTS) for number in range(20)], pack_size=64 << 20)
    reader = made.reader()
    made.store.ranges.clear()
    assert dict(reader.read(range(20))) == dict(enumerate(made.data))
    lengths = [length for name, _, length in made.store.ranges if "/data/" in name]
    assert len(lengths) == 3
    assert max(lengths) <= 8 << 20


def test_prints_are_those_of_the_blocks(written: Written) -> None:
    values = written.reader().prints(10, 20)
    assert values.shape == (20, SLOTS)
    seed = written.repo.ring.print_seed
    for row, raw in zip(values, written.data[10:30], strict=True):
        expected = [
            xxhash.xxh3_64_intdigest(raw[at : at + BLOCK], seed) for at in range(0, len(raw), BLOCK)
        ]
        assert row.tolist() == expected + [0] * (SLOTS - len(expected))


def test_prints_lie_in_packs_of_their_own(written: Written) -> None:
    document = written.reader().document
    lists = {document.packs[ref.pack] for ref in document.frame_lists}
    prints = {document.packs[ref.pack] for ref in document.prints}
    assert lists.isdisjoint(prints)
    assert len(list(written.store.list("packs/map/"))) == 2


def test_an_empty_generation() -> None:
    made = write([])
    reader = made.reader()
    assert (made.summary.frames, made.summary.data_packs) == (0, 0)
    assert list(made.store.list("packs/data/")) == []
    assert list(reader.read([])) == []
    assert reader.prints(0, 0).shape == (0, SLOTS)
    with pytest.raises(Damaged, match="no frame 0"):
        list(reader.read([0]))


def test_frame_lists_and_prints_of_several_chunks() -> None:
    made = write([frame(number % 5, 1) for number in range(6_000)], pack_size=9_000)
    reader = made.reader()
    assert len(reader.document.frame_lists) == 2
    assert len(reader.document.prints) == 12
    boundary = reader.document.frame_list_starts[1]
    wanted = [0, boundary - 1, boundary, 5_999]
    assert list(reader.read(wanted)) == [(number, made.data[number]) for number in wanted]
    assert reader.prints(500, 1_000)[:, 0].tolist() == [
        xxhash.xxh3_64_intdigest(raw, made.repo.ring.print_seed) for raw in made.data[500:1_500]
    ]


@pytest.mark.parametrize("frames", [[3, 2], [3, 3]])
def test_frames_are_asked_for_in_order(written: Written, frames: list[int]) -> None:
    with pytest.raises(ValueError, match="rise"):
        list(written.reader().read(frames))


@pytest.mark.parametrize("number", [-1, 60, 1 << 40])
def test_a_frame_that_does_not_exist_is_damage(written: Written, number: int) -> None:
    with pytest.raises(Damaged, match="60 frames"):
        list(written.reader().read([number]))
    with pytest.raises(Damaged, match="60 frames"):
        written.reader().prints(number, 1)


@pytest.mark.parametrize("length", [0, 100, BLOCK + 1, (1 << 20) + BLOCK])
def test_a_frame_has_whole_blocks_and_at_most_1_mib(length: int) -> None:
    store = MemoryStore()
    repo = new_repository(store)
    maps = MapWriter(repo, CLUSTER, OWNER)
    writer = GenerationWriter(
        repo, CLUSTER, OWNER, 2, block_size=BLOCK, maps=maps, prints=maps.beside()
    )
    with pytest.raises(ValueError, match="whole blocks"):
        writer.encode(bytes(length))


def test_threads_write_and_read_at_once() -> None:
    data = [frame(number, 1 + number % 9) for number in range(200)]
    store = MemoryStore()
    repo = new_repository(store)
    with Pool(3) as uploads, ThreadPoolExecutor(4) as encoders:
        maps = MapWriter(repo, CLUSTER, OWNER, uploads=uploads)
        prints = maps.beside()
        writer = GenerationWriter(
            repo,
            CLUSTER,
            OWNER,
            2,
            block_size=BLOCK,
            maps=maps,
            prints=prints,
            pack_size=100_000,
            uploads=uploads,
        )
        for encoded in encoders.map(writer.encode, data):
            writer.add(encoded)
        summary = writer.close()
        # close() has waited: every data pack is there before the pool ends.
        assert len(list(store.list("packs/data/"))) == summary.data_packs
        maps.close()
        prints.close()
    reader = GenerationReader(repo, CLUSTER, summary.ref.refs)
    ranges = [range(start, start + 50) for start in range(0, 200, 25) if start <= 150]
    with ThreadPoolExecutor(4) as readers:
        for wanted, found in zip(
            ranges, readers.map(lambda part: list(reader.read(part)), ranges), strict=True
        ):
            assert found == [(number, data[number]) for number in wanted]


class FullStore(MemoryStore):
    """Has no room for data packs from the third on."""

    def create(self, name: str, data: Data) -> None:
        if name.startswith("packs/data/") and name >= f"packs/data/bss/{OWNER}.000002":
            raise StoreFull(f"no space left for {name}")
        super().create(name, data)


@pytest.mark.parametrize("pooled", [True, False])
def test_an_upload_that_fails_stops_the_writer(pooled: bool) -> None:
    repo = new_repository(FullStore())

    def run(uploads: Pool | None) -> None:
        maps = MapWriter(repo, CLUSTER, OWNER)
        writer = GenerationWriter(
            repo,
            CLUSTER,
            OWNER,
            2,
            block_size=BLOCK,
            maps=maps,
            prints=maps.beside(),
            pack_size=100_000,
            uploads=uploads,
        )
        for number in range(30):
            writer.add(writer.encode(frame(number)))
        writer.close()

    with pytest.raises(StoreFull, match="no space"):
        if pooled:
            with Pool(2) as uploads:
                run(uploads)
        else:
            run(None)


Damage = Callable[[bytes, int], bytes]


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 0x20]) + data[at + 1 :]


def cut(data: bytes, at: int) -> bytes:
    return data[:at]


def damage(made: Written, name: str, how: Damage, at: int) -> Repository:
    """The repository with one object that is not as it was."""
    store = MemoryStore()
    for entry in made.store.list(""):
        data = made.store.get(entry.name)
        store.create(entry.name, how(data, at) if entry.name == name else data)
    return replace(made.repo, store=store)


def packs(made: Written, kind: str) -> Iterator[tuple[str, int, int]]:
    """Each pack with where its frames start and end."""
    for entry in list(made.store.list(f"packs/{kind}/")):
        tail = made.store.get(entry.name)[-88:]
        yield entry.name, HEADER_SIZE, int.from_bytes(tail[8:16], "little")


@pytest.mark.parametrize("how", [flipped, cut])
@pytest.mark.parametrize("kind", ["data", "map"])
def test_a_damaged_frame_is_named_and_never_read_wrongly(kind: str, how: Damage) -> None:
    made = write([frame(number, 1 + number % 7) for number in range(25)])
    rng = np.random.default_rng(1)
    for name, start, end in packs(made, kind):
        for at in [start, end - 1, *rng.integers(start, end, 12).tolist()]:
            repo = damage(made, name, how, at)
            with pytest.raises(Damaged, match=name):
                read_everything(repo, made)


@pytest.mark.parametrize("at", range(0, HEADER_SIZE, 3))
def test_a_damaged_header_of_a_map_pack_is_an_error(written: Written, at: int) -> None:
    name = next(packs(written, "map"))[0]
    repo = damage(written, name, flipped, at)
    if at >= FOOTER_COMMITMENT:
        read_everything(repo, written)
    else:
        with pytest.raises((Damaged, NewerFormat, KeyProblem)) as caught:
            read_everything(repo, written)
        assert name in caught.value.message or isinstance(caught.value, KeyProblem)


def test_a_damaged_header_of_a_data_pack_is_not_needed(written: Written) -> None:
    name = next(packs(written, "data"))[0]
    read_everything(damage(written, name, flipped, 30), written)


def read_everything(repo: Repository, expected: Written) -> None:
    reader = GenerationReader(repo, CLUSTER, expected.summary.ref.refs)
    count = len(expected.data)
    assert list(reader.read(range(count))) == list(enumerate(expected.data))
    assert (reader.prints(0, count) == expected.reader().prints(0, count)).all()


def test_a_missing_pack_is_named(written: Written) -> None:
    for name, _, _ in [*packs(written, "data"), *packs(written, "map")]:
        repo = damage(written, name, flipped, 0)
        repo.store.delete(name)
        with pytest.raises(ObjectMissing, match=name):
            read_everything(repo, written)


def test_frames_of_two_packs_that_were_swapped_are_damaged(written: Written) -> None:
    first, second = [name for name, _, _ in packs(written, "data")][:2]
    swapped = written.store.get(second)
    repo = damage(written, first, lambda _data, _at: swapped, 0)
    with pytest.raises(Damaged, match=first):
        read_everything(repo, written)


def test_a_document_that_speaks_of_other_frame_lists_is_damaged(written: Written) -> None:
    maps = MapWriter(written.repo, CLUSTER, "20261123T090000Z-abcdef")
    document = msgspec.json.decode(
        MapReader(written.repo, CLUSTER).get_document(written.summary.ref.refs)
    )
    other = maps.put_document(msgspec.json.encode(document | {"frame_list_starts": [7]}))
    none = maps.put_document(msgspec.json.encode(document | {"frame_list_starts": []}))
    not_json = maps.put_document(b"{")
    maps.close()
    with pytest.raises(Damaged, match="where frame 7 belongs there is frame 0"):
        list(GenerationReader(written.repo, CLUSTER, other).read([8]))
    for refs in (none, not_json):
        with pytest.raises(Damaged, match="generation"):
            GenerationReader(written.repo, CLUSTER, refs)


def test_members_of_a_newer_document_are_ignored(written: Written) -> None:
    maps = MapWriter(written.repo, CLUSTER, "20261123T100000Z-abcdef")
    document = msgspec.json.decode(
        MapReader(written.repo, CLUSTER).get_document(written.summary.ref.refs)
    )
    newer = maps.put_document(msgspec.json.encode(document | {"colour": "green"}))
    maps.close()
    reader = GenerationReader(written.repo, CLUSTER, newer)
    assert next(reader.read([4])) == (4, written.data[4])


def test_writers_side_by_side_never_share_a_name() -> None:
    store = MemoryStore()
    repo = new_repository(store)
    maps = MapWriter(repo, CLUSTER, OWNER, pack_size=1_000)
    other = maps.beside()
    reader = MapReader(repo, CLUSTER)
    lock = threading.Lock()
    refs = []

    def put(writer: MapWriter, start: int) -> None:
        for number in range(start, start + 40):
            ref = writer.put(frame(number, 1))
            with lock:
                refs.append((number, ref))
        writer.close()

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(put, [maps, other], [0, 100]))
    assert len(set(maps.packs) | set(other.packs)) == 80
    found = reader.get_many([ref for _, ref in refs])
    assert found == [frame(number, 1) for number, _ in refs]
