"""Makes a backup, step by step; the log's `commit` entry is what makes it exist.

A crash before it leaves garbage that nothing refers to; an error appends `abort`, so that the id
can never commit.
"""

from __future__ import annotations

import hashlib
import socket
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

import pgkeep
from pgkeep.backup.contents import Contents, Job, store
from pgkeep.backup.plan import BackupOptions, BackupPlan, ServerView, plan
from pgkeep.backup.waiting import wait_for_wal
from pgkeep.catalog.records import Record, Tablespace, write_record
from pgkeep.errors import LeaseHeld, NotPostgres, PgkeepError, ServerError
from pgkeep.events import Caution, Emit, Note, PhaseEnded, PhaseStarted
from pgkeep.pgformat.label import parse_backup_label
from pgkeep.pgformat.lsn import Lsn, format_lsn
from pgkeep.pgformat.walname import SegmentName, last_segment_before, segment_of
from pgkeep.pgserver.replication import (
    BaseBackupOptions,
    BaseBackupStream,
    ReplicationConnection,
)
from pgkeep.pgserver.session import ServerFacts, Session
from pgkeep.repo import names
from pgkeep.repo.log import Log, LogState
from pgkeep.repo.refs import PackTable, to_json
from pgkeep.repo.repository import Repository

CHECKPOINT = "waiting for the checkpoint"


class BackupWal(Protocol):
    """WAL that is streamed beside a backup."""

    def finish(self, stop_lsn: Lsn) -> None:
        """Returns once everything up to `stop_lsn` is in the repository."""


StreamWal = Callable[[ServerFacts, Lsn, int], AbstractContextManager[BackupWal]]


@dataclass(frozen=True, slots=True)
class Source:
    """Where to read, by libpq's conninfo.

    `stream_wal` begins to stream WAL from an LSN on a timeline; `last_push` says in words what this
    host knows of the last pushes.
    """

    conninfo: str
    stream_wal: StreamWal
    last_push: Callable[[], str]


@dataclass(frozen=True, slots=True)
class _Run:
    """What all steps of one backup need."""

    repo: Repository
    log: Log
    session: Session
    facts: ServerFacts
    source: Source
    options: BackupOptions
    decided: BackupPlan
    emit: Emit
    backup_id: str
    generation: int
    start_time: datetime
    began: float


def run(
    repo: Repository, cluster: str, source: Source, options: BackupOptions, emit: Emit
) -> Record:
    """Makes one full backup and returns its record.

    Raises WrongCluster, ArchiveStalled, LeaseHeld, ServerError, StoreError and what else stands in
    the way; nothing that exists is changed then.
    """
    began = time.monotonic()
    log = Log(repo, cluster)
    with Session.connect(source.conninfo) as session:
        facts = session.facts()
        decided = plan(_view(session, facts), log.state().system_identifier, options)
        _take_lease(session, cluster)
        start_time = datetime.now(UTC)
        backup_id = names.new_id(start_time)
        begin = log.append("begin", {"id": backup_id, "kind": "backup", "base": None})
        work = _Run(
            repo, log, session, facts, source, options, decided, emit, backup_id, begin.seq,
            start_time, began,
        )  # fmt: skip
        try:
            return _make(work)
        except BaseException as error:
            _abort(work, error)
            raise


def _make(work: _Run) -> Record:
    with ReplicationConnection.connect(work.source.conninfo) as connection:
        _demand_same_server(connection, work.facts)
        stream = _start(work, connection)
        with _wal_beside(work, stream) as wal:
            contents = store(_job(work), stream, work.emit)
            if wal is not None:
                wal.finish(stream.stop_lsn)
        warnings = _warnings(work, connection, stream, contents)
    if work.decided.wal == "archive":
        _wait(work, stream)
    record = _record(work, stream, contents, warnings)
    sha256 = write_record(work.repo, work.log.cluster, record)
    work.log.append(
        "commit",
        {"id": work.backup_id, "record": sha256.hex()},
        check=lambda state: _demand_open(state, work.backup_id),
    )
    return record


