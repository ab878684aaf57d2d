"""Looks at WAL: what makes each backup consistent, and deep, every file that is stored."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

from pgkeep.catalog import reach, walfile
from pgkeep.catalog.coverage import Coverage
from pgkeep.catalog.inventory import read_coverage
from pgkeep.catalog.records import Record
from pgkeep.codec.container import Kind
from pgkeep.errors import NotPostgres, PgkeepError
from pgkeep.pgformat.walname import SegmentName, WalKind, classify, parse_segment
from pgkeep.repo import names
from pgkeep.repo.objects import get_object
from pgkeep.repo.repository import Repository
from pgkeep.verify.findings import Ledger, Problem, demand_store

PUSH_AGAIN = (
    "while the server or a standby still has the file, delete the object and push it again "
    "(pgkeep wal push PATH); else make a new backup: those before can't be recovered past it"
)
_ABSENT = (
    "push it while the server or a standby still has it (pgkeep wal push PATH); "
    "else make a new backup and expire this one, which can't be restored"
)


class WalChecker:
    """The WAL of one system identifier, for the backups that belong to it."""

    def __init__(
        self, repo: Repository, cluster: str, records: Sequence[Record], ledger: Ledger
    ) -> None:
        self._repo = repo
        self._cluster = cluster
        self._records = records
        self._ledger = ledger
        self._system = records[0].system_identifier
        self._size = records[0].segment_size
        self._coverage: Coverage | None = None

    def check_needed(self) -> int:
        """Looks at the footers of what makes the backups consistent; returns how many files."""
        key = ("wal", self._system)
        for record in self._records:
            self._ledger.needs(record.id, key)
        listing = names.wal_prefix(self._cluster, self._system)
        self._coverage = self._ledger.attempt(key, listing, self._read_coverage)
        if self._coverage is None:
            return 0
        looked: set[str] = set()
        for record in self._records:
            looked.update(self._check_record(record, self._coverage))
        return len(looked)

    def stored(self, *, all_files: bool) -> list[str]:
        """Every WAL file of this system identifier, or those that the backups may need."""
        listed = self._repo.store.list(names.wal_prefix(self._cluster, self._system))
        known = [e.name for e in listed if _kind(e.name.rpartition("/")[2]) is not None]
        return known if all_files else [name for name in known if self._may_be_needed(name)]

    def look(self, name: str) -> Problem | None:
        """Reads a file whole and compares it with its footer."""
        try:
            found = get_object(self._repo, Kind.WAL, name)
            said = walfile.decode(found.meta, name)
        except PgkeepError as error:
            demand_store(self._repo.store, error)
            return Problem(name, error.message, PUSH_AGAIN)
        right = (said.size, said.sha256) == (len(found.raw), hashlib.sha256(found.raw).hexdigest())
        return None if right else Problem(name, "it is not the file that was pushed", PUSH_AGAIN)

    def note(self, problem: Problem) -> None:
        """Notes what `look` found, for all backups whose recovery may come by there."""
        key = ("wal file", problem.object)
        for record in self._records:
            if self._may_need(record, problem.object):
                self._ledger.needs(record.id, key)
        self._ledger.note(key, problem)

    def _read_coverage(self) -> Coverage:
        return read_coverage(self._repo, self._cluster, self._system, segment_size=self._size)

    def _check_record(self, record: Record, coverage: Coverage) -> Iterator[str]:
        here = reach.window(record, coverage, record.timeline)
        key = ("wal of", record.id)
        self._ledger.needs(record.id, key)
        if not here.restorable:
            number = coverage.number(here.route.end)
            timeline = here.missing.timeline if here.missing else record.timeline
            name = self._name(timeline, min(here.missing.first, number) if here.missing else number)
            what = f"it is not stored, and without it backup {record.id} is not consistent"
            self._ledger.note(key, Problem(name, what, _ABSENT))
        needed = coverage.needed(record.start_lsn, record.stop_lsn)
        for timeline, number in here.route.segments():
            if number > needed.last or not coverage.has(timeline, number):
                break
            yield self._check_footer(record, self._name(timeline, number))

    def _check_footer(self, record: Record, name: str) -> str:
        key = ("wal file", name)
        if self._ledger.needs(record.id, key):
            self._ledger.attempt(key, name, lambda: walfile.read(self._repo, name), hint=PUSH_AGAIN)
        return name

    def _name(self, timeline: int, number: int) -> str:
        file = SegmentName(timeline, number).name(self._size)
        return names.wal_file(self._cluster, self._system, timeline, file)

    def _may_be_needed(self, name: str) -> bool:
        return any(self._may_need(record, name) for record in self._records)

    def _may_need(self, record: Record, name: str) -> bool:
        file = name.rpartition("/")[2]
        found = classify(file)
        known = self._coverage is not None and self._coverage.descends(
            found.timeline, record.timeline, record.stop_lsn
        )
        if found.kind is WalKind.HISTORY:
            return known
        if found.kind is WalKind.BACKUP:
            return False
        segment = parse_segment(file[:24], self._size)
        after = segment.end(self._size) > record.start_lsn
        return after and (known or found.timeline in (record.timeline, record.start_timeline))


def _kind(file: str) -> WalKind | None:
    """None for what this version does not know: a reader ignores that."""
    try:
        return classify(file).kind
    except NotPostgres:
        return None
