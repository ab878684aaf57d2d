"""Stores one WAL file that PostgreSQL wants archived.

1. Check the name, and of a segment that its first page belongs to this cluster, this place and this
   timeline: a recycled, renamed or foreign file must never take a segment's name.
2. Summarize what the WAL contains, so that recovery targets can be judged later.
3. Seal and create the object. When the name is taken, the same bytes succeed; others are kept under
   `conflicts/` for whoever has to find out what happened, and the push fails.
"""

from __future__ import annotations

import errno
import hashlib
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from pgkeep.catalog import walfile
from pgkeep.catalog.walfile import WalFile, WalHeader
from pgkeep.codec.container import Kind
from pgkeep.errors import (
    FormatError,
    NotPostgres,
    ObjectExists,
    ObjectMissing,
    PgkeepError,
    StoreError,
)
from pgkeep.parallel import default_workers
from pgkeep.pgformat.history import HistoryEntry, Lineage, parse_history
from pgkeep.pgformat.walname import WalKind, classify, history_name, parse_segment
from pgkeep.pgformat.walpage import check_segment, parse_segment_header
from pgkeep.pgformat.walsummary import summarize
from pgkeep.repo import names
from pgkeep.repo.objects import put_object
from pgkeep.wal.pushlog import note_error, note_success

if TYPE_CHECKING:
    from pgkeep.repo.repository import Repository

_LARGEST = 1 << 30
_LONGEST_META = 512 << 10


@dataclass(frozen=True, slots=True)
class PushResult:
    """`how` is "same" when the file was stored already. Sizes in bytes: of the file, and stored."""

    name: str
    how: Literal["stored", "same"]
    size: int
    stored_bytes: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def push(
    repo: Repository,
    cluster: str,
    path: Path | str,
    *,
    system_identifier: int,
    level: int = 1,
    state_dir: Path | None = None,
) -> PushResult:
    """Stores the file at `path` under its own name; returns only once the store has it.

    How it went is noted in `state_dir`. Raises NotPostgres, WrongCluster, ObjectExists (other bytes
    are stored under that name), PgkeepError for a file that can't be read, and StoreError's kin.
    """
    path = Path(path)
    try:
        done = push_bytes(
            repo,
            cluster,
            path.name,
            _read(path),
            system_identifier=system_identifier,
            level=level,
            beside=path.parent,
        )
    except PgkeepError as error:
        note_error(state_dir, path.name, error.message, error.hint)
        raise
    note_success(state_dir, path.name)
    return done


def push_bytes(
    repo: Repository,
    cluster: str,
    name: str,
    raw: bytes,
    *,
    system_identifier: int,
    level: int = 1,
    beside: Path | None = None,
) -> PushResult:
    """Stores a file that is in memory already. `beside` is where its history file may lie."""
    kind = classify(name)
    history = None
    header = None
    summary = None
    if kind.kind in (WalKind.SEGMENT, WalKind.PARTIAL):
        assert kind.segment is not None
        header = _checked_header(repo, cluster, name, raw, system_identifier, beside)
        start = parse_segment(kind.segment, len(raw)).start(len(raw))
        # WAL that can't be understood must still be archived: only its summary is missing then.
        with suppress(FormatError):
            summary = summarize(raw, start).to_json()
    elif kind.kind is WalKind.HISTORY:
        switches = tuple((e.timeline, e.switch_lsn) for e in parse_history(raw))
        history = walfile.history_lines(switches)
    described = WalFile(
        name=name,
        size=len(raw),
        sha256=hashlib.sha256(raw).hexdigest(),
        time=names.time_text(datetime.now(UTC)),
        header=header,
        summary=summary,
        history=history,
    )
    return _store(repo, cluster, system_identifier, kind.timeline, described, raw, level)


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            raw = file.read(_LARGEST + 1)
    except OSError as error:
        what = {
            errno.ENOENT: "does not exist",
            errno.EISDIR: "is a directory, not a WAL file",
            errno.EACCES: "can't be read: permission denied",
        }.get(error.errno or 0, f"can't be read: {error.strerror}")
        raise PgkeepError(
            f"{path} {what}",
            hint="archive_command passes %p; it runs in the data directory as the server's user",
        ) from error
    if len(raw) > _LARGEST:
        raise NotPostgres(f"{path} is larger than any WAL segment, 1 GiB")
    return raw


def _checked_header(
    repo: Repository,
    cluster: str,
    name: str,
    raw: bytes,
    system_identifier: int,
    beside: Path | None,
) -> WalHeader:
    header = parse_segment_header(raw)
    timeline = classify(name).timeline
    lineage = None
    if header.timeline < timeline:
        # Only the first segment of a timeline begins with pages copied from its parent.
        lineage = _lineage(repo, cluster, system_identifier, timeline, beside)
    check_segment(name, header.segment_size, raw, system_identifier, lineage)
    return WalHeader(header.timeline, header.system_identifier, header.version)


def _lineage(
    repo: Repository, cluster: str, system_identifier: int, timeline: int, beside: Path | None
) -> Lineage | None:
    """The history of a timeline, from pg_wal or the repository; None when neither has it."""
    file = history_name(timeline)
    if beside is not None:
        with suppress(OSError):
            return Lineage(timeline, parse_history((beside / file).read_bytes()))
    try:
        stored = walfile.read(repo, names.wal_file(cluster, system_identifier, timeline, file))
    except ObjectMissing:
        return None
    return Lineage(timeline, tuple(HistoryEntry(t, lsn, "") for t, lsn in stored.switches()))


def _store(
    repo: Repository,
    cluster: str,
    system_identifier: int,
    timeline: int,
    described: WalFile,
    raw: bytes,
    level: int,
) -> PushResult:
    name = names.wal_file(cluster, system_identifier, timeline, described.name)
    meta = msgspec.json.encode(described)
    if len(meta) > _LONGEST_META:
        # Somebody filled the segment with restore points; footers have a limit, archiving has not.
        meta = msgspec.json.encode(msgspec.structs.replace(described, summary=None))
    try:
        stored = put_object(repo, Kind.WAL, name, raw, meta, level=level, workers=default_workers())
        return PushResult(described.name, "stored", len(raw), stored.size)
    except ObjectExists:
        there = walfile.read(repo, name)
        if there.sha256 == described.sha256:
            return PushResult(described.name, "same", len(raw), repo.store.size(name))
        kept = _keep_conflict(repo, name, described, raw, meta, level)
        raise ObjectExists(
            f"{described.name} is stored already with other bytes, since {there.time}: there "
            f"SHA-256 {there.sha256}, here {described.sha256}; nothing was overwritten",
            hint="two servers archive as the same cluster and timeline (a clone, a restored copy, "
            "an old primary): let only one of them archive" + kept,
        ) from None


def _keep_conflict(
    repo: Repository, name: str, described: WalFile, raw: bytes, meta: bytes, level: int
) -> str:
    """Keeps the other bytes beside; says where. It must not hide what went wrong first."""
    aside = f"conflicts/{name.partition('/')[2]}-{described.sha256[:16]}"
    try:
        put_object(repo, Kind.WAL, aside, raw, meta, level=level)
    except ObjectExists:
        pass
    except StoreError:
        return ""
    return f"; its bytes are kept as {aside}"
