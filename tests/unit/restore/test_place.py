"""What is planned and placed is what was stored, read once and in order, holes and all."""

from __future__ import annotations

import os
import random
import stat
from pathlib import Path

import pytest
from stored import BLOCK, SLOTS, Stored

from pgkeep.errors import Damaged, UsageError
from pgkeep.restore import place
from pgkeep.restore.destination import Owner
from pgkeep.restore.layout import Layout, layout
from pgkeep.restore.plan import Plan, plan

OID = 16401


def block(seed: int) -> bytes:
    return random.Random(seed).randbytes(BLOCK)


def owner() -> Owner:
    return Owner(os.geteuid(), os.getegid(), "us", change=False)


def layout_for(root: Path, **mapping: str) -> Layout:
    return layout(root, [(OID, "/srv/fast")], {"16401": f"{root}-fast", **mapping})


@pytest.fixture
def stored() -> Stored:
    """Some of everything: large and small files, later changes, zeros, links, odd names."""
    backup = Stored()
    backup.directory("base")
    backup.directory("base/5")
    backup.directory("pg_wal")
    backup.directory("pg_tblspc")
    backup.link(f"pg_tblspc/{OID}", "/srv/fast")
    backup.link("elsewhere", "/nowhere/at all")
    large = b"".join(block(i) for i in range(2500))
    backup.add("base/5/16384", large, mode=0o640)
    for i in range(300):
        backup.add(f"base/5/small{i}", block(10_000 + i)[: i * 17])
    backup.add(f"pg_tblspc/{OID}/PG_18_1/5/7", block(5) * 3)
    backup.add("base/5/t\udcff's".encode("utf-8", "surrogateescape").decode("latin-1"), b"odd")
    backup.add("global/pg_control", block(77))
    backup.add("standby.signal")
    backup.add("tablespace_map", b"16401 /srv/fast\n")
    backup.add("PG_VERSION", b"18\n")
    changes = {n: block(20_000 + n) for n in range(3, 2500, 7)}
    backup.change("base/5/16384", 5, {**changes, 100: None, 101: None, 2499: None})
    backup.change("base/5/16384", 9, {n: block(30_000 + n) for n in range(3, 2500, 91)})
    backup.change(f"pg_tblspc/{OID}/PG_18_1/5/7", 9, {1: block(1)})
    return backup


def carry_out(stored: Stored, where: Layout, *, control: bool = True) -> Plan:
    made = plan(stored.chunks(), where, block_size=BLOCK)
    placement = place.Placement(made, owner(), stored.read, directory_mode=0o700)
    placement.make_directories()
    placement.make_files(made.files)
    for unit in made.units(SLOTS):
        placement.write(unit, SLOTS)
    placement.sync_files(made.files)
    placement.sync_directories()
    if control:
        placement.place_control(SLOTS)
    return made


def test_every_file_comes_back_byte_for_byte(tmp_path: Path, stored: Stored) -> None:
    where = layout_for(tmp_path / "data")
    carry_out(stored, where)
    left_out = {b"standby.signal", b"tablespace_map"}
    for path, content in stored.files.items():
        if path in left_out:
            assert not os.path.lexists(where.destination(path))
            continue
        with open(where.destination(path), "rb") as file:
            assert file.read() == content, path


def test_nothing_is_made_that_was_not_stored(tmp_path: Path, stored: Stored) -> None:
    where = layout_for(tmp_path / "data")
    carry_out(stored, where)
    found = {
        os.path.relpath(os.path.join(folder, name), where.root)
        for folder, _, names in os.walk(where.root)
        for name in names
    }
    expected = {os.fsdecode(p) for p in stored.files if not p.startswith(b"pg_tblspc/")}
    assert found - {"elsewhere"} == expected - {"standby.signal", "tablespace_map"}
    assert os.readlink(where.root / "elsewhere") == "/nowhere/at all"


def test_tablespaces_go_where_they_are_mapped(tmp_path: Path, stored: Stored) -> None:
    carry_out(stored, layout_for(tmp_path / "data"))
    link = tmp_path / "data" / "pg_tblspc" / str(OID)
    assert os.readlink(link) == f"{tmp_path}/data-fast"
    assert (tmp_path / "data-fast" / "PG_18_1" / "5" / "7").stat().st_size == 3 * BLOCK


