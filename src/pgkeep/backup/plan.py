"""What a backup will do, decided before anything is written. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pgkeep.errors import ArchiveStalled, ServerError, UsageError, WrongCluster

OLDEST_SERVER = 150000
WalSource = Literal["archive", "stream"]


@dataclass(frozen=True, slots=True)
class BackupOptions:
    """What the caller wants.

    `archive_timeout` is how many seconds to wait for WAL while none arrives; `level` is zstd's.
    """

    label: str | None = None
    backup_class: str | None = None
    wal: WalSource = "archive"
    fast_checkpoint: bool = True
    level: int = 1
    archive_timeout: float = 60.0


@dataclass(frozen=True, slots=True)
class ServerView:
    """The part of a server that decides whether a backup can be made."""

    version_num: int
    system_identifier: int
    wal_level: str
    archive_mode: str
    archiver_failing: str | None


@dataclass(frozen=True, slots=True)
class BackupPlan:
    """What will be done and what should be known about it."""

    wal: WalSource
    cautions: tuple[tuple[str, str], ...] = ()


STREAM_HINT = (
    "mend archiving (pgkeep check says how), or use --wal stream: the backup then takes the WAL "
    "that it needs over the replication connection and can be restored by itself"
)


def plan(server: ServerView, recorded_system: int | None, options: BackupOptions) -> BackupPlan:
    """Decides, or refuses before anything is read.

    Raises WrongCluster, ServerError (too old, wal_level), ArchiveStalled (archiving is off or is
    failing right now) and UsageError.
    """
    if recorded_system is None:
        raise UsageError(
            "this cluster is not in the repository yet", hint="run pgkeep init once for it"
        )
    if recorded_system != server.system_identifier:
        raise WrongCluster(
            f"the server's system identifier is {server.system_identifier}, but the repository "
            f"keeps this cluster as {recorded_system}",
            hint="conninfo leads to another server, or the cluster was made anew: give the new "
            "one a [cluster.NAME] of its own",
        )
    if server.version_num < OLDEST_SERVER:
        raise ServerError(
            f"the server is PostgreSQL {server.version_num // 10000}, the oldest supported is 15"
        )
    if server.wal_level == "minimal":
        raise ServerError(
            "wal_level is minimal, so no backup can be made",
            hint="set wal_level = replica and restart the server",
        )
    if options.wal == "archive":
        _demand_archiving(server)
    return BackupPlan(options.wal)


def _demand_archiving(server: ServerView) -> None:
    if server.archive_mode == "off":
        raise ArchiveStalled(
            "archive_mode is off, so the WAL that a backup needs would never arrive",
            hint=STREAM_HINT,
        )
    if server.archiver_failing is not None:
        raise ArchiveStalled(
            f"archiving is failing: {server.archiver_failing}",
            hint=STREAM_HINT,
        )
