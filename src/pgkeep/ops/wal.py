"""`wal push` and `wal fetch`; few imports, since they run once a segment."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pgkeep.errors import FormatError, UsageError, WrongCluster
from pgkeep.ops.wiring import open_chosen
from pgkeep.repo.log import Log

if TYPE_CHECKING:
    from pgkeep.config.model import Chosen
    from pgkeep.repo.repository import Repository
    from pgkeep.wal.fetch import FetchResult
    from pgkeep.wal.push import PushResult


def push_wal(chosen: Chosen, path: str) -> PushResult:
    """Stores one WAL file; raises what `wal.push.push` does."""
    from pgkeep.wal.push import push
    from pgkeep.wal.pushlog import note_error

    try:
        repo = open_chosen(chosen)
        log = Log(repo, chosen.cluster_name)
        first = _known(log.founding_system(), chosen)
    except Exception as error:
        note_error(chosen.state_dir, Path(path).name, str(error), getattr(error, "hint", None))
        raise
    try:
        return _push(push, repo, chosen, path, first)
    except WrongCluster:
        # The log's first entry is quick to read; after pg_upgrade a later one counts.
        now = log.state().system_identifier
        if now in (None, first):
            raise
        return _push(push, repo, chosen, path, int(now or 0))


def _push(push, repo: Repository, chosen: Chosen, path: str, system: int) -> PushResult:  # type: ignore[no-untyped-def]
    done: PushResult = push(
        repo,
        chosen.cluster_name,
        path,
        system_identifier=system,
        level=chosen.repository.compression_level,
        state_dir=chosen.state_dir,
    )
    return done


def fetch_wal(chosen: Chosen, name: str, destination: str, *, timeline: int | None) -> FetchResult:
    """Writes one WAL file for recovery; raises what `wal.fetch.fetch` does.

    PostgreSQL calls it in the data directory, whose control file says which system's WAL it is.
    """
    from pgkeep.wal.fetch import fetch

    repo = open_chosen(chosen)
    system = _system_here()
    if system is None:
        system = _known(Log(repo, chosen.cluster_name).state().system_identifier, chosen)
    return fetch(
        repo,
        chosen.cluster_name,
        name,
        destination,
        timeline=timeline,
        system_identifier=system,
    )


def _known(system: int | None, chosen: Chosen) -> int:
    if system is None:
        raise UsageError(
            f"cluster {chosen.cluster_name} is not in the repository {chosen.repository_name} yet",
            hint="run pgkeep init once for it",
        )
    return system


def _system_here() -> int | None:
    """The system identifier of the data directory that we are in, if it is one."""
    from pgkeep.pgformat.control import parse_control

    try:
        return parse_control(Path("global/pg_control").read_bytes()).system_identifier
    except (OSError, FormatError):
        return None
