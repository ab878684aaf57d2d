"""Directories that must not be restored into are refused, and nothing is written."""

from __future__ import annotations

import os
import pwd
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pgkeep.errors import PgkeepError, TargetDirectoryError, UsageError
from pgkeep.restore import destination
from pgkeep.restore.destination import Owner

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
WHAT = "the target directory"


@pytest.fixture
def us() -> Owner:
    return Owner(os.geteuid(), os.getegid(), "us", change=False)


def as_nobody(action: Callable[[], None]) -> None:
    """Runs it in a child process as nobody; its PgkeepError is raised here again."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            action()
            os._exit(0)
        except PgkeepError as error:
            os.write(writing, f"{type(error).__name__}: {error.message}".encode())
            os._exit(1)
        finally:
            os._exit(2)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        said = pipe.read()
    _, status = os.waitpid(child, 0)
    if os.waitstatus_to_exitcode(status) == 1:
        raise TargetDirectoryError(said)
    assert os.waitstatus_to_exitcode(status) == 0


@pytest.fixture
def open_path(tmp_path: Path) -> Iterator[Path]:
    """A directory whose parents nobody may pass through."""
    changed = []
    for step in [tmp_path, *tmp_path.parents]:
        mode = step.stat().st_mode
        if os.geteuid() == 0 and not mode & 1:
            step.chmod(mode & 0o7777 | 1)
            changed.append((step, mode & 0o7777))
    yield tmp_path
    for step, mode in changed:
        step.chmod(mode)


def test_absent_and_empty_directories_are_accepted(tmp_path: Path, us: Owner) -> None:
    destination.check_directory(tmp_path / "new" / "deep", us, what=WHAT)
    destination.check_directory(tmp_path, us, what=WHAT)
    assert os.listdir(tmp_path) == []


def test_a_relative_path_is_refused(us: Owner) -> None:
    with pytest.raises(UsageError, match="absolute"):
        destination.check_directory(Path("data"), us, what=WHAT)


def test_what_lies_in_a_directory_that_is_not_empty_is_named(tmp_path: Path, us: Owner) -> None:
    for name in ["a", "b", "c", "d", "e", "f", "g"]:
        (tmp_path / name).touch()
    with pytest.raises(TargetDirectoryError, match="a, b, c, d, e and 2 more"):
        destination.check_directory(tmp_path, us, what=WHAT)


def test_a_running_server_is_named_by_its_process(tmp_path: Path, us: Owner) -> None:
    server = subprocess.Popen(["sleep", "60"])
    try:
        (tmp_path / "postmaster.pid").write_text(f"{server.pid}\n{tmp_path}\n")
        with pytest.raises(TargetDirectoryError, match=rf"running.*process {server.pid}"):
            destination.check_directory(tmp_path, us, what=WHAT)
    finally:
        server.kill()
        server.wait()
    with pytest.raises(TargetDirectoryError, match="is not empty"):
        destination.check_directory(tmp_path, us, what=WHAT)


@pytest.mark.parametrize("content", ["", "\n", "garbage\n", "-\n", "99999999999999\n", "0\n"])
def test_a_senseless_lock_file_is_no_running_server(tmp_path: Path, content: str) -> None:
    (tmp_path / "postmaster.pid").write_text(content)
    assert destination.running_server(tmp_path) is None


def test_an_unfinished_restore_is_recognised(tmp_path: Path, us: Owner) -> None:
    (tmp_path / "PG_VERSION").touch()
    with pytest.raises(TargetDirectoryError) as caught:
        destination.check_directory(tmp_path, us, what=WHAT)
    assert caught.value.hint is not None
    assert "did not finish" in caught.value.hint


def test_a_mount_point_gets_its_own_hint(tmp_path: Path, us: Owner) -> None:
    (tmp_path / "lost+found").mkdir()
    with pytest.raises(TargetDirectoryError) as caught:
        destination.check_directory(tmp_path, us, what=WHAT)
    assert caught.value.hint is not None
    assert "top directory" in caught.value.hint


def test_inside_another_data_directory_is_refused(tmp_path: Path, us: Owner) -> None:
    (tmp_path / "PG_VERSION").touch()
    (tmp_path / "global").mkdir()
    with pytest.raises(TargetDirectoryError, match="another server's data directory"):
        destination.check_directory(tmp_path / "restored", us, what=WHAT)


def test_files_and_dead_links_are_refused(tmp_path: Path, us: Owner) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(TargetDirectoryError, match="not a directory"):
        destination.check_directory(tmp_path / "file", us, what=WHAT)
    with pytest.raises(TargetDirectoryError, match="not a directory"):
        destination.check_directory(tmp_path / "file" / "below", us, what=WHAT)
    with pytest.raises(TargetDirectoryError, match="leads nowhere"):
        destination.check_directory(tmp_path / "link", us, what=WHAT)


@root_only
def test_without_permission_it_is_said_who_lacks_it(open_path: Path) -> None:
    nobody = Owner(65534, 65534, "nobody", change=False)
    open_path.joinpath("closed").mkdir(mode=0o700)
    for path in [open_path / "new", open_path / "closed", open_path / "closed" / "x"]:
        with pytest.raises(TargetDirectoryError, match=r"permission|belongs to root"):
            as_nobody(lambda path=path: destination.check_directory(path, nobody, what=WHAT))


@root_only
def test_somebody_elses_empty_directory_is_refused_without_root(open_path: Path) -> None:
    nobody = Owner(65534, 65534, "nobody", change=False)
    shared = open_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    with pytest.raises(TargetDirectoryError, match="belongs to root, and we are nobody"):
        as_nobody(lambda: destination.check_directory(shared, nobody, what=WHAT))


@root_only
class TestOwnerForRoot:
    def resolve(self, target: Path, **known: str | None) -> Owner:
        settings = {"wanted": None, "recorded_user": None, "recorded_group": None, **known}
        return destination.resolve_owner(target, **settings)

    def test_the_recorded_user(self, tmp_path: Path) -> None:
        owner = self.resolve(tmp_path / "x", recorded_user="nobody", recorded_group="daemon")
        assert (owner.uid, owner.change) == (65534, True)
        assert owner.gid == 1

    def test_wanted_comes_before_recorded(self, tmp_path: Path) -> None:
        owner = self.resolve(tmp_path / "x", wanted="daemon", recorded_user="nobody")
        assert owner.uid == pwd.getpwnam("daemon").pw_uid

    def test_the_directory_above_decides_when_the_user_is_unknown(self, tmp_path: Path) -> None:
        os.chown(tmp_path, 4711, 4712)
        owner = self.resolve(tmp_path / "x" / "y", recorded_user="no-such-user")
        assert (owner.uid, owner.gid, owner.name) == (4711, 4712, "4711")

    def test_root_is_never_the_answer(self, tmp_path: Path) -> None:
        with pytest.raises(TargetDirectoryError, match="no-such-user does not exist"):
            self.resolve(tmp_path / "x", recorded_user="no-such-user")
        with pytest.raises(UsageError, match="refuses to run as root"):
            self.resolve(tmp_path / "x", wanted="root")
        with pytest.raises(UsageError, match="no user no-such-user"):
            self.resolve(tmp_path / "x", wanted="no-such-user")

    def test_new_directories_belong_to_the_owner(self, tmp_path: Path) -> None:
        owner = self.resolve(tmp_path, recorded_user="nobody")
        mask = os.umask(0o077)
        try:
            destination.make_directory(tmp_path / "a" / "b", 0o750, owner)
        finally:
            os.umask(mask)
        for made in [tmp_path / "a", tmp_path / "a" / "b"]:
            assert made.stat().st_uid == 65534
            assert made.stat().st_mode & 0o777 == 0o750

    def test_too_little_room_is_refused_with_numbers(self, tmp_path: Path) -> None:
        small = tmp_path / "small"
        small.mkdir()
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", small])
        if mounted.returncode:
            pytest.skip("can't mount a tmpfs here")
        try:
            destination.check_space([(small / "a", 3_000_000), (small / "b", 1_000_000)])
            with pytest.raises(
                TargetDirectoryError, match=r"needs 6\.0 MB, 4\.2 MB are free, 1\.8 MB are missing"
            ):
                destination.check_space([(small / "a", 3_000_000), (small / "b", 3_000_000)])
        finally:
            subprocess.run(["umount", small], check=True)


def test_nobody_else_can_be_made_the_owner_without_root(open_path: Path) -> None:
    def resolve() -> None:
        destination.resolve_owner(
            open_path, wanted="daemon", recorded_user=None, recorded_group=None
        )

    if os.geteuid() == 0:
        with pytest.raises(TargetDirectoryError, match="UsageError: only root"):
            as_nobody(resolve)
    else:
        with pytest.raises(UsageError, match="only root"):
            resolve()


def test_directories_that_overlap_are_refused(tmp_path: Path) -> None:
    places = [("the target", tmp_path / "a"), ("tablespace 1", tmp_path / "b")]
    destination.check_apart(places)
    for bad in [tmp_path / "a", tmp_path / "a" / "below", tmp_path]:
        with pytest.raises(UsageError, match="not apart"):
            destination.check_apart([*places, ("tablespace 2", bad)])
