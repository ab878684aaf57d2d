"""Looks at the directories to restore into, and at who must own what goes there.

Everything here only looks, but for `make_directory` and `take_over`; so a restore that can't work
is refused before anything is written.
"""

from __future__ import annotations

import grp
import os
import pwd
import re
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pgkeep.errors import TargetDirectoryError, UsageError

_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Owner:
    """Who must own the files; `change` is False when that is who we are anyway."""

    uid: int
    gid: int
    name: str
    change: bool

    def give(self, fd: int) -> None:
        """Hands an open file or directory over."""
        if self.change:
            os.fchown(fd, self.uid, self.gid)


def resolve_owner(
    target: Path, *, wanted: str | None, recorded_user: str | None, recorded_group: str | None
) -> Owner:
    """The user that the restored server will run as.

    Without root's rights it can only be ourselves. Root gives everything to `wanted`, else to the
    user that the server ran as when it was backed up, else to the owner of the directory that the
    target lies in. Raises UsageError or TargetDirectoryError when that leaves nobody, or root, as
    which PostgreSQL refuses to run.
    """
    if os.geteuid() != 0:
        return _ourselves(wanted)
    if wanted is not None:
        found = _user(wanted)
        if found is None:
            raise UsageError(
                f"there is no user {wanted} on this machine",
                hint="make the user, or name another one with --owner",
            )
        return _not_root(found)
    found = _user(recorded_user) if recorded_user else None
    if found is not None and found.pw_uid != 0:
        return Owner(found.pw_uid, _group(recorded_group, found), found.pw_name, change=True)
    info = nearest_existing(target).stat()
    if info.st_uid == 0:
        who = f"the server's user {recorded_user} does not exist" if recorded_user else "no user"
        raise TargetDirectoryError(
            f"who should own {target}? {who} on this machine, and root owns the directory above",
            hint="name the user that the server will run as with --owner",
        )
    return Owner(info.st_uid, info.st_gid, _user_name(info.st_uid), change=True)


def _ourselves(wanted: str | None) -> Owner:
    uid = os.geteuid()
    found = _user(wanted) if wanted is not None else None
    if wanted is not None and (found is None or found.pw_uid != uid):
        raise UsageError(
            f"only root can make files that belong to {wanted}",
            hint=f"run the restore as {wanted} or as root, or leave --owner away",
        )
    return Owner(uid, os.getegid(), _user_name(uid), change=False)


def _not_root(found: pwd.struct_passwd) -> Owner:
    if found.pw_uid == 0:
        raise UsageError(
            "the restored server can't belong to root: PostgreSQL refuses to run as root",
            hint="name the user that the server will run as with --owner",
        )
    return Owner(found.pw_uid, found.pw_gid, found.pw_name, change=True)


def _user(name: str) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam(name)
    except KeyError:
        return None


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _group(name: str | None, user: pwd.struct_passwd) -> int:
    try:
        return grp.getgrnam(name).gr_gid if name else user.pw_gid
    except KeyError:
        return user.pw_gid


def nearest_existing(path: Path) -> Path:
    """The path itself or the nearest directory above it that exists."""
    while not os.path.lexists(path):
        path = path.parent
    return path


def check_directory(path: Path, owner: Owner, *, what: str) -> None:
    """Raises TargetDirectoryError unless `path` is an empty directory that can be ours, or absent.

    `what` names it in messages: "the target directory", "the directory of tablespace 16401".
    """
    if not path.is_absolute():
        raise UsageError(f"{what} must be an absolute path, not {path}")
    _check_not_inside(path, what)
    if os.path.lexists(path):
        _check_existing(path, owner, what)
    else:
        _check_parent(path, what)


def _check_existing(path: Path, owner: Owner, what: str) -> None:
    try:
        if not stat.S_ISDIR(path.stat().st_mode):
            raise TargetDirectoryError(f"{what}, {path}, is not a directory")
        present = sorted(os.listdir(path))
        info = path.stat()
    except FileNotFoundError:
        raise TargetDirectoryError(f"{what}, {path}, is a link that leads nowhere") from None
    except PermissionError:
        raise _no_permission(path, what, "look into") from None
    if present:
        raise _not_empty(path, present, what)
    if not owner.change and info.st_uid != owner.uid:
        raise TargetDirectoryError(
            f"{what}, {path}, belongs to {_user_name(info.st_uid)}, and we are {owner.name}: "
            "PostgreSQL would refuse to start in it",
            hint="give it to us, or restore as root or as its owner",
        )
    if not os.access(path, os.W_OK | os.X_OK):
        raise _no_permission(path, what, "write in")


