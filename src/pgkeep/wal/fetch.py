"""Gives recovery the WAL file that it asks for, checked, or says honestly that there is none.

The usual case is one read: the file is there, of the pinned timeline. Everything else (the file is
not there, or is of an older timeline) is decided by `serve` from a listing. History files are
served of every timeline: PostgreSQL looks through them for a number that its new timeline may have,
and one that is hidden would be used twice.
"""

from __future__ import annotations

import hashlib
import os
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pgkeep.catalog import walfile
from pgkeep.catalog.coverage import Coverage, SegmentFact, cover
from pgkeep.catalog.inventory import list_wal, read_switches, stored_segment_size
from pgkeep.codec.container import Kind
from pgkeep.errors import Damaged, ObjectMissing, PgkeepError, WalAbsent
from pgkeep.parallel import default_workers
from pgkeep.pgformat.walname import WalFile, WalKind, classify, parse_segment
from pgkeep.repo import names
from pgkeep.repo.objects import get_object
from pgkeep.wal.serve import Absent, Fault, decide

if TYPE_CHECKING:
    from pgkeep.repo.repository import Repository

_ABANDONED_SECONDS = 600


@dataclass(frozen=True, slots=True)
class FetchResult:
    """What was written: `served` is the stored file it came from, `cut` the LSN after which zeros
    stand for another history; `size` in bytes."""

    name: str
    served: str
    size: int
    cut: int | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def fetch(
    repo: Repository,
    cluster: str,
    name: str,
    destination: Path | str,
    *,
    timeline: int | None = None,
    system_identifier: int,
) -> FetchResult:
    """Writes the WAL file `name` to `destination`, which appears whole or not at all.

    `timeline` pins the history that recovery must follow. Raises WalAbsent only where WAL really
    ends; PgkeepError when going on would lose or mix up history, Damaged when the stored bytes are
    not what was pushed, NotPostgres for a name that PostgreSQL does not use.
    """
    shelf = _Shelf(repo, cluster, system_identifier, timeline)
    wanted = classify(name)
    found = shelf.segment(name, wanted) if wanted.kind is WalKind.SEGMENT else shelf.plain(name)
    result, raw = found
    _write(Path(destination), raw)
    return result


class _Shelf:
    """The stored WAL of one cluster, as recovery to one timeline may see it."""

    def __init__(
        self, repo: Repository, cluster: str, system_identifier: int, pinned: int | None
    ) -> None:
        self._repo = repo
        self._cluster = cluster
        self._system_identifier = system_identifier
        self._pinned = pinned

    def plain(self, name: str) -> tuple[FetchResult, bytes]:
        """A file that is served as it is: history, backup history, or a partial one by its name."""
        timeline = classify(name).timeline
        raw = self._read(timeline, name)
        if raw is None:
            if classify(name).kind is WalKind.HISTORY and timeline == self._pinned != 1:
                raise PgkeepError(
                    f"recovery is to follow timeline {timeline}, but {name} is not in the "
                    "repository",
                    hint="archive it with pgkeep wal push from a server that has it in pg_wal",
                )
            raise WalAbsent(f"{name} is not in the repository")
        return FetchResult(name, name, len(raw)), raw

    def segment(self, name: str, wanted: WalFile) -> tuple[FetchResult, bytes]:
        """A segment, or the part of it that the pinned history has."""
        raw = self._read(wanted.timeline, name)
        if raw is not None and self._pinned in (None, wanted.timeline):
            return FetchResult(name, name, len(raw)), raw
        coverage = self._coverage(name, wanted.timeline, raw)
        size = coverage.segment_size
        place = parse_segment(name, size)
        verdict = decide(coverage, place.timeline, place.number, pinned=self._pinned)
        if isinstance(verdict, Absent):
            raise WalAbsent(f"{name} is not in the repository: {verdict.why}")
        if isinstance(verdict, Fault):
            raise _fault(name, verdict)
        file = f"{name}.partial" if verdict.partial else name
        if raw is None:
            # The partial one, or one that arrived between the look for it and the listing.
            raw = self._read(wanted.timeline, file)
        if raw is None:
            raise PgkeepError(f"{file} was in the repository a moment ago and is gone")
        return FetchResult(name, file, size, verdict.cut), _cut(
            raw, size, place.start(size), verdict.cut
        )

    def _coverage(self, name: str, timeline: int, raw: bytes | None) -> Coverage:
        """What is stored of `timeline`, and the histories that matter.

        Only a segment that is not there needs the listing.
        """
        histories = {}
        for descendant in {timeline, self._pinned} - {None, 1}:
            assert descendant is not None
            with suppress(ObjectMissing):
                histories[descendant] = read_switches(
                    self._repo, self._cluster, self._system_identifier, descendant
                )
        if raw is not None:
            number = parse_segment(name, len(raw)).number
            return cover(len(raw), [SegmentFact(timeline, number)], histories)
        size = stored_segment_size(self._repo, self._cluster, self._system_identifier)
        prefix = names.wal_timeline_prefix(self._cluster, self._system_identifier, timeline)
        return cover(size, list_wal(self._repo, prefix).facts(size), histories)

    def _read(self, timeline: int, file: str) -> bytes | None:
        """A stored file's bytes, checked; None when there is none."""
        name = names.wal_file(self._cluster, self._system_identifier, timeline, file)
        try:
            found = get_object(self._repo, Kind.WAL, name, workers=default_workers())
        except ObjectMissing:
            return None
        described = walfile.decode(found.meta, name)
        whole = len(found.raw) == described.size
        if not whole or hashlib.sha256(found.raw).hexdigest() != described.sha256:
            raise Damaged(f"{name} does not hold what was pushed: its SHA-256 is another")
        return found.raw


def _fault(name: str, verdict: Fault) -> PgkeepError:
    return PgkeepError(
        f"{name} can't be served: {verdict.why}",
        hint="recovery stops here on purpose: taking this for the end of the WAL would lose or mix "
        "up what came after; archive what is missing, or restore to a target before it",
    )


def _cut(raw: bytes, size: int, start: int, cut: int | None) -> bytes:
    """The bytes before the LSN `cut`, filled up with zeros to a whole segment."""
    kept = raw if cut is None else raw[: cut - start]
    return kept if len(kept) == size else kept.ljust(size, b"\0")


def _write(destination: Path, raw: bytes) -> None:
    # PostgreSQL takes whatever lies at its path, and syncs it itself when it takes it.
    beside = destination.with_name(f"{destination.name}.pgkeep-{os.getpid()}")
    _remove_abandoned(destination)
    try:
        beside.write_bytes(raw)
        beside.replace(destination)
    except OSError as error:
        with suppress(OSError):
            beside.unlink()
        raise PgkeepError(
            f"can't write {destination}: {error.strerror}",
            hint="is there room for a few WAL segments on the disk of pg_wal?",
        ) from error


def _remove_abandoned(destination: Path) -> None:
    """Nothing else ever removes what a killed fetch leaves in pg_wal, 16 MiB each."""
    with suppress(OSError):
        for left in destination.parent.glob(f"{destination.name}.pgkeep-*"):
            if time.time() - left.stat().st_mtime > _ABANDONED_SECONDS:
                left.unlink()
