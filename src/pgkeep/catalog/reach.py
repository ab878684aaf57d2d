"""Which moments backups and WAL together can bring back. Pure: WAL contents come from a callback.

What stops recovery is in src/backend/access/transam/xlogrecovery.c, `recoveryStopsBefore` and
`recoveryStopsAfter`: a time is reached only by a commit or abort later than it, an LSN only by a
record that begins there or later, an xid only by its own end, a name by the first restore point of
that name. PostgreSQL fails at the end of the WAL when none came, and it fails when the target comes
before the backup's own end. So the answers here tell these two apart.

A record that runs over the end of a segment is in no summary. For LSNs and xids that does no harm,
since the summary says where it begins and whose end it may be; for a time the last such record
makes the answer uncertain; a restore point that does so is not found.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Protocol

from pgkeep.catalog.coverage import Coverage, Gap, Route, Run
from pgkeep.pgformat.walsummary import WalSummary

_POSTGRES_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)


class Backup(Protocol):
    """What of a record is needed here."""

    @property
    def id(self) -> str: ...
    @property
    def timeline(self) -> int: ...
    @property
    def start_lsn(self) -> int: ...
    @property
    def stop_lsn(self) -> int: ...
    @property
    def stop_time(self) -> datetime: ...


class Contents(Protocol):
    """What is inside stored WAL files."""

    def summary(self, timeline: int, number: int) -> WalSummary | None:
        """The summary made when the file was archived; None when there is none."""

    def ends(self, segments: Sequence[tuple[int, int]], xid: int) -> int | None:
        """The LSN of the record that ends `xid` in these consecutive segments, read whole."""


@dataclass(frozen=True)
class Window:
    """The moments that one backup can be recovered to along one timeline.

    `restorable`: the WAL that makes the backup consistent is there; if not, `to_lsn` and `to_time`
    say nothing. `to_time` is the time of the last commit or abort, None when none came after the
    backup. `missing` is the WAL that would have to be there for the window to go on.
    """

    backup_id: str
    timeline: int
    from_lsn: int
    to_lsn: int
    from_time: datetime
    to_time: datetime | None
    restorable: bool
    missing: Gap | None
    route: Route


class Side(Enum):
    """Where a target lies."""

    WITHIN = "within"
    BEFORE = "before"
    """Before the end of the backup: an older backup may reach it."""
    AFTER = "after"
    """After the end of the WAL that is stored."""
    ABSENT = "absent"
    """No such transaction or restore point in the WAL that is stored."""
    UNKNOWN = "unknown"
    """Some WAL has no summary, so it can't be told."""


@dataclass(frozen=True)
class Answer:
    """Whether a target can be reached, and the nearest moments that can."""

    side: Side
    earliest_lsn: int
    latest_lsn: int
    earliest_time: datetime
    latest_time: datetime | None
    found_lsn: int | None = None

    @property
    def reachable(self) -> bool:
        return self.side is Side.WITHIN


def windows(
    backups: Iterable[Backup], coverage: Coverage, contents: Contents | None = None
) -> list[Window]:
    """A window for each backup and each timeline that its WAL can lead along.

    Without `contents` the times of the last commits stay None and ends are whole segments'.
    """
    found = []
    for backup in backups:
        onto = {t for t in coverage.timelines if _leads(coverage, backup, t)} | {backup.timeline}
        found += [window(backup, coverage, t, contents) for t in sorted(onto)]
    return found


def window(
    backup: Backup, coverage: Coverage, timeline: int, contents: Contents | None = None
) -> Window:
    """What `backup` reaches along `timeline`, which must lead through the backup's end."""
    route = coverage.route(timeline, backup.start_lsn)
    end = _end(route, contents)
    restorable = end >= backup.stop_lsn
    return Window(
        backup.id,
        timeline,
        backup.stop_lsn,
        max(end, backup.stop_lsn),
        backup.stop_time,
        _latest_time(route, backup, coverage, contents) if restorable and contents else None,
        restorable,
        route.missing,
        route,
    )


def time_target(
    target: datetime,
    backup: Backup,
    coverage: Coverage,
    timeline: int,
    contents: Contents,
    *,
    inclusive: bool = True,
) -> Answer:
    """Whether recovery of `backup` along `timeline` would stop at a time.

    Times of commits don't always rise along the WAL, so summaries are read from the end backwards
    until a commit later than the target is found. `target` must carry a zone.
    """
    here = window(backup, coverage, timeline, None)
    wanted = _microseconds(target)
    if target < backup.stop_time:
        return _answer(Side.BEFORE, here, backup, coverage, contents)
    if not here.restorable:
        return _answer(Side.AFTER, here, backup, coverage, contents)
    unknown = seen = False
    newest = True
    for place in _replayed_backwards(here.route, backup, coverage):
        summary = contents.summary(*place)
        if summary is None:
            unknown = True
            continue
        if not seen and not newest and summary.unfinished_xid is not None:
            # The last commit of all may lie on the border and be in no summary.
            unknown = True
        newest = False
        last = summary.last_commit_time
        if last is None:
            continue
        seen = True
        if last > wanted or (not inclusive and last == wanted):
            return _answer(Side.WITHIN, here, backup, coverage, contents)
    side = Side.UNKNOWN if unknown else Side.AFTER
    return _answer(side, here, backup, coverage, contents)


