"""Restores a backup, step by step; `global/pg_control` comes last and makes it whole."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from pgkeep.catalog.inventory import read_inventory
from pgkeep.catalog.records import Record, read_record
from pgkeep.errors import FormatError, ObjectMissing, TargetDirectoryError
from pgkeep.events import Caution, Emit, Note, PhaseEnded, PhaseStarted, Progress
from pgkeep.parallel import default_workers, ordered_map
from pgkeep.pgformat.lsn import format_lsn
from pgkeep.repo.log import Log
from pgkeep.repo.refs import from_json
from pgkeep.repo.repository import Repository
from pgkeep.repo.tree import TreeReader
from pgkeep.restore import destination, recovery
from pgkeep.restore.destination import Owner
from pgkeep.restore.layout import Layout, layout
from pgkeep.restore.place import Placement, explain
from pgkeep.restore.plan import Plan, plan
from pgkeep.restore.target import LATEST, Choice, Target, choose

PLACING = "restoring"
SYNCING = "syncing"
_SYNC_WORKERS = 8
_BATCH = 64
_ROOM_FOR_WAL = 3
"""Segments that recovery itself keeps in pg_wal at once."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RestoreOptions:
    """What the caller wants.

    `target_dir` is absolute. `restore_command` makes the line for postgresql.auto.conf from the
    number of the timeline. `tablespaces` leads from an OID or an old location to a new directory.
    `owner` is a user's name. Without `archive` the restored server is told not to archive.
    `plan_only` stops before anything is written.
    """

    target_dir: Path
    restore_command: Callable[[int], str]
    target: Target = LATEST
    backup: str | None = None
    tablespaces: Mapping[str, str] = field(default_factory=dict)
    owner: str | None = None
    archive: bool = True
    plan_only: bool = False
    workers: int = field(default_factory=default_workers)


@dataclass(frozen=True, slots=True)
class RestoreResult:
    """What was restored, or would be; `wal_to` None means the end of the WAL; sizes in bytes."""

    backup_id: str
    target: str
    timeline: int
    action: str
    wal_from: str
    wal_to: str | None
    target_dir: str
    tablespaces: dict[str, str]
    owner: str
    files: int
    bytes: int
    needs: dict[str, int]
    restored: bool
    seconds: float
    cautions: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def run(repo: Repository, cluster: str, options: RestoreOptions, emit: Emit) -> RestoreResult:
    """Chooses, plans, checks and, unless `plan_only`, restores.

    Raises TargetUnreachable, TargetDirectoryError and UsageError before anything is written. A
    failure afterwards leaves a directory without `global/pg_control`, which no server starts in.
    """
    began = time.monotonic()
    choice = _choose(repo, cluster, options)
    record = choice.record
    tree = _open_tree(repo, cluster, record)
    where = layout(
        options.target_dir, [(t.oid, t.location) for t in record.tablespaces], options.tablespaces
    )
    made = plan(tree.chunks(), where, block_size=tree.root.block_size)
    owner = _check_places(made, choice, options)
    cautions = [*choice.cautions, *_hints(choice, where)]
    for text in cautions:
        emit(Caution(text))
    if not options.plan_only:
        with _unfinished(options.target_dir, emit):
            cautions += _carry_out(made, tree, choice, owner, options, emit)
    return _result(made, choice, owner, options, cautions, time.monotonic() - began)


def _choose(repo: Repository, cluster: str, options: RestoreOptions) -> Choice:
    """The backups considered are those of the named one's system, else of the newest one's."""
    records, unreadable = _records(repo, cluster, options.backup)
    named = {r.system_identifier for r in records if r.id == options.backup}
    inventory = read_inventory(repo, cluster, records, system_identifier=min(named, default=None))
    choice = choose(
        options.target,
        inventory.records,
        inventory.coverage,
        inventory.contents,
        backup=options.backup,
    )
    return replace(choice, cautions=(*unreadable, *choice.cautions))


def _records(
    repo: Repository, cluster: str, wanted: str | None
) -> tuple[list[Record], tuple[str, ...]]:
    """The records that can be read, and a caution for each that can't: unless it is the wanted one,
    a damaged record must not keep the other backups from being restored."""
    found, cautions = [], list[str]()
    for backup_id, entry in Log(repo, cluster).state().backups.items():
        try:
            sha256 = bytes.fromhex(entry.sha256)
            found.append(read_record(repo, cluster, backup_id, sha256, name=entry.record))
        except (FormatError, ObjectMissing) as error:
            if backup_id == wanted:
                raise
            cautions.append(f"backup {backup_id} was passed over: {error.message}")
    return found, tuple(cautions)


def _open_tree(repo: Repository, cluster: str, record: Record) -> TreeReader:
    refs = from_json(record.root, record.packs, f"the record of backup {record.id}")
    return TreeReader(repo, cluster, refs)


