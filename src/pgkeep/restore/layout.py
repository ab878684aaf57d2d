"""Where each path of a backup goes on this machine (pure)."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pgkeep.errors import UsageError

_TABLESPACES = b"pg_tblspc/"


@dataclass(frozen=True, slots=True)
class Tablespace:
    """A tablespace of the backup, and the directory that it gets now."""

    oid: int
    location: str
    directory: Path


@dataclass(frozen=True, slots=True)
class Layout:
    """Where a path of the backup goes on this machine."""

    root: Path
    tablespaces: tuple[Tablespace, ...]
    _directories: dict[bytes, Path] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        directories = {str(t.oid).encode(): t.directory for t in self.tablespaces}
        object.__setattr__(self, "_directories", directories)

    def tablespace_of(self, path: bytes) -> bytes | None:
        """The OID, as it stands in the path, of the mapped tablespace that `path` lies in."""
        if not path.startswith(_TABLESPACES):
            return None
        oid = path[len(_TABLESPACES) :].partition(b"/")[0]
        return oid if oid in self._directories else None

    def destination(self, path: bytes) -> bytes:
        """The absolute path on this machine."""
        oid = self.tablespace_of(path)
        if oid is None:
            return os.path.join(os.fsencode(self.root), path)
        rest = path[len(_TABLESPACES) + len(oid) + 1 :]
        directory = os.fsencode(self._directories[oid])
        return os.path.join(directory, rest) if rest else directory

    def directory_of(self, path: bytes) -> Path:
        """The target or tablespace directory that `path` goes into."""
        oid = self.tablespace_of(path)
        return self.root if oid is None else self._directories[oid]


def layout(
    root: Path, tablespaces: Iterable[tuple[int, str]], mapping: Mapping[str, str]
) -> Layout:
    """The layout of a restore into `root`.

    `tablespaces` are the backup's (OID, location); one whose location is not absolute lies in the
    data directory itself. `mapping` leads from an OID or an old location to the new directory.
    Raises UsageError for a mapping of something that the backup does not have.
    """
    wanted = {_normal(old): new for old, new in mapping.items()}
    known = [(oid, location) for oid, location in tablespaces if os.path.isabs(location)]
    placed = []
    for oid, location in known:
        by_oid, by_location = wanted.pop(str(oid), None), wanted.pop(_normal(location), None)
        directory = by_oid or by_location or location
        if not os.path.isabs(directory):
            raise UsageError(
                f"tablespace {oid} can't go to {directory}: it must be an absolute path"
            )
        placed.append(Tablespace(oid, location, Path(directory)))
    if wanted:
        here = ", ".join(f"{oid} at {location}" for oid, location in known)
        raise UsageError(
            f"the backup has no tablespace {sorted(wanted)[0]} to map",
            hint=f"its tablespaces are {here}" if here else "it has no tablespaces",
        )
    return Layout(root, tuple(placed))


def _normal(location: str) -> str:
    return os.path.normpath(location) if os.path.isabs(location) else location
