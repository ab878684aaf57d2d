"""Verifies one backup or all: everything on the way to their blocks, and deep, every byte."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial

from pgkeep.catalog.records import Record, read_record
from pgkeep.codec.container import Kind
from pgkeep.errors import KeyProblem, PgkeepError, UsageError
from pgkeep.events import Emit, PhaseEnded, PhaseStarted, Progress
from pgkeep.parallel import default_workers, ordered_map
from pgkeep.repo import names
from pgkeep.repo.log import Log
from pgkeep.repo.objects import get_object
from pgkeep.repo.repository import Repository
from pgkeep.verify import packs
from pgkeep.verify.findings import Ledger, Problem, VerifyReport, demand_store
from pgkeep.verify.maps import KnownGeneration, MapChecker
from pgkeep.verify.wal import WalChecker

MAPS = "checking maps"
PACKS = "checking packs"
WAL = "checking WAL"
_LOG_HINT = (
    "put the log's object back from a copy of the repository; until then nothing can be added, "
    "and backups can be restored only from what is listed here"
)


@dataclass(slots=True)
class _Counts:
    map_frames: int = 0
    packs: int = 0
    pack_bytes: int = 0
    frames: int = 0
    frame_bytes: int = 0
    segments: int = 0
    segments_read: int = 0


@dataclass(frozen=True, slots=True)
class _Verification:
    repo: Repository
    cluster: str
    deep: bool
    emit: Emit
    workers: int
    ledger: Ledger
    counts: _Counts = field(default_factory=_Counts)


def verify(
    repo: Repository,
    cluster: str,
    *,
    backup: str | None = None,
    deep: bool = False,
    emit: Emit,
    workers: int | None = None,
) -> VerifyReport:
    """Looks at everything that restoring needs; what is wrong is in the report, not raised.

    Quick, it reads all maps and the ends of packs and of the WAL that makes backups consistent;
    `deep` opens every frame and every WAL file. Raises UsageError for an unknown `backup`,
    KeyProblem when the key can't open contents, StoreUnavailable.
    """
    began = time.monotonic()
    if deep and not repo.ring.can_read_data:
        raise KeyProblem(
            "this host's key can't open contents, so a deep verification is not possible",
            hint="run it where an owner's key file is, or leave --deep away",
        )
    work = _Verification(
        repo, cluster, deep, emit, workers or default_workers(), Ledger(repo.store)
    )
    records = _records(work, backup)
    generations = _check_maps(work, records)
    _check_packs(work, generations)
    _check_wal(work, records, all_files=backup is None)
    counts = work.counts
    return VerifyReport(
        backups=tuple(record.id for record in records),
        findings=work.ledger.findings(),
        map_frames=counts.map_frames,
        packs=counts.packs,
        pack_bytes=counts.pack_bytes,
        frames=counts.frames,
        frame_bytes=counts.frame_bytes,
        segments=counts.segments,
        segments_read=counts.segments_read,
        deep=deep,
        seconds=round(time.monotonic() - began, 3),
    )


def _records(work: _Verification, backup: str | None) -> list[Record]:
    """The records that can be read, the oldest first."""
    committed = _committed(work)
    if backup is not None:
        if backup not in committed:
            raise UsageError(
                f"there is no backup {backup}", hint="pgkeep list shows which there are"
            )
        committed = {backup: committed[backup]}
    found = []
    for backup_id, (name, sha256) in committed.items():
        key = ("record", name)
        work.ledger.needs(backup_id, key)
        read = partial(_read_record, work, backup_id, name, sha256)
        record = work.ledger.attempt(key, name, read)
        if record is not None:
            found.append(record)
    return found


def _read_record(work: _Verification, backup_id: str, name: str, sha256: bytes | None) -> Record:
    if sha256 is None:
        # Without the log the record's own seal is all that vouches for it.
        sha256 = get_object(work.repo, Kind.RECORD, name).sha256
    return read_record(work.repo, work.cluster, backup_id, sha256, name=name)


def _committed(work: _Verification) -> dict[str, tuple[str, bytes | None]]:
    """Record's name and digest by backup id; when the log is damaged, what lies there."""
    log = Log(work.repo, work.cluster)
    try:
        # From its first entry on: a checkpoint would hide damage in what is before it.
        log.entries()
        backups = log.state().backups
        ordered = sorted(backups.items(), key=lambda item: (item[1].generation, item[0]))
        return {id_: (entry.record, bytes.fromhex(entry.sha256)) for id_, entry in ordered}
    except PgkeepError as error:
        demand_store(work.repo.store, error)
        prefix = names.record(work.cluster, "")
        listed = [entry.name for entry in work.repo.store.list(prefix)]
        found: dict[str, tuple[str, bytes | None]] = {
            name.removeprefix(prefix): (name, None) for name in listed
        }
        key = ("log", work.cluster)
        for backup_id in found:
            work.ledger.needs(backup_id, key)
        problem = Problem(names.log_prefix(work.cluster), error.message, error.hint or _LOG_HINT)
        work.ledger.note(key, problem)
        return found


