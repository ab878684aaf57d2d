"""Trees: what the files of a backup look like when read back, and what must be refused."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
import pytest

from pgkeep.errors import Damaged, ObjectMissing, UsageError
from pgkeep.repo import filetable
from pgkeep.repo.filetable import FLAG_CHECKSUMS, FileEntry, FileKind
from pgkeep.repo.generation import GenerationRef, GenerationWriter
from pgkeep.repo.leaf import LEAF_BLOCKS, Leaf, overlay
from pgkeep.repo.mapreader import MapReader
from pgkeep.repo.mapwriter import MapWriter
from pgkeep.repo.refs import PackTable, Ref, from_json, to_json
from pgkeep.repo.repository import Repository, create
from pgkeep.repo.tree import RootRef, TreeReader, TreeWriter
from pgkeep.store.memory import MemoryStore

BLOCK = 8192
CLUSTER = "bss"
OWNER = "20261123T080000Z-abcdef"
LATER = "20261123T090000Z-abcdef"

BASE = GenerationRef(2, OWNER, [Ref(f"{OWNER}.000000", 0, 160, 10, 20, bytes(32))])
DAILY = GenerationRef(7, LATER, [Ref(f"{LATER}.000003", 1, 999, 10, 20, bytes(32))])


@pytest.fixture
def repo() -> Repository:
    return create(MemoryStore(), host_name="test", keep=lambda key_file: None).repository


def write(
    repo: Repository,
    files: list[tuple[FileEntry, list[Leaf]]],
    *,
    generations: tuple[GenerationRef, ...] = (BASE, DAILY),
    manifest: bytes = b"",
) -> RootRef:
    maps = MapWriter(repo, CLUSTER, OWNER)
    tree = TreeWriter(maps, BLOCK)
    for entry, leaves in files:
        tree.add(entry, leaves)
    root = tree.finish(generations, manifest)
    maps.close()
    return root


def read(repo: Repository, root: RootRef) -> list[tuple[FileEntry, list[Leaf]]]:
    return [
        (chunk.entry(number), chunk.leaves(number))
        for chunk in TreeReader(repo, CLUSTER, root.refs).chunks()
        for number in range(len(chunk))
    ]


def base(blocks: int, first: int = 0) -> list[Leaf]:
    return [
        Leaf.single(min(LEAF_BLOCKS, blocks - start), 2, first + start)
        for start in range(0, blocks, LEAF_BLOCKS)
    ]


def daily(leaf: Leaf, seed: int) -> Leaf:
    rng = np.random.default_rng(seed)
    at = np.flatnonzero(rng.random(leaf.blocks) < 0.3)
    return overlay(leaf, at, 7, np.arange(len(at)))


FILES: list[tuple[FileEntry, list[Leaf]]] = [
    (FileEntry(b"pg_wal", FileKind.DIRECTORY, 0o700, 0, 1_700_000_000), []),
    (
        FileEntry(b"pg_tblspc/16385", FileKind.SYMLINK, 0o777, 0, 5, target=b"/srv/\xff space"),
        [],
    ),
    (FileEntry(b"base/5/1259", size=40_000 * BLOCK, flags=FLAG_CHECKSUMS), base(40_000, 128)),
    (FileEntry(b"base/5/\xff\xfe", mode=0o644, size=BLOCK + 1, mtime=-7), base(2, 7)),
    (FileEntry(b"PG_VERSION", size=3), base(1)),
    (FileEntry(b"base/5/empty"), []),
    (FileEntry(b"a.link", FileKind.SYMLINK, target=b".."), []),
    (FileEntry(b"base/5/zeros", size=30 * BLOCK), [Leaf.zeros(30)]),
    (FileEntry(b"base/5/changed", size=9_000 * BLOCK), [daily(base(9_000, 500)[0], 1)]),
]


def test_files_come_back_in_byte_order_of_their_paths(repo: Repository) -> None:
    root = write(repo, FILES)
    assert read(repo, root) == sorted(FILES, key=lambda file: file[0].path)
    assert (root.files, root.bytes) == (len(FILES), sum(entry.size for entry, _ in FILES))


def test_root_says_what_is_needed(repo: Repository) -> None:
    root = TreeReader(repo, CLUSTER, write(repo, FILES).refs).root
    assert (root.block_size, root.files) == (BLOCK, len(FILES))
    assert [(known.generation, known.owner) for known in root.generations] == [
        (2, OWNER),
        (7, LATER),
    ]
    for known, given in zip(root.generations, (BASE, DAILY), strict=True):
        assert from_json(known.document, root.packs, "test") == given.refs


def test_generations_that_no_leaf_names_are_left_out(repo: Repository) -> None:
    root = write(repo, [(FileEntry(b"a", size=BLOCK), base(1))])
    assert [
        known.generation for known in TreeReader(repo, CLUSTER, root.refs).root.generations
    ] == [2]


def test_manifests_of_several_frames_come_back(repo: Repository) -> None:
    manifest = np.random.default_rng(1).bytes(3_000_000)
    reader = TreeReader(repo, CLUSTER, write(repo, FILES, manifest=manifest).refs)
    assert reader.manifest() == manifest
    assert len(reader.root.manifest) == 3


def test_a_backup_without_files(repo: Repository) -> None:
    root = write(repo, [])
    assert read(repo, root) == []
    assert TreeReader(repo, CLUSTER, root.refs).manifest() == b""
    assert (root.files, root.bytes) == (0, 0)


def test_many_files_make_several_chunks_in_order(repo: Repository) -> None:
    rng = np.random.default_rng(2)
    numbers = rng.permutation(10_000).tolist()
    files = [
        (
            FileEntry(b"base/%d/%d" % (number % 7, number), size=(number % 3) * BLOCK),
            base(number % 3),
        )
        for number in numbers
    ]
    root = write(repo, files)
    chunks = list(TreeReader(repo, CLUSTER, root.refs).chunks())
    assert [len(chunk) for chunk in chunks] == [4096, 4096, 10_000 - 2 * 4096]
    assert read(repo, root) == sorted(files, key=lambda file: file[0].path)


def test_chunks_with_many_leaves_stay_within_a_frame(repo: Repository) -> None:
    # Leaves with long maps: few fit in a LEAF frame, so references fill the file table.
    rng = np.random.default_rng(3)
    changed = np.flatnonzero(rng.random(LEAF_BLOCKS) < 0.6)
    leaf = overlay(Leaf.single(LEAF_BLOCKS, 2, 0), changed, 7, np.arange(len(changed)) * 2)
    size = 40 * LEAF_BLOCKS * BLOCK
    files = [(FileEntry(b"base/5/%06d" % number, size=size), [leaf] * 40) for number in range(700)]
    root = write(repo, files)
    reader = TreeReader(repo, CLUSTER, root.refs)
    lengths = [len(chunk) for chunk in reader.chunks()]
    assert sum(lengths) == 700
    assert len(lengths) > 1
    assert all(ref.raw <= 1 << 20 for ref in from_json(reader.root.chunks, reader.root.packs, "x"))
    *_, last = reader.chunks()
    assert last.leaves(len(last) - 1) == [leaf] * 40


def test_a_file_with_more_leaves_than_a_chunk_can_name_is_refused(repo: Repository) -> None:
    leaves = 130_000
    tree = TreeWriter(MapWriter(repo, CLUSTER, OWNER), BLOCK)
    entry = FileEntry(b"base/5/huge", size=leaves * LEAF_BLOCKS * BLOCK)
    tree.add(entry, [Leaf.zeros(LEAF_BLOCKS)] * leaves)
    with pytest.raises(UsageError, match="huge"):
        tree.finish([])


@pytest.mark.parametrize(
    ("entry", "leaves"),
    [
        (FileEntry(b"a", size=BLOCK), []),
        (FileEntry(b"a", size=BLOCK), base(2)),
        (FileEntry(b"a", size=0), base(1)),
        (FileEntry(b"a", FileKind.DIRECTORY), base(1)),
        (FileEntry(b"a", size=BLOCK * (LEAF_BLOCKS + 1)), [*base(1), *base(LEAF_BLOCKS)]),
    ],
)
def test_leaves_that_do_not_fit_the_file_are_refused(
    repo: Repository, entry: FileEntry, leaves: list[Leaf]
) -> None:
    with pytest.raises(ValueError, match="leaves"):
        write(repo, [(entry, leaves)])


def test_a_path_twice_is_refused(repo: Repository) -> None:
    with pytest.raises(ValueError, match="twice"):
        write(repo, [(FileEntry(b"b"), []), (FileEntry(b"a"), []), (FileEntry(b"b"), [])])


@pytest.mark.parametrize("path", [b"../outside", b"/etc/passwd", b""])
def test_a_path_that_leads_elsewhere_is_refused(repo: Repository, path: bytes) -> None:
    with pytest.raises(UsageError):
        write(repo, [(FileEntry(path), [])])


def test_a_generation_that_leaves_name_must_be_given(repo: Repository) -> None:
    with pytest.raises(ValueError, match=r"\[7\]"):
        write(repo, FILES, generations=(BASE,))


def test_a_generation_that_is_not_listed_is_damage(repo: Repository) -> None:
    reader = TreeReader(repo, CLUSTER, write(repo, []).refs)
    with pytest.raises(Damaged, match="generation 2"):
        reader.generation(2)


def test_generations_are_opened_once(repo: Repository) -> None:
    maps = MapWriter(repo, CLUSTER, LATER)
    writer = GenerationWriter(
        repo, CLUSTER, LATER, 2, block_size=BLOCK, maps=maps, prints=maps.beside()
    )
    writer.add(writer.encode(bytes(BLOCK)))
    generation = writer.close().ref
    maps.close()
    root = write(repo, [(FileEntry(b"a", size=BLOCK), base(1))], generations=(generation,))
    reader = TreeReader(repo, CLUSTER, root.refs)
    assert list(reader.generation(2).read([0])) == [(0, bytes(BLOCK))]
    assert reader.generation(2) is reader.generation(2)


def put_root(repo: Repository, root: RootRef, **changes: object) -> RootRef:
    """The same root with members changed as a writer without sense would."""
    document = msgspec.json.decode(MapReader(repo, CLUSTER).get_document(root.refs))
    maps = MapWriter(repo, CLUSTER, LATER)
    changed = maps.put_document(msgspec.json.encode(document | changes))
    maps.close()
    return replace(root, refs=changed)


def test_members_of_a_newer_root_are_ignored(repo: Repository) -> None:
    root = write(repo, FILES)
    assert read(repo, put_root(repo, root, colour="green")) == read(repo, root)


@pytest.mark.parametrize(
    "changes", [{"chunks": [[99, 0, 160, 5, 5, "00" * 32]]}, {"chunks": [[0, 0, 160, 5, 5, "zz"]]}]
)
def test_references_that_lead_nowhere_are_damage(
    repo: Repository, changes: dict[str, object]
) -> None:
    root = put_root(repo, write(repo, FILES), **changes)
    with pytest.raises(Damaged, match="root"):
        read(repo, root)


@pytest.mark.parametrize(
    "changes", [{"files": "many"}, {"chunks": [[-1, 0, 160, 5, 5, "00" * 32]]}]
)
def test_a_root_that_is_no_root_is_damage(repo: Repository, changes: dict[str, object]) -> None:
    root = put_root(repo, write(repo, FILES), **changes)
    with pytest.raises(Damaged, match="root"):
        TreeReader(repo, CLUSTER, root.refs)


def test_leaves_that_contradict_the_file_table_are_damage(repo: Repository) -> None:
    root = write(repo, [(FileEntry(b"base/5/1259", size=5 * BLOCK), base(5))])
    reader = TreeReader(repo, CLUSTER, root.refs)
    (chunk,) = from_json(reader.root.chunks, reader.root.packs, "test")
    table = filetable.decode(MapReader(repo, CLUSTER).get(chunk), "test")
    maps = MapWriter(repo, CLUSTER, "20261123T100000Z-abcdef")
    longer = maps.put(filetable.encode(replace(table, sizes=table.sizes + 2 * BLOCK)))
    elsewhere = maps.put(filetable.encode(replace(table, leaf_places=table.leaf_places + 1)))
    maps.close()
    for number, (ref, what) in enumerate([(longer, "7 blocks"), (elsewhere, "does not exist")]):
        packs = PackTable()
        chunks = to_json([ref], packs)
        document = {"chunks": chunks, "generations": [], "packs": packs.names}
        writer = MapWriter(repo, CLUSTER, f"20261123T10000{number}Z-bcdefg")
        old = msgspec.json.decode(MapReader(repo, CLUSTER).get_document(root.refs))
        refs = writer.put_document(msgspec.json.encode(old | document))
        writer.close()
        with pytest.raises(Damaged, match=f"base/5/1259.*{what}"):
            read(repo, replace(root, refs=refs))


def read_all(repo: Repository, root: RootRef) -> None:
    read(repo, root)
    TreeReader(repo, CLUSTER, root.refs).manifest()


def test_any_damaged_byte_of_the_map_is_noticed(repo: Repository) -> None:
    root = write(repo, FILES, manifest=b"{}" * 50)
    (name,) = (entry.name for entry in repo.store.list("packs/map/"))
    good = repo.store.get(name)
    end = int.from_bytes(good[-80:-72], "little")
    rng = np.random.default_rng(5)
    for at in [160, end - 1, *rng.integers(160, end, 60).tolist()]:
        for bad in (good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :], good[:at]):
            store = MemoryStore()
            store.create(name, bad)
            with pytest.raises(Damaged, match=name):
                read_all(replace(repo, store=store), root)
    with pytest.raises(ObjectMissing, match=name):
        read(replace(repo, store=MemoryStore()), root)


def test_a_frame_of_another_backup_in_the_same_place_is_damage(repo: Repository) -> None:
    """Both are sealed well, by the same key: only the id in the reference tells them apart."""
    root = write(repo, [(FileEntry(b"a", size=BLOCK), base(1, 0))])
    (name,) = (entry.name for entry in repo.store.list("packs/map/"))
    other = replace(repo, store=MemoryStore())
    write(other, [(FileEntry(b"a", size=BLOCK), base(1, 1))])
    store = MemoryStore()
    store.create(name, other.store.get(name))
    with pytest.raises(Damaged, match=name):
        read(replace(repo, store=store), root)
