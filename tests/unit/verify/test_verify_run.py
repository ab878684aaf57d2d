"""Whatever is damaged or missing is found, named once, and put down to the right backups."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from made_backup import BLOCK, CLUSTER, MadeRepository, make_repository, some_files

from pgkeep.errors import StoreUnavailable, UsageError
from pgkeep.events import Event, PhaseEnded, discard
from pgkeep.repo.repository import Repository
from pgkeep.store.base import Entry
from pgkeep.store.local import LocalStore
from pgkeep.verify.findings import Finding, VerifyReport
from pgkeep.verify.run import verify


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> MadeRepository:
    """A full backup, one that stored only changes to it, and a full one by itself."""
    repository = make_repository(tmp_path_factory.mktemp("verify") / "repo")
    repository.add_wal(1, 8)
    chance = random.Random(3)
    repository.add_backup(some_files(), segment=1)
    changes = {"base/5/16384": {n: chance.randbytes(BLOCK) for n in range(0, 300, 10)}}
    repository.add_backup({}, segment=3, changed=changes)
    repository.add_backup(some_files(2), segment=5)
    return repository


@pytest.fixture
def made(pristine: MadeRepository, tmp_path: Path) -> MadeRepository:
    return pristine.copy(tmp_path / "repo")


def look(made: MadeRepository, *, deep: bool = False, backup: str | None = None) -> VerifyReport:
    """As a process of its own: a store keeps files open that it has read."""
    repo = Repository(LocalStore(made.root), made.repo.ring, made.repo.id)
    return verify(repo, CLUSTER, deep=deep, backup=backup, emit=discard)


def ids(made: MadeRepository, *numbers: int) -> tuple[str, ...]:
    return tuple(sorted(made.backups[number].record.id for number in numbers))


def only(report: VerifyReport) -> Finding:
    assert not report.ok
    assert len(report.findings) == 1, report.findings
    return report.findings[0]


def change(path: Path, edit: Callable[[bytearray], None]) -> str:
    """Damages an object; returns the last part of its name."""
    content = bytearray(path.read_bytes())
    edit(content)
    path.chmod(0o600)
    path.write_bytes(content)
    return path.name


def flip(at: int) -> Callable[[bytearray], None]:
    def edit(content: bytearray) -> None:
        content[at] ^= 0x40

    return edit


def packs(made: MadeRepository, kind: str, backup: int) -> list[Path]:
    return made.objects(f"packs/{kind}/{CLUSTER}/{made.backups[backup].record.id}.")


def test_a_whole_repository_is_fine_and_all_of_it_was_looked_at(made: MadeRepository) -> None:
    events: list[Event] = []
    report = verify(made.repo, CLUSTER, deep=True, emit=events.append)
    assert report.ok
    assert report.backups == tuple(backup.record.id for backup in made.backups)
    data = [path for number in range(3) for path in packs(made, "data", number)]
    assert report.packs == len(data)
    assert report.pack_bytes == sum(path.stat().st_size for path in data)
    assert report.segments == 6
    assert report.segments_read == 8
    assert report.frame_bytes > 2 * sum(map(len, made.backups[0].files.values()))
    phases = [event.name for event in events if isinstance(event, PhaseEnded)]
    assert phases == ["checking maps", "checking packs", "checking WAL"]
    assert report.to_json()["ok"] is True
    assert report.summary.startswith("3 backups are whole: ")


def test_quick_reads_little_of_the_data(made: MadeRepository) -> None:
    for path in packs(made, "data", 0):
        change(path, flip(5000))
    assert look(made).ok


def test_deep_finds_a_flipped_bit_in_a_frame(made: MadeRepository) -> None:
    name = change(packs(made, "data", 0)[1], flip(5000))
    finding = only(look(made, deep=True))
    assert finding.object.endswith(name)
    assert re.search(r"1 of its \d frames can't be opened: 0", finding.what)
    assert finding.backups == ids(made, 0, 1)


def test_every_byte_of_a_small_pack_counts(made: MadeRepository) -> None:
    (path,) = packs(made, "data", 1)
    whole = path.read_bytes()
    chance = random.Random(11)
    for at in [*range(0, 180, 12), *chance.choices(range(len(whole)), k=15), len(whole) - 1]:
        change(path, flip(at))
        assert not look(made, deep=True, backup=ids(made, 1)[0]).ok, at
        path.write_bytes(whole)
    assert look(made, deep=True).ok


@pytest.mark.parametrize("deep", [False, True])
def test_a_missing_pack_is_named_with_all_backups_that_need_it(
    made: MadeRepository, deep: bool
) -> None:
    path = packs(made, "data", 0)[0]
    path.unlink()
    finding = only(look(made, deep=deep))
    assert finding.object.endswith(path.name)
    assert finding.backups == ids(made, 0, 1)
    assert "pgkeep backup" in finding.hint
    assert str(finding).startswith(f"{finding.object}: ")
    assert all(backup in str(finding) for backup in ids(made, 0, 1))


@pytest.mark.parametrize("deep", [False, True])
def test_a_pack_cut_short(made: MadeRepository, deep: bool) -> None:
    def cut(content: bytearray) -> None:
        del content[-1000:]

    name = change(packs(made, "data", 2)[0], cut)
    report = look(made, deep=deep)
    assert {finding.object.rpartition("/")[2] for finding in report.findings} == {name}
    assert {finding.backups for finding in report.findings} == {ids(made, 2)}


def test_an_older_pack_under_a_newer_name_does_not_pass(made: MadeRepository) -> None:
    first, second = packs(made, "data", 0)[:2]
    change(second, lambda content: content.__setitem__(slice(None), first.read_bytes()))
    assert only(look(made)).object.endswith(second.name)


def test_one_damaged_map_does_not_hide_the_other_damage(made: MadeRepository) -> None:
    for path in packs(made, "map", 0):
        change(path, flip(300))
    packs(made, "data", 2)[0].unlink()
    found = {finding.object.rpartition("/")[2]: finding for finding in look(made).findings}
    assert packs(made, "map", 0)[0].name in found
    assert found[f"{ids(made, 2)[0]}.000000"].backups == ids(made, 2)


def test_every_byte_of_a_map_pack_is_looked_at(made: MadeRepository) -> None:
    """Footers of map packs serve nobody who restores; all before them does."""
    path = packs(made, "map", 2)[0]
    whole = path.read_bytes()
    frames = len(whole) - 88 - int.from_bytes(whole[-88:-84], "little")
    for at in range(160, frames, 1501):
        change(path, flip(at))
        report = look(made)
        assert not report.ok, at
        assert all(finding.backups == ids(made, 2) for finding in report.findings)
        path.write_bytes(whole)


def test_a_damaged_record(made: MadeRepository) -> None:
    name = change(made.root / "records" / CLUSTER / ids(made, 0)[0], flip(250))
    finding = only(look(made))
    assert finding.object.endswith(name)
    assert finding.backups == ids(made, 0)


def test_a_damaged_log_is_told_and_the_backups_are_still_looked_at(made: MadeRepository) -> None:
    made.objects(f"log/{CLUSTER}/")[1].unlink()
    report = look(made)
    assert sorted(report.backups) == sorted(ids(made, 0, 1, 2))
    assert f"log/{CLUSTER}/" in only(report).object
    assert only(report).backups == ids(made, 0, 1, 2)


class TestWal:
    def path(self, made: MadeRepository, number: int) -> Path:
        (path,) = [p for p in made.objects("wal/") if p.name.endswith(f"{number:08X}")]
        return path

    def test_missing_wal_that_a_backup_needs(self, made: MadeRepository) -> None:
        self.path(made, 4).unlink()
        finding = only(look(made))
        assert finding.object.endswith("000000010000000000000004")
        assert finding.backups == ids(made, 1)
        assert "wal push" in finding.hint

    def test_missing_wal_between_backups_is_none_of_them(self, made: MadeRepository) -> None:
        self.path(made, 7).unlink()
        assert look(made).ok

    def test_a_damaged_end_of_needed_wal(self, made: MadeRepository) -> None:
        change(self.path(made, 2), flip(-100))
        assert only(look(made)).backups == ids(made, 0)

    def test_deep_finds_damage_in_any_segment(self, made: MadeRepository) -> None:
        name = change(self.path(made, 7), flip(4000))
        assert look(made).ok
        finding = only(look(made, deep=True))
        assert finding.object.endswith(name)
        assert finding.backups == ids(made, 0, 1, 2)


def test_one_backup_only(made: MadeRepository) -> None:
    packs(made, "data", 2)[0].unlink()
    assert look(made, backup=ids(made, 0)[0]).ok
    assert not look(made, backup=ids(made, 2)[0]).ok
    with pytest.raises(UsageError, match="no backup x"):
        look(made, backup="x")


def test_an_empty_log_is_fine(tmp_path: Path) -> None:
    report = look(make_repository(tmp_path / "repo"))
    assert report.ok
    assert report.backups == ()


class FailingStore(LocalStore):
    """A disk on which some objects, or all, can't be read."""

    broken = "packs/data/"

    def _fail(self, name: str) -> None:
        if name.startswith(self.broken):
            raise StoreUnavailable(f"{name}: Input/output error")

    def get(self, name: str) -> bytes:
        self._fail(name)
        return super().get(name)

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        self._fail(name)
        return super().get_range(name, offset, length)

    def size(self, name: str) -> int:
        self._fail(name)
        return super().size(name)

    def list(self, prefix: str, *, after: str | None = None) -> Iterator[Entry]:
        self._fail(prefix)
        return super().list(prefix, after=after)


def test_a_bad_sector_is_a_finding_but_an_outage_is_not(made: MadeRepository) -> None:
    store = FailingStore(made.root)
    repo = Repository(store, made.repo.ring, made.repo.id)
    report = verify(repo, CLUSTER, emit=discard)
    assert len(report.findings) == report.packs
    store.broken = ""
    with pytest.raises(StoreUnavailable):
        verify(repo, CLUSTER, emit=discard)
