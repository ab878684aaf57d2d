"""A whole restore from a real repository, without a server."""

from __future__ import annotations

import os
import random
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from made_backup import BLOCK, CLUSTER, MadeRepository, checksum, make_repository, some_files

from pgkeep.catalog.records import Tablespace
from pgkeep.errors import Damaged, TargetDirectoryError, UsageError
from pgkeep.events import Caution, Event, PhaseEnded, discard
from pgkeep.pgformat.crc32c import crc32c
from pgkeep.pgformat.manifest import parse_manifest
from pgkeep.restore.run import RestoreOptions, RestoreResult, run
from pgkeep.restore.target import Kind, Target

NOT_ROOT = "nobody"
SPACES = (Tablespace(16401, "/srv/fast"),)
REWRITTEN = {"backup_label", "postgresql.auto.conf"}
LEFT_OUT = {"standby.signal", "tablespace_map"}


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> MadeRepository:
    repository = make_repository(tmp_path_factory.mktemp("restore") / "repo")
    repository.add_wal(1, 6)
    repository.add_backup(some_files(), segment=2, tablespaces=SPACES)
    return repository


@pytest.fixture
def made(pristine: MadeRepository, tmp_path: Path) -> MadeRepository:
    return pristine.copy(tmp_path / "repo")


@pytest.fixture
def options(tmp_path: Path) -> Callable[..., RestoreOptions]:
    def build(**more: Any) -> RestoreOptions:
        defaults: dict[str, Any] = {
            "target_dir": tmp_path / "data",
            "restore_command": lambda timeline: f"fetch --timeline {timeline} '%f' %p",
            "target": Target(Kind.IMMEDIATE),
            "tablespaces": {"16401": str(tmp_path / "fast")},
            "owner": NOT_ROOT if os.geteuid() == 0 else None,
        }
        return RestoreOptions(**{**defaults, **more})

    return build


Build = Callable[..., RestoreOptions]


def restore(made: MadeRepository, options: RestoreOptions) -> RestoreResult:
    return run(made.repo, CLUSTER, options, discard)


def check_files(data: Path, fast: Path, files: dict[str, bytes]) -> None:
    for path, content in files.items():
        if path in REWRITTEN:
            continue
        restored = data / path
        if path.startswith("pg_tblspc/16401/"):
            assert (fast / path.removeprefix("pg_tblspc/16401/")).read_bytes() == content
        if path in LEFT_OUT:
            assert not os.path.lexists(restored)
        else:
            assert restored.read_bytes() == content, path


@pytest.mark.parametrize("encryption", ["none"])
def test_without_encryption_as_well(tmp_path: Path, options: Build, encryption: str) -> None:
    repository = make_repository(tmp_path / "repo", encryption=encryption)
    repository.add_wal(2, 3)
    backup = repository.add_backup(some_files(), segment=2, tablespaces=SPACES)
    restore(repository, options())
    check_files(tmp_path / "data", tmp_path / "fast", backup.files)


def test_all_files_come_back_and_what_must_not_does_not(
    tmp_path: Path, made: MadeRepository, options: Build
) -> None:
    events: list[Event] = []
    result = run(made.repo, CLUSTER, options(), events.append)
    check_files(tmp_path / "data", tmp_path / "fast", made.backups[0].files)
    assert result.restored
    assert result.tablespaces == {"16401": str(tmp_path / "fast")}
    assert [e.name for e in events if isinstance(e, PhaseEnded)] == ["restoring", "syncing"]
    assert os.readlink(tmp_path / "data/pg_tblspc/16401") == str(tmp_path / "fast")


def test_an_incremental_backup_restores_by_itself(
    tmp_path: Path, made: MadeRepository, options: Build
) -> None:
    chance = random.Random(7)
    changed = {"base/5/16384": {n: chance.randbytes(BLOCK) for n in range(5, 300, 9)}}
    second = made.add_backup({}, segment=4, tablespaces=SPACES, changed=changed)
    restore(made, options())
    check_files(tmp_path / "data", tmp_path / "fast", second.files)


