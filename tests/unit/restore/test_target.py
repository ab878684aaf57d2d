"""Which backup and timeline reach a wish, and what is said when nothing does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from pgkeep.catalog.coverage import Coverage, SegmentFact, cover
from pgkeep.errors import PgkeepError, TargetUnreachable, UsageError
from pgkeep.pgformat.walsummary import RestorePoint, TablespaceCreated, WalSummary
from pgkeep.restore.target import Choice, Kind, Target, choose, parse_target

SEGMENT = 1 << 24
NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
EPOCH = datetime(2000, 1, 1, tzinfo=UTC)


def at(segment: float) -> int:
    """An LSN: segment 3.5 is the middle of segment 3."""
    return int(segment * SEGMENT)


def minute(count: float) -> datetime:
    return NOON + timedelta(minutes=count)


def micros(time: datetime) -> int:
    return (time - EPOCH) // timedelta(microseconds=1)


@dataclass(frozen=True)
class Backup:
    """What `choose` needs of a record: from segment `begin` to the next one, on one timeline."""

    id: str
    begin: int
    timeline: int = 1

    @property
    def start_lsn(self) -> int:
        return at(self.begin + 0.25)

    @property
    def stop_lsn(self) -> int:
        return at(self.begin + 1.25)

    @property
    def stop_time(self) -> datetime:
        return minute(self.begin + 1.25)


@dataclass
class World:
    """WAL: segment n has commits from minute n to minute n + 0.9, of xid n × 10 to n × 10 + 9."""

    facts: list[SegmentFact] = field(default_factory=list)
    histories: dict[int, list[tuple[int, int]]] = field(default_factory=dict)
    points: dict[tuple[int, int], list[str]] = field(default_factory=dict)
    spaces: dict[tuple[int, int], str] = field(default_factory=dict)
    unknown: set[tuple[int, int]] = field(default_factory=set)

    def coverage(self) -> Coverage:
        return cover(SEGMENT, self.facts, self.histories)

    def summary(self, timeline: int, number: int) -> WalSummary | None:
        if (timeline, number) in self.unknown:
            return None
        base = at(number)
        names = self.points.get((timeline, number), [])
        space = self.spaces.get((timeline, number))
        return WalSummary(
            records=100,
            first_record=base + 40,
            last_record=base + SEGMENT - 1000,
            end_of_records=base + SEGMENT - 800,
            switched=True,
            unfinished=None,
            first_commit_time=micros(minute(number)),
            last_commit_time=micros(minute(number + 0.9)),
            first_xid=number * 10,
            last_xid=number * 10 + 9,
            restore_points=tuple(
                RestorePoint(base + 500_000 + i, base + 500_100 + i, micros(minute(number)), name)
                for i, name in enumerate(names)
            ),
            tablespaces=(TablespaceCreated(base + 600_000, 17000, space),) if space else (),
        )

    def ends(self, segments: Sequence[tuple[int, int]], xid: int) -> int | None:
        for _, number in segments:
            if number * 10 <= xid < number * 10 + 9:
                return at(number) + 1000 * (xid - number * 10)
        return None


def numbers(timeline: int, first: int, last: int) -> list[SegmentFact]:
    return [SegmentFact(timeline, n) for n in range(first, last + 1)]


BACKUPS = [Backup("old", 2), Backup("new", 8)]


@pytest.fixture
def world() -> World:
    return World(numbers(1, 1, 20))


@pytest.fixture
def forked() -> World:
    """Timeline 2 left timeline 1 in the middle of segment 12; the old primary went on to 20."""
    return World(numbers(1, 1, 20) + numbers(2, 12, 25), {2: [(1, at(12.5))]})


def reach(world: World, wish: Target, backups: Sequence[Any] = BACKUPS, **more: Any) -> Choice:
    return choose(wish, backups, world.coverage(), world, **more)


def refusal(world: World, wish: Target, backups: Sequence[Any] = BACKUPS, **more: Any) -> str:
    with pytest.raises(TargetUnreachable) as caught:
        reach(world, wish, backups, **more)
    return f"{caught.value.message} / {caught.value.hint}"


class TestParse:
    ZONE = ZoneInfo("Europe/Berlin")

    def parse(self, text: str) -> Target:
        return parse_target(text, local_zone=self.ZONE)

    @pytest.mark.parametrize("text", ["latest", "immediate", " latest "])
    def test_words(self, text: str) -> None:
        assert self.parse(text) == Target(Kind(text.strip()))

    @pytest.mark.parametrize("text", ["16/B374D848", "lsn:16/b374d848", "lsn: 16/B374D848"])
    def test_lsns(self, text: str) -> None:
        assert self.parse(text) == Target(Kind.LSN, lsn=0x16_B374D848)

    def test_numbers_are_transactions_with_or_without_an_epoch(self) -> None:
        assert self.parse("731").xid == 731
        assert self.parse(str((5 << 32) + 731)).xid == 731
        assert self.parse("xid:0731").xid == 731

    @pytest.mark.parametrize(
        "text", ["2026-11-23 09:30", "time:2026-11-23T09:30:00", "2026-11-23 08:30:00Z"]
    )
    def test_times_are_local_unless_they_say_otherwise(self, text: str) -> None:
        assert self.parse(text).time == datetime(2026, 11, 23, 8, 30, tzinfo=UTC)

    def test_everything_else_is_a_name(self) -> None:
        assert self.parse("before migration").name == "before migration"
        assert self.parse("name:latest").name == "latest"
        assert self.parse("name:731").name == "731"

    @pytest.mark.parametrize(
        "text",
        [
            *("", "name:", "xid:abc", "xid:2", "0", "lsn:abc", "9" * 30, "n" * 64),
            *("2026-13-45", "2026-10-25 02:30", "2026-03-29 02:30"),
        ],
    )
    def test_nonsense_and_ambiguous_times_are_refused(self, text: str) -> None:
        with pytest.raises(PgkeepError):
            self.parse(text)


class TestSetting:
    def test_a_time_is_written_with_an_explicit_offset(self) -> None:
        berlin = timezone(timedelta(hours=1))
        wish = Target(Kind.TIME, time=datetime(2026, 11, 23, 9, 30, 0, 5, tzinfo=berlin))
        name, value = wish.setting() or ("", "")
        written = datetime.fromisoformat(value)
        assert name == "recovery_target_time"
        assert written.tzinfo is not None
        assert written == wish.time

    def test_the_end_of_the_wal_has_none(self) -> None:
        assert Target(Kind.LATEST).setting() is None
        assert Target(Kind.IMMEDIATE).setting() == ("recovery_target", "immediate")


class TestLatest:
    def test_the_newest_backup_and_no_limit(self, world: World) -> None:
        choice = reach(world, Target(Kind.LATEST))
        assert (choice.record.id, choice.timeline, choice.wal_to) == ("new", 1, None)

    def test_the_newest_timeline_as_a_number(self, forked: World) -> None:
        assert reach(forked, Target(Kind.LATEST)).timeline == 2
        assert reach(forked, Target(Kind.LATEST, timeline="latest")).timeline == 2
        assert reach(forked, Target(Kind.LATEST, timeline="current")).timeline == 1
        assert reach(forked, Target(Kind.LATEST, timeline=1)).timeline == 1

    def test_a_gap_is_not_the_end(self, world: World) -> None:
        world.facts.remove(SegmentFact(1, 15))
        said = refusal(world, Target(Kind.LATEST))
        assert "WAL is missing" in said
        assert "0/F000000 to 0/10000000" in said
        assert "just before 2026-11-23 12:14:54+00:00" in said

    def test_a_gap_before_the_newest_backup_does_not_matter(self, world: World) -> None:
        world.facts.remove(SegmentFact(1, 5))
        assert reach(world, Target(Kind.LATEST)).record.id == "new"
        said = refusal(world, Target(Kind.LATEST), backup="old")
        assert "0/5000000 to 0/6000000" in said

    def test_a_backup_without_its_own_wal_is_passed_over(self, world: World) -> None:
        world.facts = numbers(1, 1, 8)
        assert reach(world, Target(Kind.LATEST)).record.id == "old"

    def test_pausing_at_the_end_is_refused(self, world: World) -> None:
        with pytest.raises(UsageError, match="needs a recovery target"):
            reach(world, Target(Kind.LATEST, action="pause"))

    def test_another_history_is_mentioned(self) -> None:
        world = World(
            numbers(1, 1, 12) + numbers(2, 10, 14) + numbers(3, 11, 15),
            {2: [(1, at(10.5))], 3: [(1, at(11.5))]},
        )
        choice = reach(world, Target(Kind.LATEST))
        assert choice.timeline == 3
        assert "timeline 2 is another history" in choice.cautions[0]


class TestTime:
    def test_the_newest_backup_that_ended_before(self, world: World) -> None:
        for count, backup in [(18.0, "new"), (9.26, "new"), (9.24, "old"), (3.26, "old")]:
            wish = Target(Kind.TIME, time=minute(count))
            assert reach(world, wish).record.id == backup

    def test_before_the_first_backup_the_oldest_moment_is_offered(self, world: World) -> None:
        said = refusal(world, Target(Kind.TIME, time=minute(3)))
        assert "before the end of every backup" in said
        assert "--to '2026-11-23 12:03:16+00:00'" in said
        offered = said.split("--to '")[1].rstrip("'")
        wish = parse_target(offered, local_zone=UTC)
        assert reach(world, wish).record.id == "old"

    def test_after_the_last_commit_latest_is_offered(self, world: World) -> None:
        said = refusal(world, Target(Kind.TIME, time=minute(20.9)))
        assert "--to latest" in said
        assert "just before 2026-11-23 12:20:54+00:00" in said

    def test_exclusive_reaches_the_last_commit_itself(self, world: World) -> None:
        wish = Target(Kind.TIME, time=minute(20.9), inclusive=False)
        assert reach(world, wish).record.id == "new"

    def test_in_a_gap(self, world: World) -> None:
        world.facts.remove(SegmentFact(1, 15))
        assert reach(world, Target(Kind.TIME, time=minute(14))).record.id == "new"
        said = refusal(world, Target(Kind.TIME, time=minute(15.5)))
        assert "WAL is missing" in said
        assert "just before 2026-11-23 12:14:54" in said

    def test_a_forced_backup_that_is_too_new_is_refused(self, world: World) -> None:
        wish = Target(Kind.TIME, time=minute(5))
        assert "before the end of every backup" in refusal(world, wish, backup="new")

    def test_the_other_timeline_is_named(self, forked: World) -> None:
        said = refusal(forked, Target(Kind.TIME, time=minute(24), timeline=1))
        assert "timeline 2 reaches it (--timeline 2)" in said

    def test_wal_without_a_note_is_a_caution(self, world: World) -> None:
        world.unknown = {(1, n) for n in range(1, 21)}
        choice = reach(world, Target(Kind.TIME, time=minute(18)))
        assert "nobody can tell" in choice.cautions[0]


class TestLsn:
    def test_the_newest_backup_before_it(self, world: World) -> None:
        for segment, backup in [(18, "new"), (9.25, "new"), (9.2, "old")]:
            choice = reach(world, Target(Kind.LSN, lsn=at(segment)))
            assert (choice.record.id, choice.wal_to) == (backup, at(segment))

    def test_beyond_the_last_record_is_refused(self, world: World) -> None:
        last = at(21) - 1000
        assert reach(world, Target(Kind.LSN, lsn=last)).record.id == "new"
        assert "--to latest" in refusal(world, Target(Kind.LSN, lsn=last + 8))

    def test_before_the_first_backup(self, world: World) -> None:
        assert "LSN 0/3400000" in refusal(world, Target(Kind.LSN, lsn=at(3)))


class TestXidAndName:
    def test_a_transaction_is_found_by_its_end(self, world: World) -> None:
        choice = reach(world, Target(Kind.XID, xid=155))
        assert (choice.record.id, choice.wal_to) == ("new", at(15) + 5000)
        assert reach(world, Target(Kind.XID, xid=55)).record.id == "old"

    def test_a_transaction_that_never_ended_is_refused(self, world: World) -> None:
        said = refusal(world, Target(Kind.XID, xid=159))
        assert "transaction 159 does not end" in said

    def test_a_restore_point_needs_a_backup_before_it(self, world: World) -> None:
        world.points = {(1, 5): ["before"], (1, 15): ["after"]}
        assert reach(world, Target(Kind.NAME, name="before")).record.id == "old"
        assert reach(world, Target(Kind.NAME, name="after")).record.id == "new"

    def test_known_restore_points_are_listed_newest_first(self, world: World) -> None:
        world.points = {(1, 5): ["a", "b"], (1, 15): ["c"]}
        assert "restore points: c, b, a" in refusal(world, Target(Kind.NAME, name="d"))
        world.points = {}
        assert "there is none at all" in refusal(world, Target(Kind.NAME, name="d"))


class TestImmediate:
    def test_only_the_backups_own_wal_is_needed(self, world: World) -> None:
        world.facts = numbers(1, 8, 9)
        choice = reach(world, Target(Kind.IMMEDIATE))
        assert (choice.record.id, choice.wal_to) == ("new", at(9.25))

    def test_its_own_timeline_although_a_newer_one_exists(self, forked: World) -> None:
        assert reach(forked, Target(Kind.IMMEDIATE)).timeline == 1

    def test_without_that_wal_it_is_refused(self, world: World) -> None:
        world.facts = numbers(1, 1, 8)
        assert reach(world, Target(Kind.IMMEDIATE)).record.id == "old"
        said = refusal(world, Target(Kind.IMMEDIATE), backup="new")
        assert "backup new consistent is not in the repository" in said


class TestUnknown:
    def test_no_backup(self, world: World) -> None:
        assert "there is no backup yet" in refusal(world, Target(Kind.LATEST), [])

    def test_no_such_backup_lists_those_there(self, world: World) -> None:
        with pytest.raises(UsageError) as caught:
            reach(world, Target(Kind.LATEST), backup="x")
        assert caught.value.hint == "there are new, old"

    def test_no_such_timeline(self, forked: World) -> None:
        with pytest.raises(UsageError) as caught:
            reach(forked, Target(Kind.LATEST, timeline=9))
        assert caught.value.hint == "there is timeline 1, 2"

    def test_a_timeline_that_no_backup_leads_onto(self, forked: World) -> None:
        backups = [Backup("late", 14)]
        said = refusal(forked, Target(Kind.LATEST, timeline=2), backups)
        assert "no backup leads onto timeline 2" in said
        assert "timeline 1" in said


def test_tablespaces_that_replay_would_make_are_told(world: World) -> None:
    world.spaces = {(1, 5): "/srv/old", (1, 15): "/srv/new"}
    assert reach(world, Target(Kind.LATEST)).creates == ("/srv/new",)
    assert reach(world, Target(Kind.LATEST), backup="old").creates == ("/srv/new", "/srv/old")