def _job(work: _Run) -> Job:
    settings = work.facts.settings
    return Job(
        work.repo,
        work.log.cluster,
        work.backup_id,
        work.generation,
        block_size=work.facts.block_size,
        segment_blocks=int(settings["segment_size"]),
        level=work.options.level,
    )


def _wal_beside(work: _Run, stream: BaseBackupStream) -> AbstractContextManager[BackupWal | None]:
    if work.decided.wal == "archive":
        return nullcontext()
    return work.source.stream_wal(work.facts, stream.start_lsn, stream.start_timeline)


def _view(session: Session, facts: ServerFacts) -> ServerView:
    status = session.archiver()
    failing = None
    if status.failing:
        failing = f"{status.last_failed} failed at {status.last_failed_time}"
    return ServerView(
        version_num=facts.version_num,
        system_identifier=facts.system_identifier,
        wal_level=facts.settings.get("wal_level", "replica"),
        archive_mode=facts.settings.get("archive_mode", "on"),
        archiver_failing=failing,
    )


def _take_lease(session: Session, cluster: str) -> None:
    """A courtesy: two backups at once would be right, only slow. It ends with the session."""
    digest = hashlib.sha256(f"pgkeep backup {cluster}".encode()).digest()
    if not session.try_lock(int.from_bytes(digest[:8], "big", signed=True)):
        raise LeaseHeld(
            f"another backup of {cluster} is running",
            hint="wait for it; pg_locks with locktype advisory shows whose connection it is",
        )


def _demand_same_server(connection: ReplicationConnection, facts: ServerFacts) -> None:
    system = connection.identify().system_identifier
    if system != facts.system_identifier:
        raise ServerError(
            f"conninfo leads to two servers: SQL to system {facts.system_identifier}, replication "
            f"to {system}",
            hint="name one host, or one target_session_attrs, in conninfo",
        )


def _demand_open(state: LogState, backup_id: str) -> None:
    if backup_id not in state.open:
        raise PgkeepError(
            f"backup {backup_id} was given up by somebody else while it ran; it does not exist",
            hint="it stood still for too long: look what held it up, then make a new one",
        )


def _start(work: _Run, connection: ReplicationConnection) -> BaseBackupStream:
    began = time.monotonic()
    work.emit(PhaseStarted(CHECKPOINT))
    stream = connection.base_backup(
        BaseBackupOptions(
            label=f"pgkeep {work.backup_id}", fast_checkpoint=work.options.fast_checkpoint
        )
    )
    stream.start()
    work.emit(PhaseEnded(CHECKPOINT, time.monotonic() - began))
    return stream


def _warnings(
    work: _Run, connection: ReplicationConnection, stream: BaseBackupStream, contents: Contents
) -> tuple[str, ...]:
    """What should be known of the stream; told at once and kept in the record."""
    if contents.bad_blocks:
        first = contents.bad_blocks[0]
        work.emit(
            Caution(
                f"{len(contents.bad_blocks)} block(s) have wrong checksums, the first is block "
                f"{first.block} of {first.path}; they are in the backup as they are",
                hint="the server's disk or memory damaged them: restore older copies of these "
                "tables, and look at the hardware",
            )
        )
    elif stream.checksum_error is not None:
        work.emit(Caution(f"the server reports wrong checksums: {stream.checksum_error}"))
    own = [text for text in connection.notices if "checksum" not in text]
    for text in own:
        work.emit(Caution(f"the server says: {text}"))
    warnings = list(connection.notices)
    if stream.checksum_error is not None:
        warnings.append(stream.checksum_error)
    return tuple(warnings)