def _check_maps(work: _Verification, records: list[Record]) -> list[KnownGeneration]:
    began = time.monotonic()
    work.emit(PhaseStarted(MAPS, None, len(records)))
    checker = MapChecker(work.repo, work.cluster, work.ledger)
    generations: list[KnownGeneration] = []
    for number, record in enumerate(records, 1):
        generations += checker.check(record)
        work.emit(Progress(MAPS, 0, number))
    work.counts.map_frames = checker.frames
    work.emit(PhaseEnded(MAPS, time.monotonic() - began))
    return generations


def _check_packs(work: _Verification, generations: list[KnownGeneration]) -> None:
    began, counts = time.monotonic(), work.counts
    total = sum(len(chunk.pack_frames) for known in generations for chunk in known.lists)
    work.emit(PhaseStarted(PACKS, _data_bytes(generations) if work.deep else None, total))
    look = partial(packs.look, work.repo, deep=work.deep)
    for seen in ordered_map(look, _jobs(work, generations), workers=work.workers):
        for problem in seen.problems:
            work.ledger.note(seen.job.key, problem)
        counts.packs += 1
        counts.pack_bytes += seen.size
        counts.frame_bytes += seen.frame_bytes
        counts.frames += len(seen.job.stored) if work.deep else 0
        work.emit(Progress(PACKS, counts.pack_bytes if work.deep else 0, counts.packs))
    work.emit(PhaseEnded(PACKS, time.monotonic() - began, counts.pack_bytes if work.deep else 0))


def _jobs(work: _Verification, generations: list[KnownGeneration]) -> Iterator[packs.PackJob]:
    for known in generations:
        yield from packs.jobs(known, work.cluster)


def _data_bytes(generations: list[KnownGeneration]) -> int:
    return sum(known.document.data_bytes for known in generations)


def _check_wal(work: _Verification, records: list[Record], *, all_files: bool) -> None:
    began = time.monotonic()
    work.emit(PhaseStarted(WAL))
    for system in dict.fromkeys(record.system_identifier for record in records):
        own = [record for record in records if record.system_identifier == system]
        checker = WalChecker(work.repo, work.cluster, own, work.ledger)
        work.counts.segments += checker.check_needed()
        if work.deep:
            _read_wal(work, checker, checker.stored(all_files=all_files))
    work.emit(PhaseEnded(WAL, time.monotonic() - began))


def _read_wal(work: _Verification, checker: WalChecker, stored: list[str]) -> None:
    for problem in ordered_map(checker.look, stored, workers=work.workers):
        work.counts.segments_read += 1
        if problem is not None:
            checker.note(problem)
        work.emit(Progress(WAL, 0, work.counts.segments_read))