def test_recovery_files(tmp_path: Path, made: MadeRepository, options: Build) -> None:
    restore(made, options(target=Target(Kind.IMMEDIATE, action="pause"), archive=False))
    data = tmp_path / "data"
    conf = (data / "postgresql.auto.conf").read_text()
    assert conf.startswith("work_mem = '8MB'\n# Written by pgkeep restore")
    assert "primary_conninfo" not in conf
    assert "restore_command = 'fetch --timeline 1 ''%f'' %p'\n" in conf
    assert "recovery_target_timeline = '1'\n" in conf
    assert "recovery_target_xid = ''\n" in conf
    assert conf.index("recovery_target_xid = ''") < conf.index("recovery_target = 'immediate'")
    assert "recovery_target_action = 'pause'\nhot_standby = 'on'\narchive_mode = 'off'\n" in conf
    assert (data / "recovery.signal").read_bytes() == b""
    assert (data / "backup_label").read_text() == made.backups[0].record.backup_label


def test_the_manifest_describes_what_is_there(
    tmp_path: Path, made: MadeRepository, options: Build
) -> None:
    made.add_backup(
        some_files(),
        segment=4,
        tablespaces=SPACES,
        backup_label="START TIMELINE: 1\nINCREMENTAL FROM LSN: 0/1\nINCREMENTAL FROM TLI: 1\n",
    )
    restore(made, options())
    data = tmp_path / "data"
    assert (data / "backup_label").read_text() == "START TIMELINE: 1\n"
    manifest = parse_manifest((data / "backup_manifest").read_bytes())
    listed = {file.path: file for file in manifest.files}
    assert set(listed) == set(made.backups[1].files) - LEFT_OUT
    for path in set(listed) - REWRITTEN:
        content = (data / path).read_bytes()
        assert (listed[path].size, listed[path].checksum) == (len(content), checksum(content))
    label = b"START TIMELINE: 1\n"
    expected = (len(label), "CRC32C", crc32c(label).to_bytes(4, "little").hex())
    found = listed["backup_label"]
    assert (found.size, found.algorithm, found.checksum) == expected


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_as_root_everything_belongs_to_the_servers_user(
    tmp_path: Path, made: MadeRepository, options: Build
) -> None:
    restore(made, options(target_dir=tmp_path / "new" / "data"))
    for top in [tmp_path / "new", tmp_path / "fast"]:
        assert top.stat().st_uid == 65534
        for folder, directories, files in os.walk(top):
            for name in [*directories, *files]:
                assert os.lstat(os.path.join(folder, name)).st_uid == 65534, name


def test_group_access_is_kept(tmp_path: Path, made: MadeRepository, options: Build) -> None:
    made.add_backup(some_files(), segment=4, tablespaces=SPACES, directory_mode=0o750)
    restore(made, options())
    for path, mode in [(".", 0o750), ("global/pg_control", 0o640), ("recovery.signal", 0o640)]:
        assert stat.S_IMODE((tmp_path / "data" / path).stat().st_mode) == mode


def test_a_dry_run_tells_and_writes_nothing(
    tmp_path: Path, made: MadeRepository, options: Build
) -> None:
    result = restore(made, options(plan_only=True))
    assert not result.restored
    assert result.bytes == sum(
        len(content)
        for path, content in made.backups[0].files.items()
        if path not in LEFT_OUT | {"backup_label"}
    )
    assert result.needs[str(tmp_path / "fast")] == 3 * BLOCK
    assert sorted(os.listdir(tmp_path)) == ["repo"]
    assert result.to_json()["backup_id"] == made.backups[0].record.id


def test_a_directory_in_use_is_refused_before_anything(
    tmp_path: Path, made: MadeRepository, options: Build
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "postmaster.pid").write_text(f"{os.getpid()}\n")
    with pytest.raises(TargetDirectoryError, match="a server is running"):
        restore(made, options())
    assert not (tmp_path / "fast").exists()


def test_a_tablespace_directory_in_use_is_refused_before_anything(
    tmp_path: Path, made: MadeRepository, options: Build
) -> None:
    (tmp_path / "fast" / "PG_18_202506291").mkdir(parents=True)
    with pytest.raises(TargetDirectoryError, match=r"tablespace 16401.*PG_18_202506291"):
        restore(made, options())
    assert not (tmp_path / "data").exists()


def test_a_tablespace_inside_the_target_is_refused(
    tmp_path: Path, made: MadeRepository, options: Build
) -> None:
    with pytest.raises(UsageError, match="not apart"):
        restore(made, options(tablespaces={"/srv/fast": str(tmp_path / "data" / "fast")}))


