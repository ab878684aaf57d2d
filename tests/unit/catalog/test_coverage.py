"""Stretches, gaps and routes over WAL files that are only names here."""

from __future__ import annotations

import random

import pytest

from pgkeep.catalog.coverage import (
    Coverage,
    Fork,
    Gap,
    Route,
    Run,
    SegmentFact,
    Span,
    Stretch,
    cover,
    lineage,
)

SIZE = 0x1000


def stored(**timelines: str) -> list[SegmentFact]:
    """`t1="3-5 7 9p"`: timeline 1 has segments 3 to 5, 7, and 9 as a partial file."""
    facts = []
    for name, text in timelines.items():
        for part in text.split():
            partial = part.endswith("p")
            first, _, last = part.rstrip("p").partition("-")
            for number in range(int(first), int(last or first) + 1):
                facts.append(SegmentFact(int(name[1:]), number, partial))
    return facts


def covered(
    histories: dict[int, list[tuple[int, int]]] | None = None, **timelines: str
) -> Coverage:
    return cover(SIZE, stored(**timelines), histories or {})


def lsn(number: float) -> int:
    return int(number * SIZE)


def test_stretches_and_gaps_do_not_depend_on_order() -> None:
    facts = stored(t1="3-5 7 9-10")
    random.Random(1).shuffle(facts)
    one = cover(SIZE, facts + facts[:2], {}).timelines[1]
    assert one.stretches == (Stretch(3, 5), Stretch(7, 7), Stretch(9, 10))
    assert one.gaps == (Gap(1, 6, 6), Gap(1, 8, 8))
    assert one.newest == 10


def test_a_partial_beside_its_whole_segment_does_not_count() -> None:
    one = covered(t1="3-5 5p").timelines[1]
    assert one.partials == ()
    assert one.newest == 5


@pytest.mark.parametrize(
    ("after", "whole", "either"),
    [(2, 3, 3), (3, 4, 4), (5, 7, 6), (7, None, 8), (8, None, None), (0, 3, 3)],
)
def test_next(after: int, whole: int | None, either: int | None) -> None:
    one = covered(t1="3-5 6p 7 8p").timelines[1]
    assert one.next_whole(after) == whole
    assert one.next_any(after) == either


def test_needed_is_up_to_the_last_byte_before_the_stop() -> None:
    coverage = covered(t1="1")
    assert coverage.needed(lsn(1.5), lsn(3)) == Stretch(1, 2)
    assert coverage.needed(lsn(1.5), lsn(3) + 8) == Stretch(1, 3)
    assert coverage.needed(lsn(1), lsn(1)) == Stretch(1, 1)


def test_lineage_and_forks() -> None:
    assert lineage(3, [(1, lsn(2)), (2, lsn(4))]) == (
        Span(1, 0, lsn(2)),
        Span(2, lsn(2), lsn(4)),
        Span(3, lsn(4), None),
    )
    coverage = covered({2: [(1, lsn(2))], 3: [(1, lsn(2)), (2, lsn(4))]}, t1="1-9")
    assert coverage.forks == (Fork(2, 1, lsn(2)), Fork(3, 2, lsn(4)))


def test_descends_only_when_the_fork_is_not_before_the_lsn() -> None:
    coverage = covered({2: [(1, lsn(2.5))]}, t1="1-9", t2="2-3")
    assert coverage.descends(2, 1, lsn(2.5))
    assert not coverage.descends(2, 1, lsn(2.5) + 8)
    assert coverage.descends(2, 2, lsn(99))
    assert coverage.descends(1, 1, lsn(99))
    assert not coverage.descends(1, 2, lsn(1))
    assert not coverage.descends(7, 1, lsn(1))


def test_route_on_one_timeline_ends_where_archiving_stands() -> None:
    assert covered(t1="3-5").route(1, lsn(3.5)) == Route(1, lsn(3.5), lsn(6), (Run(1, 3, 5),))


def test_route_stops_at_a_gap_and_says_which() -> None:
    route = covered(t1="3-5 8-9").route(1, lsn(3.5))
    assert route.end == lsn(6)
    assert route.missing == Gap(1, 6, 7)