def _wal_range(stream: BaseBackupStream, segment_size: int) -> tuple[SegmentName, SegmentName]:
    first = segment_of(stream.start_lsn, stream.start_timeline, segment_size)
    last = last_segment_before(stream.stop_lsn, stream.stop_timeline, segment_size)
    return first, last


def _wait(work: _Run, stream: BaseBackupStream) -> None:
    facts, cluster = work.facts, work.log.cluster
    first, last = _wal_range(stream, facts.segment_size)
    segments = [
        SegmentName(last.timeline, number).name(facts.segment_size)
        for number in range(first.number, last.number + 1)
    ]

    def present(segment: str) -> bool:
        name = names.wal_file(cluster, facts.system_identifier, last.timeline, segment)
        return work.repo.store.exists(name)

    def explain() -> str:
        status = work.session.archiver()
        command = facts.settings.get("archive_command", "not visible")
        return (
            f"pg_stat_archiver: {status.archived} archived (last {status.last_archived or 'none'}, "
            f"{status.last_archived_time or 'never'}), {status.failed} failed (last "
            f"{status.last_failed or 'none'}, {status.last_failed_time or 'never'}); "
            f"archive_command is {command!r}; {work.source.last_push()}"
        )

    timeout = work.options.archive_timeout
    wait_for_wal(segments, present, explain, work.emit, timeout=timeout)


def _record(
    work: _Run, stream: BaseBackupStream, contents: Contents, warnings: tuple[str, ...]
) -> Record:
    facts = work.facts
    first, last = _wal_range(stream, facts.segment_size)
    table = PackTable()
    root = to_json(contents.root.refs, table)
    label = parse_backup_label(contents.label)
    if label.start_lsn != stream.start_lsn:
        raise NotPostgres(
            f"backup_label starts at {format_lsn(label.start_lsn)}, the stream at "
            f"{format_lsn(stream.start_lsn)}"
        )
    return Record(
        id=work.backup_id,
        cluster=work.log.cluster,
        system_identifier=facts.system_identifier,
        generation=work.generation,
        packs=tuple(table.names),
        root=tuple(root),
        start_lsn=stream.start_lsn,
        stop_lsn=stream.stop_lsn,
        timeline=stream.stop_timeline,
        start_timeline=stream.start_timeline,
        start_time=work.start_time,
        stop_time=datetime.now(UTC),
        server_version_num=facts.version_num,
        block_size=facts.block_size,
        relseg_size=contents.control.relseg_size,
        segment_size=facts.segment_size,
        data_checksum_version=contents.control.data_checksum_version,
        tablespaces=tuple(
            Tablespace(space.oid, space.location or "")
            for space in stream.tablespaces
            if space.oid is not None
        ),
        backup_label=contents.label.decode("utf-8", "replace"),
        label=work.options.label,
        class_=work.options.backup_class,
        host=socket.gethostname(),
        os_user=facts.os_user,
        os_group=facts.os_group,
        data_directory=facts.data_directory,
        directory_mode=facts.directory_mode,
        files=contents.root.files,
        bytes=contents.root.bytes,
        stored_bytes=contents.generation.data_bytes + contents.map_bytes,
        map_bytes=contents.map_bytes,
        new_bytes=contents.generation.data_bytes,
        bad_blocks=tuple(contents.bad_blocks),
        warnings=warnings,
        wal_first=first.name(facts.segment_size),
        wal_last=last.name(facts.segment_size),
        wal_source=work.decided.wal,
        compression=work.options.level,
        pgkeep=pgkeep.__version__,
        seconds=round(time.monotonic() - work.began, 3),
    )


def _abort(work: _Run, error: BaseException) -> None:
    """Says in the log that this id is over; if even that fails, a sweep finds it unfinished."""
    reason = str(error) or type(error).__name__
    try:
        work.log.append("abort", {"id": work.backup_id, "reason": reason[:500]})
    except PgkeepError as problem:
        work.emit(
            Note(f"backup {work.backup_id} could not be marked as given up: {problem.message}")
        )
