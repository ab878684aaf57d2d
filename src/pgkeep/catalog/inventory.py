"""Reads which WAL a store has: one listing for the names, a footer only when asked for."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pgkeep.catalog import walfile
from pgkeep.catalog.coverage import Coverage, SegmentFact, cover
from pgkeep.catalog.walfile import WalFile
from pgkeep.codec.container import Kind
from pgkeep.errors import NotPostgres
from pgkeep.pgformat.walname import SegmentName, WalKind, classify, history_name, parse_segment
from pgkeep.pgformat.walsummary import WalSummary, ends_xid
from pgkeep.repo import names
from pgkeep.repo.objects import get_object

if TYPE_CHECKING:
    from pgkeep.catalog.records import Record
    from pgkeep.repo.repository import Repository

DEFAULT_SEGMENT_SIZE = 16 << 20
_REMEMBERED = 4096


class StoredContents:
    """What is inside stored WAL files; remembers the last few thousand footers."""

    def __init__(
        self, repo: Repository, cluster: str, system_identifier: int, coverage: Coverage
    ) -> None:
        self._repo = repo
        self._cluster = cluster
        self._system_identifier = system_identifier
        self._coverage = coverage
        self._files: OrderedDict[str, WalFile] = OrderedDict()

    def summary(self, timeline: int, number: int) -> WalSummary | None:
        """What the WAL in a stored segment, or its partial file, contains."""
        return self.file(timeline, number).wal_summary()

    def file(self, timeline: int, number: int) -> WalFile:
        """What a stored segment's footer says; raises ObjectMissing."""
        name = self._object(timeline, number)
        found = self._files.pop(name, None) or walfile.read(self._repo, name)
        self._files[name] = found
        if len(self._files) > _REMEMBERED:
            self._files.popitem(last=False)
        return found

    def ends(self, segments: Sequence[tuple[int, int]], xid: int) -> int | None:
        """The LSN of the record that ends `xid` in these consecutive segments."""
        if not segments:
            return None
        raw = (get_object(self._repo, Kind.WAL, self._object(*s)).raw for s in segments)
        return ends_xid(raw, segments[0][1] * self._coverage.segment_size, xid)

    def _object(self, timeline: int, number: int) -> str:
        file = SegmentName(timeline, number).name(self._coverage.segment_size)
        if not self._coverage.has(timeline, number):
            file += ".partial"
        return names.wal_file(self._cluster, self._system_identifier, timeline, file)


@dataclass(frozen=True)
class Inventory:
    """The stored WAL of one system identifier, and `records`: the backups that belong to it."""

    system_identifier: int
    coverage: Coverage
    contents: StoredContents
    records: tuple[Record, ...]


def read_inventory(
    repo: Repository,
    cluster: str,
    records: Sequence[Record] = (),
    *,
    system_identifier: int | None = None,
) -> Inventory:
    """Lists the cluster's WAL and reads its timelines' histories.

    `system_identifier` is that of the newest of `records` unless given: after pg_upgrade a cluster
    has WAL of several, and LSNs of one mean nothing to another. Raises StoreError and its kin.
    """
    newest = max(records, key=lambda r: r.stop_time, default=None)
    if system_identifier is None:
        system_identifier = newest.system_identifier if newest else 0
    own = tuple(r for r in records if r.system_identifier == system_identifier)
    size = own[-1].segment_size if own else None
    coverage = read_coverage(repo, cluster, system_identifier, segment_size=size)
    contents = StoredContents(repo, cluster, system_identifier, coverage)
    return Inventory(system_identifier, coverage, contents, own)


def read_coverage(
    repo: Repository, cluster: str, system_identifier: int, *, segment_size: int | None = None
) -> Coverage:
    """Coverage from a listing and the timelines' histories.

    `segment_size` in bytes is looked up in a stored segment when it is not known.
    """
    listed = list_wal(repo, names.wal_prefix(cluster, system_identifier))
    if segment_size is None:
        segment_size = stored_segment_size(repo, cluster, system_identifier)
    lines = {t: read_switches(repo, cluster, system_identifier, t) for t in listed.histories}
    return cover(segment_size, listed.facts(segment_size), lines)


@dataclass(frozen=True)
class Listed:
    """File names below a prefix: segments (24 digits, whether partial), histories by timeline."""

    segments: tuple[tuple[str, bool], ...]
    histories: tuple[int, ...]

    def facts(self, segment_size: int) -> list[SegmentFact]:
        """The segments as numbers; raises NotPostgres when one can't be of that size."""
        return [
            SegmentFact(found.timeline, found.number, partial)
            for name, partial in self.segments
            for found in (parse_segment(name, segment_size),)
        ]


def list_wal(repo: Repository, prefix: str) -> Listed:
    """The WAL files below `prefix`; a reader ignores what it does not know."""
    segments: list[tuple[str, bool]] = []
    histories: list[int] = []
    for entry in repo.store.list(prefix):
        file = entry.name.rpartition("/")[2]
        kind = _kind(file)
        if kind is WalKind.HISTORY:
            histories.append(int(file[:8], 16))
        elif kind in (WalKind.SEGMENT, WalKind.PARTIAL):
            segments.append((file[:24], kind is WalKind.PARTIAL))
    return Listed(tuple(segments), tuple(histories))


def stored_segment_size(repo: Repository, cluster: str, system_identifier: int) -> int:
    """The size in bytes of the first stored segment; PostgreSQL's default when there is none."""
    for entry in repo.store.list(names.wal_prefix(cluster, system_identifier)):
        if _kind(entry.name.rpartition("/")[2]) in (WalKind.SEGMENT, WalKind.PARTIAL):
            return walfile.read(repo, entry.name).size
    return DEFAULT_SEGMENT_SIZE


def read_switches(
    repo: Repository, cluster: str, system_identifier: int, timeline: int
) -> tuple[tuple[int, int], ...]:
    """The lines of a stored history file: (timeline, LSN); raises ObjectMissing."""
    file = history_name(timeline)
    name = names.wal_file(cluster, system_identifier, timeline, file)
    return walfile.read(repo, name).switches()


def _kind(file: str) -> WalKind | None:
    """None for what this version does not know: a reader ignores that."""
    try:
        return classify(file).kind
    except NotPostgres:
        return None
