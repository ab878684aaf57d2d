"""File tables: round trips, and bytes or names that must not be believed."""

from __future__ import annotations

import struct
from dataclasses import replace

import numpy as np
import pytest

from pgkeep.errors import Damaged, UsageError
from pgkeep.repo.filetable import FileEntry, FileKind, FileTable, check_entry, decode, encode
from pgkeep.repo.refs import Ref

ODD = b"base/5/\xff\xfe odd\nname"


def ref(number: int) -> Ref:
    return Ref(f"20261123T080000Z-abcdef.{number % 2:06}", number, 160 + number, 10, 20, bytes(32))


def table() -> FileTable:
    return FileTable(
        frames=[ref(3), ref(8)],
        paths=[ODD, b"base/5/link", b"pg_wal", b"pg_tblspc/16385/PG_18/1/2"],
        kinds=np.array([0, 2, 1, 0], np.uint8),
        modes=np.array([0o600, 0o777, 0o700, 0o640], np.uint32),
        sizes=np.array([1 << 40, 0, 0, 5], np.uint64),
        mtimes=np.array([1_700_000_000, -5, 0, 2**40], np.int64),
        flags=np.array([1, 0, 0, 0], np.uint8),
        leaf_counts=np.array([2, 0, 0, 1], np.uint32),
        leaf_frames=np.array([0, 1, 1], np.uint32),
        leaf_places=np.array([7, 0, 9], np.uint32),
        targets=[b"../elsewhere"],
    )


COLUMNS = ("kinds", "modes", "sizes", "mtimes", "flags", "leaf_counts", "leaf_frames")


def test_round_trip() -> None:
    read = decode(encode(table()), "test")
    assert read.paths == table().paths
    assert read.targets == [b"../elsewhere"]
    assert list(read.frames) == list(table().frames)
    for column in (*COLUMNS, "leaf_places"):
        assert getattr(read, column).tolist() == getattr(table(), column).tolist()


def test_bytes_are_those_of_the_format() -> None:
    raw = encode(table())
    magic, files, leaves, sections = struct.unpack_from("<4s3I", raw)
    assert (magic, files, leaves, sections) == (b"FTBL", 4, 3, 12)
    lengths = struct.unpack_from("<12I", raw, 16)
    assert lengths[1] == 2 * 56
    assert lengths[3:11] == (4, 16, 32, 32, 4, 16, 12, 12)
    packs = raw[64 : 64 + lengths[0]]
    assert packs == b"20261123T080000Z-abcdef.000001\n20261123T080000Z-abcdef.000000"
    first = struct.unpack_from("<6I32s", raw, 64 + lengths[0])
    assert first == (0, 3, 163, 10, 20, 0, bytes(32))


def test_a_chunk_without_leaves_or_links() -> None:
    one = replace(
        table(),
        frames=[],
        paths=[b"global"],
        kinds=np.array([1], np.uint8),
        leaf_counts=np.array([0], np.uint32),
        leaf_frames=np.empty(0, np.uint32),
        leaf_places=np.empty(0, np.uint32),
        targets=[],
        **{name: getattr(table(), name)[:1] for name in ("modes", "sizes", "mtimes", "flags")},
    )
    read = decode(encode(one), "test")
    assert read.paths == [b"global"]
    assert (list(read.frames), read.targets, len(read.leaf_frames)) == ([], [], 0)


@pytest.mark.parametrize(
    "path", [b"", b"/etc/passwd", b"..", b"a/../../b", b"a//b", b"a/", b"./a", b"a\0b"]
)
def test_paths_that_lead_elsewhere_are_refused(path: bytes) -> None:
    with pytest.raises(UsageError, match="can't back up"):
        check_entry(FileEntry(path))
    bad = replace(table(), paths=[path, *table().paths[1:]])
    with pytest.raises(Damaged, match="somewhere"):
        decode(encode(bad), "somewhere")


def test_paths_with_dots_are_names_like_any() -> None:
    for path in (b"a/..b", b"...", b".pgpass", b"a/b..", ODD):
        check_entry(FileEntry(path))


@pytest.mark.parametrize(
    "entry",
    [FileEntry(b"a", FileKind.SYMLINK), FileEntry(b"a", FileKind.FILE, target=b"b")],
)
def test_links_and_only_links_have_targets(entry: FileEntry) -> None:
    with pytest.raises(UsageError, match="target"):
        check_entry(entry)


@pytest.mark.parametrize("length", [0, 4, 15, 63, 64, 200, -1])
def test_cut_short_is_damaged(length: int) -> None:
    with pytest.raises(Damaged, match="somewhere"):
        decode(encode(table())[:length], "somewhere")


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"kinds": np.array([0, 2, 3, 0], np.uint8)}, "kind"),
        ({"leaf_counts": np.array([2, 0, 0, 2], np.uint32)}, "counts"),
        ({"leaf_frames": np.array([0, 1, 2], np.uint32)}, "leaf frame"),
        ({"targets": []}, "link"),
        ({"targets": [b"a", b"b"]}, "names"),
        ({"modes": np.zeros(5, np.uint32)}, "section 5"),
        ({"leaf_places": np.zeros(2, np.uint32)}, "section 11"),
    ],
)
def test_columns_that_disagree_are_damaged(change: dict[str, object], what: str) -> None:
    with pytest.raises(Damaged, match=what):
        decode(encode(replace(table(), **change)), "test")  # type: ignore[arg-type]