def test_modes_are_kept_whatever_the_umask(tmp_path: Path, stored: Stored) -> None:
    mask = os.umask(0o077)
    try:
        carry_out(stored, layout_for(tmp_path / "data"))
    finally:
        os.umask(mask)
    assert stat.S_IMODE((tmp_path / "data/base/5/16384").stat().st_mode) == 0o640
    assert stat.S_IMODE((tmp_path / "data/base/5").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == 0o700


def test_zeros_stay_holes(tmp_path: Path) -> None:
    backup = Stored()
    backup.add("global/pg_control", block(1))
    backup.add("f", block(2) * 1000)
    backup.change("f", 2, dict.fromkeys(range(10, 1000)))
    carry_out(backup, layout(tmp_path / "data", [], {}))
    info = (tmp_path / "data" / "f").stat()
    assert info.st_size == 1000 * BLOCK
    assert info.st_blocks * 512 < 100 * BLOCK


def test_each_frame_is_read_once_and_in_order(tmp_path: Path, stored: Stored) -> None:
    carry_out(stored, layout_for(tmp_path / "data"), control=False)
    # A frame that ends in one unit and begins in the next is the only one that is read again.
    assert len(stored.reads) <= len(set(stored.reads)) + 4
    simple = [frame for generation, frame in stored.reads if generation == 1]
    assert simple == sorted(simple)


def test_large_plain_files_are_cut_at_frames(tmp_path: Path) -> None:
    backup = Stored()
    backup.add("global/pg_control", block(1))
    backup.add("f", bytes(5000 * BLOCK))
    made = plan(backup.chunks(), layout(tmp_path, [], {}), block_size=BLOCK)
    units = list(made.units(SLOTS))
    assert sum(piece.blocks for unit in units for piece in unit) == 5000
    assert max(sum(piece.blocks for piece in unit) for unit in units) <= 8 * SLOTS
    frames = [{(p.first + n) // SLOTS for p in unit for n in range(p.blocks)} for unit in units]
    assert sum(map(len, frames)) == len(set.union(*frames))


def test_needs_count_each_directory(tmp_path: Path, stored: Stored) -> None:
    where = layout_for(tmp_path / "data")
    made = plan(stored.chunks(), where, block_size=BLOCK)
    assert made.needs[tmp_path / "data-fast"] == 3 * BLOCK
    assert made.bytes == sum(
        len(content)
        for path, content in stored.files.items()
        if path not in (b"standby.signal", b"tablespace_map")
    )


def test_until_the_end_there_is_no_control_file(tmp_path: Path, stored: Stored) -> None:
    carry_out(stored, layout_for(tmp_path / "data"), control=False)
    assert os.listdir(tmp_path / "data" / "global") == []


def test_a_backup_without_a_control_file_is_damaged(tmp_path: Path) -> None:
    backup = Stored()
    backup.add("f", b"x")
    with pytest.raises(Damaged, match="pg_control"):
        plan(backup.chunks(), layout(tmp_path, [], {}), block_size=BLOCK)


def test_a_frame_that_lacks_blocks_is_damaged(tmp_path: Path) -> None:
    backup = Stored()
    backup.add("global/pg_control", block(1))
    backup.add("f", block(2) * 20)
    del backup.blocks[1][15:]
    with pytest.raises(Damaged, match="frame 0 of generation 1 has fewer blocks"):
        carry_out(backup, layout(tmp_path / "data", [], {}))


def test_a_frame_that_is_not_given_is_damaged(tmp_path: Path, stored: Stored) -> None:
    made = plan(stored.chunks(), layout_for(tmp_path / "data"), block_size=BLOCK)
    placement = place.Placement(made, owner(), lambda g, f: iter(()), directory_mode=0o700)
    placement.make_directories()
    placement.make_files(made.files)
    with pytest.raises(Damaged, match="is not there"):
        placement.write(next(made.units(SLOTS)), SLOTS)


class TestLayout:
    def test_by_oid_and_by_location(self) -> None:
        spaces = [(1, "/a"), (2, "/b/"), (3, "/c")]
        where = layout(Path("/data"), spaces, {"1": "/x", "/b": "/y"})
        assert [str(t.directory) for t in where.tablespaces] == ["/x", "/y", "/c"]

    def test_in_place_tablespaces_stay_in_the_data_directory(self) -> None:
        where = layout(Path("/data"), [(1, "pg_tblspc/1")], {})
        assert where.destination(b"pg_tblspc/1/PG_18_1/5/7") == b"/data/pg_tblspc/1/PG_18_1/5/7"

    def test_an_unknown_tablespace_is_refused_with_those_known(self) -> None:
        with pytest.raises(UsageError, match="/nowhere") as caught:
            layout(Path("/data"), [(1, "/a")], {"/nowhere": "/x"})
        assert caught.value.hint == "its tablespaces are 1 at /a"

    def test_a_relative_new_place_is_refused(self) -> None:
        with pytest.raises(UsageError, match="absolute"):
            layout(Path("/data"), [(1, "/a")], {"1": "x"})