def lsn_target(
    target: int, backup: Backup, coverage: Coverage, timeline: int, contents: Contents
) -> Answer:
    """Whether a record begins at `target` or later on the way."""
    here = window(backup, coverage, timeline, None)
    if target < backup.stop_lsn:
        return _answer(Side.BEFORE, here, backup, coverage, contents)
    if not here.restorable:
        return _answer(Side.AFTER, here, backup, coverage, contents)
    last = _last_record(here.route, contents)
    if last is None:
        side = Side.UNKNOWN if target < here.to_lsn else Side.AFTER
    else:
        side = Side.WITHIN if target <= last else Side.AFTER
    return _answer(side, here, backup, coverage, contents)


def xid_target(
    target: int, backup: Backup, coverage: Coverage, timeline: int, contents: Contents
) -> Answer:
    """Whether the top-level transaction `target` commits or aborts on the way."""
    here = window(backup, coverage, timeline, None)
    places = list(here.route.segments())
    unknown = False
    for index, place in enumerate(places):
        summary = contents.summary(*place)
        unknown = unknown or summary is None
        if summary is not None and not summary.may_end(target):
            continue
        lsn = contents.ends(places[index : index + 2], target)
        if lsn is not None and lsn < _limit(here.route, contents):
            return _found(lsn, here, backup, coverage, contents)
    return _answer(Side.UNKNOWN if unknown else Side.ABSENT, here, backup, coverage, contents)


def name_target(
    target: str, backup: Backup, coverage: Coverage, timeline: int, contents: Contents
) -> Answer:
    """Whether a restore point of that name is on the way; the first one counts."""
    here = window(backup, coverage, timeline, None)
    unknown = False
    for place in here.route.segments():
        summary = contents.summary(*place)
        if summary is None:
            unknown = True
            continue
        for point in summary.restore_points:
            starts_here = backup.start_lsn <= point.lsn < _limit(here.route, contents)
            if point.name == target and starts_here:
                return _found(point.end_lsn, here, backup, coverage, contents)
    return _answer(Side.UNKNOWN if unknown else Side.ABSENT, here, backup, coverage, contents)


def tablespaces(route: Route, contents: Contents) -> list[str]:
    """Absolute paths of the tablespaces that replaying the route would create."""
    paths = []
    for place in route.segments():
        summary = contents.summary(*place)
        if summary is not None:
            paths += [t.path for t in summary.tablespaces if t.path and t.lsn >= route.start]
    return paths


def datetime_of(microseconds: int) -> datetime:
    """A time of PostgreSQL's WAL (microseconds since 2000-01-01 UTC)."""
    return _POSTGRES_EPOCH + timedelta(microseconds=microseconds)


def _microseconds(time: datetime) -> int:
    return (time - _POSTGRES_EPOCH) // timedelta(microseconds=1)


def _leads(coverage: Coverage, backup: Backup, timeline: int) -> bool:
    return coverage.descends(timeline, backup.timeline, backup.stop_lsn)


def _end(route: Route, contents: Contents | None) -> int:
    """The LSN up to which there is WAL: what whole segments say, or what the last one holds."""
    last = route.runs[-1] if route.runs else None
    if last is None or contents is None or last.cut is not None:
        return route.end
    summary = contents.summary(last.timeline, last.last)
    if summary is None or summary.switched or (summary.unfinished and not last.partial):
        return route.end
    return max(route.start, summary.end_of_records)


def _limit(route: Route, contents: Contents) -> int:
    """Records from here on are not replayed."""
    return max(_end(route, contents), route.end)


def _replayed_backwards(
    route: Route, backup: Backup, coverage: Coverage
) -> Iterable[tuple[int, int]]:
    """Segments after the backup's end, the newest first, that belong to the route whole.

    The segment before a fork holds commits of another history after the cut, so its summary proves
    nothing: it is left out, and a commit in it is found late rather than wrongly.
    """
    first = coverage.number(backup.stop_lsn)
    cut = {(run.timeline, run.last) for run in route.runs if run.cut is not None}
    return (p for p in route.segments_backwards() if p[1] >= first and p not in cut)


def _latest_time(
    route: Route, backup: Backup, coverage: Coverage, contents: Contents
) -> datetime | None:
    for place in _replayed_backwards(route, backup, coverage):
        summary = contents.summary(*place)
        if summary is not None and summary.last_commit_time is not None:
            found = datetime_of(summary.last_commit_time)
            return found if found > backup.stop_time else None
    return None


def _last_record(route: Route, contents: Contents) -> int | None:
    """Where the last complete record of a route begins; None when that can't be told."""
    following: Run | None = None
    for run in reversed(route.runs):
        for number in range(run.last, run.first - 1, -1):
            summary = contents.summary(run.timeline, number)
            if summary is None:
                return None
            continued = number < run.last or following is not None
            if summary.unfinished is not None and continued:
                return summary.unfinished
            if summary.last_record is not None:
                inside = run.cut is None or summary.last_record < run.cut
                return summary.last_record if inside else None
        following = run
    return None


def _found(
    lsn: int, here: Window, backup: Backup, coverage: Coverage, contents: Contents
) -> Answer:
    side = Side.WITHIN if lsn >= backup.stop_lsn and here.restorable else Side.BEFORE
    return _answer(side, here, backup, coverage, contents, lsn)


def _answer(
    side: Side,
    here: Window,
    backup: Backup,
    coverage: Coverage,
    contents: Contents,
    found_lsn: int | None = None,
) -> Answer:
    return Answer(
        side,
        backup.stop_lsn,
        max(_end(here.route, contents), backup.stop_lsn),
        backup.stop_time,
        _latest_time(here.route, backup, coverage, contents) if here.restorable else None,
        found_lsn,
    )
