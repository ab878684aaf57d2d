"""A directory as a store: temporary file, fsync, link, fsync of the directory.

`link` to the final name is the create-only put: it is atomic and refuses a taken name, also on NFS,
where its answer can get lost (then two links on the temporary file mean success).
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import stat
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from pgkeep.errors import (
    ObjectExists,
    ObjectMissing,
    PgkeepError,
    StoreDenied,
    StoreError,
    StoreFull,
    StoreUnavailable,
)
from pgkeep.store.base import Capabilities, Data, Entry, Piece, check_name, pieces, too_short

TEMPORARY = ".tmp"
_OPEN_FILES = 32
_STALE_SECONDS = 86_400
_MOST_BUFFERS = 1_000
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS)


class LocalStore:
    """Objects are files below `root`, which must exist; safe to use from many threads.

    What root makes belongs to the owner of `root`, so that backups made by root and WAL pushed by
    the server's user can share a repository.
    """

    def __init__(self, root: Path) -> None:
        self._root = Path(os.path.abspath(root))
        try:
            info = self._root.stat()
        except FileNotFoundError:
            raise StoreUnavailable(
                f"the repository directory {self._root} does not exist",
                hint="is its disk mounted? pgkeep init makes a new repository",
            ) from None
        except OSError as error:
            raise self._explained(error, str(self._root)) from None
        if not stat.S_ISDIR(info.st_mode):
            raise StoreError(
                f"{self._root} is not a directory", hint="mend url in the configuration"
            )
        self._give_to = (info.st_uid, info.st_gid) if os.geteuid() == 0 else None
        group = info.st_mode & 0o070
        self._directory_mode = 0o700 | group
        self._file_mode = 0o600 | (group & 0o060)
        self._temporary = self._root / TEMPORARY
        self._known: set[str] = set()
        self._files: OrderedDict[str, _Shared] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        return self._root.as_uri()

    def capabilities(self) -> Capabilities:
        return Capabilities(conditional_put=True, durable=True)

    def create(self, name: str, data: Data) -> None:
        final = self._path(name)
        with self._explaining(str(final)):
            if final.exists():
                raise ObjectExists(f"{name} exists already in {self._root}")
            self._make_directory(self._temporary)
            self._make_directory(final.parent)
            temporary = self._temporary / f"{os.getpid()}-{secrets.token_hex(8)}"
            try:
                self._write(temporary, pieces(data))
                self._link(temporary, final, name)
            finally:
                with suppress(FileNotFoundError):
                    temporary.unlink()
            _sync_directory(final.parent)

    def get(self, name: str) -> bytes:
        with self._reading(name) as fd:
            return _read(fd, 0, os.fstat(fd).st_size)

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        with self._reading(name) as fd:
            found = _read(fd, offset, length)
        if len(found) != length:
            raise too_short(name, offset, length, len(found))
        return found

    def size(self, name: str) -> int:
        path = self._path(name)
        try:
            return path.stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            raise self._missing(name) from None
        except OSError as error:
            raise self._explained(error, str(path)) from None

    def exists(self, name: str) -> bool:
        try:
            self.size(name)
        except ObjectMissing:
            return False
        return True

    def list(self, prefix: str, *, after: str | None = None) -> Iterator[Entry]:
        # A prefix may end in the middle of a name, so its last part is compared, not opened.
        directory = prefix.rpartition("/")[0]
        with self._explaining(str(self._root / directory)):
            yield from self._walk(directory, prefix, after)

    def delete(self, name: str) -> None:
        path = self._path(name)
        with self._lock:
            self._close_file(name)
        with self._explaining(str(path)):
            try:
                path.unlink()
            except FileNotFoundError:
                return
            _sync_directory(path.parent)

    def sweep_temporaries(self) -> int:
        """Removes what writers left that died more than a day ago; returns how many files."""
        removed = 0
        with self._explaining(str(self._temporary)), suppress(FileNotFoundError):
            for entry in os.scandir(self._temporary):
                if time.time() - entry.stat().st_mtime > _STALE_SECONDS:
                    os.unlink(entry.path)
                    removed += 1
        return removed

    def _path(self, name: str) -> Path:
        return self._root / check_name(name)

    def _walk(self, directory: str, prefix: str, after: str | None) -> Iterator[Entry]:
        try:
            entries = list(os.scandir(self._root / directory))
        except (FileNotFoundError, NotADirectoryError):
            return
        named = sorted(
            ((f"{directory}/{e.name}" if directory else e.name, e) for e in entries),
            # A directory sorts by what its objects' names have: its own name and a slash.
            key=lambda pair: pair[0] + "/" if pair[1].is_dir() else pair[0],
        )
        for name, entry in named:
            if entry.is_dir():
                inside = name + "/"
                wanted = inside.startswith(prefix) or prefix.startswith(inside)
                past = after is None or inside > after or after.startswith(inside)
                if name != TEMPORARY and wanted and past:
                    yield from self._walk(name, prefix, after)
            elif name.startswith(prefix) and (after is None or name > after):
                with suppress(FileNotFoundError):
                    info = entry.stat()
                    yield Entry(name, info.st_size, info.st_mtime)

    def _make_directory(self, path: Path) -> None:
        """Makes a directory and its parents durably; remembers what is known to be there."""
        if str(path) in self._known:
            return
        if path != self._root and not path.is_dir():
            self._make_directory(path.parent)
            with suppress(FileExistsError):
                os.mkdir(path, self._directory_mode)
                os.chmod(path, self._directory_mode)
                if self._give_to is not None:
                    os.chown(path, *self._give_to)
            _sync_directory(path.parent)
        self._known.add(str(path))

    def _write(self, path: Path, buffers: Sequence[Piece]) -> None:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, self._file_mode)
        try:
            if self._give_to is not None:
                os.fchown(fd, *self._give_to)
            os.fchmod(fd, self._file_mode)
            _write_all(fd, buffers)
            os.fsync(fd)
        finally:
            os.close(fd)

    def _link(self, temporary: Path, final: Path, name: str) -> None:
        try:
            os.link(temporary, final)
        except FileExistsError:
            if temporary.stat().st_nlink != 2:
                raise ObjectExists(f"{name} exists already in {self._root}") from None
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            raise StoreError(
                f"{self._root} is on a file system without hard links, which a repository needs",
                hint="use another file system, or an object store",
            ) from None

    @contextmanager
    def _reading(self, name: str) -> Iterator[int]:
        """An open file for the object, kept for the next reader; closed when nobody uses it."""
        path = self._path(name)
        with self._lock:
            shared = self._files.get(name)
            if shared is None:
                try:
                    shared = _Shared(os.open(path, os.O_RDONLY))
                except (FileNotFoundError, NotADirectoryError):
                    raise self._missing(name) from None
                except OSError as error:
                    raise self._explained(error, str(path)) from None
                self._files[name] = shared
                while len(self._files) > _OPEN_FILES:
                    self._close_file(next(iter(self._files)))
            else:
                self._files.move_to_end(name)
            shared.users += 1
        try:
            with self._explaining(str(path)):
                yield shared.fd
        finally:
            with self._lock:
                shared.users -= 1
                if shared.dropped and not shared.users:
                    os.close(shared.fd)

    def _close_file(self, name: str) -> None:
        shared = self._files.pop(name, None)
        if shared is not None:
            shared.dropped = True
            if not shared.users:
                os.close(shared.fd)

    def _missing(self, name: str) -> ObjectMissing:
        if not self._root.is_dir():
            return ObjectMissing(
                f"there is no object {name}: {self._root} itself is gone",
                hint="is its disk mounted?",
            )
        return ObjectMissing(f"there is no object {name} in {self._root}")

    @contextmanager
    def _explaining(self, path: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise self._explained(error, path) from error

    def _explained(self, error: OSError, path: str) -> PgkeepError:
        """The store's error for an operating system's one."""
        where = error.filename or path
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            free = shutil.disk_usage(self._root).free // (1 << 20)
            return StoreFull(
                f"no space left for {where}: {free} MiB are free (or a quota is used up)",
                hint=f"make room on the file system of {self._root}; what is stored is untouched",
            )
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            return StoreDenied(
                f"no permission for {where}: {error.strerror}{self._ownership()}",
                hint="run pgkeep as the repository's owner, or as root",
            )
        if error.errno == errno.ENOENT:
            return StoreUnavailable(
                f"{where} has gone away", hint=f"is the disk of {self._root} mounted?"
            )
        return StoreUnavailable(f"{where}: {error.strerror}", hint="look at the disk and its log")

    def _ownership(self) -> str:
        try:
            info = self._root.stat()
        except OSError:
            return ""
        return f" (user {os.geteuid()}; {self._root} belongs to user {info.st_uid})"


class _Shared:
    """A file descriptor and how many are using it."""

    __slots__ = ("dropped", "fd", "users")

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.users = 0
        self.dropped = False


def _write_all(fd: int, buffers: Sequence[Piece]) -> None:
    for start in range(0, len(buffers), _MOST_BUFFERS):
        left = [memoryview(b).cast("B") for b in buffers[start : start + _MOST_BUFFERS] if len(b)]
        while left:
            written = os.writev(fd, left)
            while left and written >= len(left[0]):
                written -= len(left.pop(0))
            if written:
                left[0] = left[0][written:]


def _read(fd: int, offset: int, length: int) -> bytes:
    """Up to `length` bytes: the kernel may give less at a time, or the file may end."""
    found = os.pread(fd, length, offset)
    if len(found) == length or not found:
        return found
    parts = [found]
    got = len(found)
    while got < length:
        part = os.pread(fd, length - got, offset + got)
        if not part:
            break
        parts.append(part)
        got += len(part)
    return b"".join(parts)


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