def _check_parent(path: Path, what: str) -> None:
    above = nearest_existing(path)
    if not above.is_dir():
        raise TargetDirectoryError(f"{what} can't be {path}: {above} is not a directory")
    if not os.access(above, os.W_OK | os.X_OK):
        raise _no_permission(above, what, "write in")


def _no_permission(path: Path, what: str, verb: str) -> TargetDirectoryError:
    return TargetDirectoryError(
        f"no permission to {verb} {path}, as {what} needs; we are {_user_name(os.geteuid())}",
        hint="run the restore as the server's user or as root",
    )


def _not_empty(path: Path, present: list[str], what: str) -> TargetDirectoryError:
    pid = running_server(path)
    if pid is not None:
        return TargetDirectoryError(
            f"a server is running in {path} (process {pid})",
            hint="restore into another directory, or stop that server and empty the directory",
        )
    shown = ", ".join(present[:_SHOWN])
    if len(present) > _SHOWN:
        shown += f" and {len(present) - _SHOWN} more"
    if present == ["lost+found"]:
        hint = "this is a file system's top directory; restore into a directory made in it"
    elif "PG_VERSION" in present and not os.path.exists(path / "global" / "pg_control"):
        hint = "this looks like a restore that did not finish; empty the directory and start again"
    else:
        hint = "restore into an empty or a new directory"
    return TargetDirectoryError(f"{what}, {path}, is not empty: it holds {shown}", hint=hint)


def running_server(data_directory: Path) -> int | None:
    """The process id of the server that runs in a data directory, as its lock file says.

    The file's first line is the id, negative for a single-user backend
    (src/backend/utils/init/miscinit.c, CreateLockFile).
    """
    try:
        first = (data_directory / "postmaster.pid").read_text(errors="replace").splitlines()[0]
    except (OSError, IndexError):
        return None
    if not re.fullmatch(r"-?\d{1,10}", first.strip()):
        return None
    pid = abs(int(first))
    return pid if pid and _alive(pid) else None


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def _check_not_inside(path: Path, what: str) -> None:
    """A directory inside some server's data directory would be taken for that server's own."""
    for above in path.resolve().parents:
        if os.path.exists(above / "PG_VERSION") and os.path.isdir(above / "global"):
            raise TargetDirectoryError(
                f"{what} can't be {path}: it lies in another server's data directory, {above}",
                hint="choose a directory outside of it",
            )


def check_apart(places: Iterable[tuple[str, Path]]) -> None:
    """Raises UsageError when two of the (what, path) are the same or one lies in the other."""
    seen: list[tuple[str, Path]] = []
    for what, path in places:
        real = path.resolve()
        for other_what, other in seen:
            if real == other or other in real.parents or real in other.parents:
                raise UsageError(
                    f"{what}, {real}, and {other_what}, {other}, are not apart from each other",
                    hint="give each a directory of its own (--target-dir, --map OLD=NEW)",
                )
        seen.append((what, real))


def check_space(needs: Iterable[tuple[Path, int]]) -> None:
    """Raises TargetDirectoryError when a file system has less room than goes there.

    `needs` are (directory, bytes); several directories may share a file system.
    """
    per_device: dict[int, tuple[Path, int]] = {}
    for path, size in needs:
        above = nearest_existing(path)
        device = above.stat().st_dev
        first, total = per_device.get(device, (above, 0))
        per_device[device] = (first, total + size)
    for above, size in per_device.values():
        free = _free(above)
        if size > free:
            raise TargetDirectoryError(
                f"not enough room at {above}: the restore needs {_amount(size)}, "
                f"{_amount(free)} are free, {_amount(size - free)} are missing",
                hint="make room, or restore into a directory on a larger file system",
            )


def _free(path: Path) -> int:
    info = os.statvfs(path)
    return info.f_frsize * (info.f_bfree if os.geteuid() == 0 else info.f_bavail)


def _amount(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def make_directory(path: Path, mode: int, owner: Owner) -> None:
    """Makes a directory and the missing ones above it, or takes over an empty one.

    New directories belong to the owner and their entries are synced.
    """
    missing = []
    step = path
    while not os.path.lexists(step):
        missing.append(step)
        step = step.parent
    for new in reversed(missing):
        os.mkdir(new, mode)
        take_over(new, mode, owner)
        sync_directory(new.parent)
    if not missing:
        take_over(path, mode, owner)


def take_over(directory: Path, mode: int, owner: Owner) -> None:
    """Gives a directory its owner and mode."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        owner.give(fd)
        os.fchmod(fd, mode)
    finally:
        os.close(fd)


def sync_directory(directory: Path | bytes) -> None:
    """Makes the names in a directory durable."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