def test_a_damaged_pack_leaves_a_directory_that_says_so(
    tmp_path: Path, made: MadeRepository, options: Build
) -> None:
    pack = made.objects("packs/data/")[1]
    content = bytearray(pack.read_bytes())
    content[len(content) // 2] ^= 1
    pack.chmod(0o600)
    pack.write_bytes(content)
    events: list[Event] = []
    with pytest.raises(Damaged, match=pack.name):
        run(made.repo, CLUSTER, options(), events.append)
    assert not (tmp_path / "data" / "global" / "pg_control").exists()
    (caution,) = (event for event in events if isinstance(event, Caution))
    assert "stopped half-way" in caution.text
    assert str(tmp_path / "data") in (caution.hint or "")
    with pytest.raises(TargetDirectoryError) as caught:
        restore(made, options())
    assert "did not finish" in (caught.value.hint or "")


def test_another_backups_damaged_record_does_not_matter(
    tmp_path: Path, made: MadeRepository, options: Build
) -> None:
    second = made.add_backup(some_files(2), segment=4, tablespaces=SPACES)
    record = made.root / "records" / CLUSTER / made.backups[0].record.id
    record.chmod(0o600)
    record.write_bytes(b"x" * 400)
    result = restore(made, options())
    assert result.backup_id == second.record.id
    check_files(tmp_path / "data", tmp_path / "fast", second.files)
    assert made.backups[0].record.id in result.cautions[0]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_running_full_half_way_is_explained(
    tmp_path: Path, made: MadeRepository, options: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", small]).returncode:
        pytest.skip("can't mount a tmpfs here")
    try:
        wish = options(target_dir=small / "data")
        with pytest.raises(TargetDirectoryError, match=r"not enough room.*MB are missing"):
            restore(made, wish)
        assert os.listdir(small) == []
        monkeypatch.setattr("pgkeep.restore.destination.check_space", lambda needs: None)
        with pytest.raises(TargetDirectoryError, match="No space left on device") as caught:
            restore(made, wish)
        assert "empty" in (caught.value.hint or "")
        assert not (small / "data" / "global" / "pg_control").exists()
    finally:
        subprocess.run(["umount", small], check=True)


KILLED = """
import sys, time
from pathlib import Path
sys.path.insert(0, {here!r})
from pgkeep.events import Progress
from pgkeep.repo.repository import open_repository
from pgkeep.restore.run import RestoreOptions, run
from pgkeep.restore.target import Kind, Target
from pgkeep.store.local import LocalStore

def slowly(event):
    print(type(event).__name__, getattr(event, "phase", ""), flush=True)
    time.sleep(0.05)

options = RestoreOptions(
    Path({data!r}), lambda timeline: "false", Target(Kind.IMMEDIATE),
    tablespaces={{"16401": {fast!r}}}, owner={owner!r},
)
run(open_repository(LocalStore(Path({repo!r})), None), "bss", options, slowly)
"""


@pytest.mark.parametrize("phase", ["restoring", "syncing"])
def test_killed_in_the_middle_no_server_can_start(
    tmp_path: Path, phase: str, options: Build
) -> None:
    repository = make_repository(tmp_path / "repo", encryption="none")
    repository.add_wal(2, 3)
    repository.add_backup(some_files(), segment=2, tablespaces=SPACES)
    script = KILLED.format(
        here=str(Path(__file__).parent),
        data=str(tmp_path / "data"),
        fast=str(tmp_path / "fast"),
        repo=str(tmp_path / "repo"),
        owner=NOT_ROOT if os.geteuid() == 0 else None,
    )
    child = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    deadline = time.monotonic() + 60
    for line in child.stdout:
        if line.split() == ["Progress", phase] or time.monotonic() > deadline:
            break
    child.send_signal(signal.SIGKILL)
    child.communicate()
    assert child.returncode == -signal.SIGKILL
    assert (tmp_path / "data" / "PG_VERSION").exists()
    assert not (tmp_path / "data" / "global" / "pg_control").exists()
    with pytest.raises(TargetDirectoryError) as caught:
        restore(repository, options())
    assert "did not finish" in (caught.value.hint or "")