def test_route_takes_a_partial_only_at_the_end() -> None:
    route = covered(t1="3-4 5p").route(1, lsn(3.5))
    assert route.runs == (Run(1, 3, 4), Run(1, 5, 5, None, True))
    assert route.end == lsn(5)
    assert route.missing is None
    broken = covered(t1="3-4 5p 6").route(1, lsn(3.5))
    assert broken.runs == (Run(1, 3, 4),)
    assert broken.missing == Gap(1, 5, 5)


def test_route_without_any_wal() -> None:
    assert covered().route(1, lsn(3.5)) == Route(1, lsn(3.5), lsn(3.5), ())
    later = covered(t1="5").route(1, lsn(3.5))
    assert later.missing == Gap(1, 3, 4)
    assert later.end == lsn(3.5)


FORKED = {2: [(1, lsn(5.25))]}


def test_route_over_a_fork_takes_the_childs_copy_of_the_segment() -> None:
    route = covered(FORKED, t1="3-9", t2="5-6").route(2, lsn(3.5))
    assert route.runs == (Run(1, 3, 4), Run(2, 5, 6))
    assert route.end == lsn(7)
    assert list(route.segments(4)) == [(1, 4), (2, 5), (2, 6)]
    assert list(route.segments_backwards()) == [(2, 6), (2, 5), (1, 4), (1, 3)]


def test_route_never_passes_the_fork_on_the_parent() -> None:
    route = covered(FORKED, t1="3-9").route(2, lsn(3.5))
    assert route.runs == (Run(1, 3, 4), Run(1, 5, 5, lsn(5.25)))
    assert route.end == lsn(5.25)
    assert route.missing is None


def test_the_parents_partial_serves_up_to_the_fork() -> None:
    route = covered(FORKED, t1="3-4 5p").route(2, lsn(3.5))
    assert route.runs[-1] == Run(1, 5, 5, lsn(5.25), True)
    assert route.end == lsn(5.25)


def test_a_missing_end_of_the_parent_is_a_gap() -> None:
    assert covered(FORKED, t1="3").route(2, lsn(3.5)).missing == Gap(1, 4, 4)
    assert covered(FORKED, t1="3-4").route(2, lsn(3.5)).missing == Gap(1, 5, 5)
    assert covered(FORKED, t1="3", t2="5-6").route(2, lsn(3.5)).missing == Gap(1, 4, 4)
    assert covered(FORKED, t1="3-4", t2="6").route(2, lsn(3.5)).missing == Gap(1, 5, 5)
    assert covered(FORKED, t1="3-5", t2="6").route(2, lsn(3.5)).missing == Gap(2, 5, 5)


def test_a_fork_at_a_segments_start_leaves_the_parent_a_segment_earlier() -> None:
    coverage = covered({2: [(1, lsn(5))]}, t1="3-9", t2="5")
    assert coverage.route(2, lsn(3.5)).runs == (Run(1, 3, 4), Run(2, 5, 5))
    alone = covered({2: [(1, lsn(5))]}, t1="3-9").route(2, lsn(3.5))
    assert alone.runs == (Run(1, 3, 4),)
    assert alone.end == lsn(5)


TWICE = {2: [(1, lsn(5.25))], 3: [(1, lsn(5.25)), (2, lsn(5.75))]}


def test_two_forks_within_one_segment() -> None:
    assert covered(TWICE, t1="4-5", t2="5", t3="5-6").route(3, lsn(4)).runs == (
        Run(1, 4, 4),
        Run(3, 5, 6),
    )
    cut = covered(TWICE, t1="4-5", t2="5").route(3, lsn(4))
    assert cut.runs == (Run(1, 4, 4), Run(2, 5, 5, lsn(5.75)))
    assert cut.end == lsn(5.75)
    broken = covered(TWICE, t1="4-5").route(3, lsn(4))
    assert broken.missing == Gap(2, 5, 5)
    assert broken.end == lsn(5.25)


def test_route_from_a_backup_that_is_already_on_the_child() -> None:
    route = covered(FORKED, t1="3-9", t2="5-8").route(2, lsn(6.5))
    assert route.runs == (Run(2, 6, 8),)
