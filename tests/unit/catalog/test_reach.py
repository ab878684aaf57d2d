"""Which targets can be reached, with WAL contents that are made up here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import pytest

from pgkeep.catalog import reach
from pgkeep.catalog.coverage import Coverage, Gap, SegmentFact, cover
from pgkeep.catalog.reach import Side, Window
from pgkeep.pgformat.walsummary import RestorePoint, TablespaceCreated, WalSummary

SIZE = 0x1000
NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
PG_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)


def lsn(number: float) -> int:
    return int(number * SIZE)


def at(minutes: float) -> datetime:
    return NOON + timedelta(minutes=minutes)


def micros(time: datetime) -> int:
    return (time - PG_EPOCH) // timedelta(microseconds=1)


def summary(number: int, **changes: object) -> WalSummary:
    """A segment full of records without commits, the last one beginning 64 bytes before its end."""
    plain = WalSummary(
        records=60,
        first_record=lsn(number) + 40,
        last_record=lsn(number + 1) - 64,
        end_of_records=lsn(number + 1),
        switched=False,
        unfinished=None,
        first_commit_time=None,
        last_commit_time=None,
        first_xid=None,
        last_xid=None,
        restore_points=(),
        tablespaces=(),
    )
    return replace(plain, **changes)  # type: ignore[arg-type]


def commits(number: int, first: datetime, last: datetime, **changes: object) -> WalSummary:
    return summary(
        number, first_commit_time=micros(first), last_commit_time=micros(last), **changes
    )


@dataclass(frozen=True)
class FakeBackup:
    id: str = "b"
    timeline: int = 1
    start_lsn: int = lsn(3.25)
    stop_lsn: int = lsn(4.5)
    stop_time: datetime = NOON


@dataclass
class FakeContents:
    summaries: dict[tuple[int, int], WalSummary] = field(default_factory=dict)
    xids: dict[tuple[int, int], dict[int, int]] = field(default_factory=dict)
    asked: list[tuple[int, int]] = field(default_factory=list)

    def summary(self, timeline: int, number: int) -> WalSummary | None:
        self.asked.append((timeline, number))
        return self.summaries.get((timeline, number))

    def ends(self, segments: Sequence[tuple[int, int]], xid: int) -> int | None:
        return next((self.xids[s][xid] for s in segments if xid in self.xids.get(s, {})), None)


def wal(*numbers: int, timeline: int = 1) -> list[SegmentFact]:
    return [SegmentFact(timeline, number) for number in numbers]


@pytest.fixture
def coverage() -> Coverage:
    return cover(SIZE, wal(3, 4, 5, 6, 7), {})


@pytest.fixture
def contents() -> FakeContents:
    """Commits at 12:01 to 12:05, one at 12:09 in the middle of segment 6, and 7 is idle."""
    return FakeContents(
        {
            (1, 3): commits(3, at(-9), at(-5)),
            (1, 4): commits(4, at(-4), at(1)),
            (1, 5): commits(5, at(1), at(9)),
            (1, 6): commits(6, at(2), at(5)),
            (1, 7): summary(7),
        }
    )


def test_window_of_a_backup_with_all_its_wal(coverage: Coverage, contents: FakeContents) -> None:
    (found,) = reach.windows([FakeBackup()], coverage, contents)
    assert found.restorable
    assert (found.from_lsn, found.to_lsn) == (lsn(4.5), lsn(8))
    assert (found.from_time, found.to_time) == (NOON, at(5))


def test_window_without_contents_has_no_last_commit(coverage: Coverage) -> None:
    (found,) = reach.windows([FakeBackup()], coverage)
    assert found.restorable
    assert found.to_time is None


def test_window_is_not_restorable_when_wal_up_to_its_stop_is_missing() -> None:
    (found,) = reach.windows([FakeBackup()], cover(SIZE, wal(3, 5, 6), {}))
    assert not found.restorable
    assert found.missing == Gap(1, 4, 4)
    (nothing,) = reach.windows([FakeBackup()], cover(SIZE, [], {}))
    assert not nothing.restorable


def test_window_ends_at_a_gap_after_the_backup() -> None:
    (found,) = reach.windows([FakeBackup()], cover(SIZE, wal(3, 4, 6), {}))
    assert found.restorable
    assert found.to_lsn == lsn(5)
    assert found.missing == Gap(1, 5, 5)


def test_a_stop_at_the_very_end_of_a_segment_needs_no_further_one() -> None:
    backup = FakeBackup(stop_lsn=lsn(5))
    assert reach.windows([backup], cover(SIZE, wal(3, 4), {}))[0].restorable


def test_a_partial_counts_as_far_as_its_records_go() -> None:
    coverage = cover(SIZE, [*wal(3), SegmentFact(1, 4, partial=True)], {})
    holds = FakeContents({(1, 4): summary(4, end_of_records=lsn(4.5))})
    lacks = FakeContents({(1, 4): summary(4, end_of_records=lsn(4.5) - 8)})
    assert reach.windows([FakeBackup()], coverage, holds)[0].restorable
    assert not reach.windows([FakeBackup()], coverage, lacks)[0].restorable


def test_windows_on_every_timeline_that_goes_through_the_backups_end() -> None:
    histories = {2: [(1, lsn(5.5))], 3: [(1, lsn(4.25))]}
    facts = wal(3, 4, 5, 6) + wal(5, 6, 7, timeline=2) + wal(4, 5, timeline=3)
    found = reach.windows([FakeBackup()], cover(SIZE, facts, histories))
    assert [(w.timeline, w.to_lsn) for w in found] == [(1, lsn(7)), (2, lsn(8))]


def ask_time(minutes: float, coverage: Coverage, contents: FakeContents) -> reach.Answer:
    return reach.time_target(at(minutes), FakeBackup(), coverage, 1, contents)


@pytest.mark.parametrize(
    ("minutes", "side"),
    [(-0.1, Side.BEFORE), (0, Side.WITHIN), (4.9, Side.WITHIN), (8.9, Side.WITHIN)],
)
def test_time_is_reached_by_any_later_commit(
    minutes: float, side: Side, coverage: Coverage, contents: FakeContents
) -> None:
    assert ask_time(minutes, coverage, contents).side is side


def test_time_after_the_last_commit_names_the_nearest_moments(
    coverage: Coverage, contents: FakeContents
) -> None:
    answer = ask_time(9, coverage, contents)
    assert answer.side is Side.AFTER
    assert not answer.reachable
    assert answer.earliest_time == NOON
    assert answer.latest_time == at(5)
    assert answer.latest_lsn == lsn(8)


def test_a_commit_at_the_very_time_stops_only_an_exclusive_target(
    coverage: Coverage, contents: FakeContents
) -> None:
    answer = reach.time_target(at(9), FakeBackup(), coverage, 1, contents, inclusive=False)
    assert answer.side is Side.WITHIN


def test_time_search_starts_at_the_end(coverage: Coverage, contents: FakeContents) -> None:
    reach.time_target(at(4), FakeBackup(), coverage, 1, contents)
    assert (1, 3) not in contents.asked


def test_commits_before_the_backups_end_do_not_reach_a_time(coverage: Coverage) -> None:
    late_clock = FakeContents({(1, n): summary(n) for n in range(4, 8)})
    late_clock.summaries[1, 3] = commits(3, at(1), at(30))
    assert ask_time(10, coverage, late_clock).side is Side.AFTER


def test_wal_without_summary_is_unknown(coverage: Coverage, contents: FakeContents) -> None:
    del contents.summaries[1, 7]
    assert ask_time(20, coverage, contents).side is Side.UNKNOWN
    assert ask_time(4, coverage, contents).side is Side.WITHIN


def test_a_commit_on_the_last_border_leaves_it_open(
    coverage: Coverage, contents: FakeContents
) -> None:
    contents.summaries[1, 6] = replace(contents.summaries[1, 6], unfinished_xid=900)
    assert ask_time(20, coverage, contents).side is Side.UNKNOWN
    contents.summaries[1, 7] = commits(7, at(6), at(6))
    assert ask_time(20, coverage, contents).side is Side.AFTER
    contents.summaries[1, 7] = replace(contents.summaries[1, 7], unfinished_xid=901)
    assert ask_time(20, coverage, contents).side is Side.AFTER


def test_a_parents_commits_after_the_fork_reach_no_time(contents: FakeContents) -> None:
    coverage = cover(SIZE, wal(3, 4, 5, 6, 7), {2: [(1, lsn(5.5))]})
    answer = reach.time_target(at(5), FakeBackup(), coverage, 2, contents)
    assert answer.side is Side.AFTER
    assert answer.latest_lsn == lsn(5.5)


@pytest.mark.parametrize(
    ("target", "side"),
    [
        (lsn(4.5) - 8, Side.BEFORE),
        (lsn(4.5), Side.WITHIN),
        (lsn(8) - 64, Side.WITHIN),
        (lsn(8) - 56, Side.AFTER),
        (lsn(8), Side.AFTER),
    ],
)
def test_lsn_needs_a_record_that_begins_there_or_later(
    target: int, side: Side, coverage: Coverage, contents: FakeContents
) -> None:
    assert reach.lsn_target(target, FakeBackup(), coverage, 1, contents).side is side


def test_a_record_over_the_end_of_a_segment_counts_when_the_next_is_there(
    coverage: Coverage, contents: FakeContents
) -> None:
    contents.summaries[1, 6] = summary(6, unfinished=lsn(7) - 8)
    contents.summaries[1, 7] = summary(7, last_record=None, end_of_records=lsn(7))
    target = lsn(7) - 8
    assert reach.lsn_target(target, FakeBackup(), coverage, 1, contents).side is Side.WITHIN
    shorter = cover(SIZE, wal(3, 4, 5, 6), {})
    assert reach.lsn_target(target, FakeBackup(), shorter, 1, contents).side is Side.AFTER


def test_lsn_in_an_idle_end_is_after_it(coverage: Coverage, contents: FakeContents) -> None:
    contents.summaries[1, 7] = summary(7, last_record=lsn(7.25), end_of_records=lsn(7.25) + 64)
    answer = reach.lsn_target(lsn(7.5), FakeBackup(), coverage, 1, contents)
    assert answer.side is Side.AFTER
    assert answer.latest_lsn == lsn(7.25) + 64


def test_without_the_backups_own_wal_every_target_is_after_the_end(contents: FakeContents) -> None:
    coverage = cover(SIZE, wal(3), {})
    assert ask_time(1, coverage, contents).side is Side.AFTER
    target = lsn(5)
    assert reach.lsn_target(target, FakeBackup(), coverage, 1, contents).side is Side.AFTER


def test_xid(coverage: Coverage, contents: FakeContents) -> None:
    contents.summaries[1, 5] = commits(5, at(1), at(2), first_xid=700, last_xid=800)
    contents.xids[1, 5] = {750: lsn(5.5)}
    contents.summaries[1, 3] = commits(3, at(-2), at(-1), first_xid=600, last_xid=650)
    contents.xids[1, 3] = {620: lsn(3.5)}

    def ask(xid: int) -> reach.Answer:
        return reach.xid_target(xid, FakeBackup(), coverage, 1, contents)

    assert ask(750).side is Side.WITHIN
    assert ask(750).found_lsn == lsn(5.5)
    assert ask(751).side is Side.ABSENT
    assert ask(620).side is Side.BEFORE
    assert ask(9000).side is Side.ABSENT


def point(name: str, place: float) -> RestorePoint:
    return RestorePoint(lsn(place), lsn(place) + 104, micros(NOON), name)


def test_the_first_restore_point_of_a_name_counts(
    coverage: Coverage, contents: FakeContents
) -> None:
    contents.summaries[1, 4] = summary(4, restore_points=(point("twice", 4.25),))
    contents.summaries[1, 5] = summary(5, restore_points=(point("once", 5.25), point("twice", 5.5)))

    def ask(name: str) -> reach.Answer:
        return reach.name_target(name, FakeBackup(), coverage, 1, contents)

    assert ask("once").side is Side.WITHIN
    assert ask("once").found_lsn == lsn(5.25) + 104
    assert ask("twice").side is Side.BEFORE
    assert ask("never").side is Side.ABSENT


def test_a_restore_point_after_the_fork_is_not_on_the_way(contents: FakeContents) -> None:
    contents.summaries[1, 5] = summary(5, restore_points=(point("late", 5.75),))
    coverage = cover(SIZE, wal(3, 4, 5), {2: [(1, lsn(5.5))]})
    assert reach.name_target("late", FakeBackup(), coverage, 2, contents).side is Side.ABSENT
    assert reach.name_target("late", FakeBackup(), coverage, 1, contents).side is Side.WITHIN


def test_tablespaces_that_replay_would_create(coverage: Coverage, contents: FakeContents) -> None:
    contents.summaries[1, 3] = summary(
        3,
        tablespaces=(TablespaceCreated(lsn(3.1), 1, "/old"), TablespaceCreated(lsn(3.5), 2, "/a")),
    )
    contents.summaries[1, 6] = summary(6, tablespaces=(TablespaceCreated(lsn(6.1), 3, ""),))
    route = coverage.route(1, FakeBackup().start_lsn)
    assert reach.tablespaces(route, contents) == ["/a"]


def test_window_is_a_value(coverage: Coverage) -> None:
    first, second = (reach.windows([FakeBackup()], coverage)[0] for _ in range(2))
    assert isinstance(first, Window)
    assert first == second