def _check_places(made: Plan, choice: Choice, options: RestoreOptions) -> Owner:
    """Everything that would stop the restore half-way, asked beforehand."""
    where, record = made.layout, choice.record
    owner = destination.resolve_owner(
        where.root,
        wanted=options.owner,
        recorded_user=record.os_user,
        recorded_group=record.os_group,
    )
    places = [("the target directory", where.root)]
    places += [
        (f"the directory of tablespace {space.oid}", space.directory) for space in where.tablespaces
    ]
    for what, place in places:
        destination.check_directory(place, owner, what=what)
    destination.check_apart(places)
    room = {**made.needs}
    room[where.root] += _ROOM_FOR_WAL * record.segment_size
    destination.check_space(room.items())
    _check_created(choice.creates)
    return owner


def _check_created(directories: Iterable[str]) -> None:
    """Replay makes a tablespace at its old place, on whatever lies there now."""
    for directory in directories:
        if os.path.isdir(directory) and os.listdir(directory):
            raise TargetDirectoryError(
                f"the WAL to replay creates a tablespace in {directory}, which is not empty: "
                "recovery would write into it, and a server that uses it would lose data",
                hint="restore on another machine, or to a target before that tablespace was made",
            )


def _hints(choice: Choice, where: Layout) -> Iterator[str]:
    for directory in choice.creates:
        if not os.path.isdir(directory):
            yield (
                f"the WAL to replay creates a tablespace in {directory}: make that directory, "
                "empty and owned by the server's user, before the server starts"
            )
        for space in where.tablespaces:
            if os.path.normpath(directory) == os.path.normpath(space.location) and (
                str(space.directory) != os.path.normpath(directory)
            ):
                yield (
                    f"replay makes tablespace {space.oid} in {directory} again, "
                    f"although it was mapped to {space.directory}"
                )


@contextmanager
def _unfinished(target: Path, emit: Emit) -> Iterator[None]:
    """Says what is left behind when the restore does not come to its end."""
    try:
        yield
    except BaseException as error:
        emit(
            Caution(
                f"the restore stopped half-way: no server can start in {target}",
                f"empty {target} and its tablespaces' directories before the next attempt",
            )
        )
        if isinstance(error, OSError):
            raise explain(error, target) from error
        raise


def _carry_out(
    made: Plan,
    tree: TreeReader,
    choice: Choice,
    owner: Owner,
    options: RestoreOptions,
    emit: Emit,
) -> list[str]:
    """Writes everything; returns what should be known of the restored files."""

    def read(generation: int, frames: NDArray[np.int64]) -> Iterable[tuple[int, bytes]]:
        return tree.generation(generation).read(frames)

    mode = choice.record.directory_mode
    slots = (1 << 20) // made.block_size
    placement = Placement(made, owner, read, directory_mode=mode)
    placement.make_directories()
    for _ in ordered_map(placement.make_files, _batches(made.files), workers=options.workers):
        pass
    _write_blocks(placement, made, slots, options, emit)
    wish = recovery.Wish(
        choice, options.restore_command(choice.timeline), options.archive, tree.manifest()
    )
    cautions = recovery.write(made.layout.root, owner, wish)
    for text in cautions:
        emit(Caution(text))
    _sync(placement, made, emit)
    placement.place_control(slots)
    emit(Note(f"restored into {made.layout.root}; recovery goes on to {choice.target}"))
    return cautions


def _write_blocks(
    placement: Placement, made: Plan, slots: int, options: RestoreOptions, emit: Emit
) -> None:
    began, written = time.monotonic(), 0
    emit(PhaseStarted(PLACING, made.bytes, len(made.files)))
    for count in ordered_map(
        lambda unit: placement.write(unit, slots), made.units(slots), workers=options.workers
    ):
        written += count
        emit(Progress(PLACING, written))
    emit(PhaseEnded(PLACING, time.monotonic() - began, written))


def _sync(placement: Placement, made: Plan, emit: Emit) -> None:
    began = time.monotonic()
    emit(PhaseStarted(SYNCING, None, len(made.files)))
    synced = 0
    for batch in ordered_map(
        placement.sync_files,
        _batches(made.files),
        workers=_SYNC_WORKERS,
    ):
        synced += batch
        emit(Progress(SYNCING, 0, synced))
    placement.sync_directories()
    emit(PhaseEnded(SYNCING, time.monotonic() - began))


def _batches(items: Sequence[T]) -> Iterator[list[T]]:
    for start in range(0, len(items), _BATCH):
        yield list(items[start : start + _BATCH])


def _result(
    made: Plan,
    choice: Choice,
    owner: Owner,
    options: RestoreOptions,
    cautions: Sequence[str],
    seconds: float,
) -> RestoreResult:
    return RestoreResult(
        backup_id=choice.record.id,
        target=str(choice.target),
        timeline=choice.timeline,
        action=choice.target.action,
        wal_from=format_lsn(choice.wal_from),
        wal_to=None if choice.wal_to is None else format_lsn(choice.wal_to),
        target_dir=str(made.layout.root),
        tablespaces={str(t.oid): str(t.directory) for t in made.layout.tablespaces},
        owner=owner.name,
        files=len(made.files) + 1,
        bytes=made.bytes,
        needs={str(place): size for place, size in made.needs.items()},
        restored=not options.plan_only,
        seconds=round(seconds, 3),
        cautions=tuple(cautions),
    )
