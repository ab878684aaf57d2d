"""What recovery may be given, over coverage that is made up here."""

from __future__ import annotations

import pytest

from pgkeep.catalog.coverage import Coverage, SegmentFact, cover
from pgkeep.wal.serve import Absent, Fault, Serve, Verdict, decide

SIZE = 0x1000


def lsn(number: float) -> int:
    return int(number * SIZE)


def covered(
    histories: dict[int, list[tuple[int, int]]] | None = None, **timelines: str
) -> Coverage:
    """`t1="3 4 5p"`: timeline 1 has segments 3, 4 and 5 as a partial file."""
    facts = [
        SegmentFact(int(name[1:]), int(part.rstrip("p")), part.endswith("p"))
        for name, text in timelines.items()
        for part in text.split()
    ]
    return cover(SIZE, facts, histories or {})


def replayed(coverage: Coverage, pinned: int, first: int) -> list[str] | Fault:
    """What a server replays that recovers to `pinned`, asking as XLogFileReadAnyTLI does.

    Each piece is "timeline/segment", with "<" and the place of the cut when it was cut.
    """
    out: list[str] = []
    current, number = 0, first
    lineage = coverage.timelines[pinned].lineage
    while True:
        for span in reversed(lineage):
            if span.timeline < current:
                return out
            if span.begin and number < span.begin // SIZE:
                continue
            verdict = decide(coverage, span.timeline, number, pinned=pinned)
            if isinstance(verdict, Fault):
                return verdict
            if isinstance(verdict, Serve):
                current = span.timeline
                break
        else:
            return out
        cut = "" if verdict.cut is None else f"<{verdict.cut / SIZE}"
        out.append(f"{current}/{number}{'p' if verdict.partial else ''}{cut}")
        if verdict.cut is not None:
            return out
        number += 1


@pytest.mark.parametrize("pinned", [None, 1])
def test_on_one_timeline(pinned: int | None) -> None:
    coverage = covered(t1="3 4 6 7")

    def ask(number: int) -> Verdict:
        return decide(coverage, 1, number, pinned=pinned)

    assert ask(4) == Serve()
    assert isinstance(ask(5), Fault)
    assert isinstance(ask(8), Absent)
    assert isinstance(ask(2), Fault)


def test_nothing_stored_is_absent() -> None:
    assert isinstance(decide(covered(), 1, 3, pinned=1), Absent)


@pytest.mark.parametrize("pinned", [None, 1])
def test_partial_serves_only_when_nothing_newer_is_stored(pinned: int | None) -> None:
    assert decide(covered(t1="3 4p"), 1, 4, pinned=pinned) == Serve(partial=True)
    assert decide(covered(t1="3 4 4p"), 1, 4, pinned=pinned) == Serve()
    assert isinstance(decide(covered(t1="3 4p 5"), 1, 4, pinned=pinned), Fault)
    assert isinstance(decide(covered(t1="3 5p"), 1, 4, pinned=pinned), Fault)


FORK = {2: [(1, lsn(5.25))]}


def test_the_child_is_replayed_from_its_own_copy() -> None:
    coverage = covered(FORK, t1="3 4 5 6", t2="5 6")
    assert replayed(coverage, 2, 3) == ["1/3", "1/4", "2/5", "2/6"]
    assert replayed(coverage, 1, 3) == ["1/3", "1/4", "1/5", "1/6"]


def test_the_parent_is_never_replayed_past_the_fork() -> None:
    assert replayed(covered(FORK, t1="3 4 5 6"), 2, 3) == ["1/3", "1/4", "1/5<5.25"]
    assert replayed(covered(FORK, t1="3 4 5p"), 2, 3) == ["1/3", "1/4", "1/5p<5.25"]
    at_edge = covered({2: [(1, lsn(5))]}, t1="3 4 5 6")
    assert replayed(at_edge, 2, 3) == ["1/3", "1/4"]


def test_holes_stop_recovery_wherever_they_are() -> None:
    for coverage in (
        covered(FORK, t1="3 5", t2="5"),
        covered(FORK, t1="3 4 5 6", t2="6"),
        covered(FORK, t1="3", t2="5"),
        covered(FORK, t1="3 4"),
    ):
        assert isinstance(replayed(coverage, 2, 3), Fault)


def test_a_timeline_in_between_that_lost_its_wal_is_a_hole() -> None:
    twice = {2: FORK[2], 3: [*FORK[2], (2, lsn(7.5))]}
    assert isinstance(replayed(covered(twice, t1="4 5 6 7 8"), 3, 4), Fault)
    assert replayed(covered(twice, t1="4 5", t2="5 6 7", t3="7 8"), 3, 4) == [
        *("1/4", "2/5", "2/6"),
        *("3/7", "3/8"),
    ]
    assert replayed(covered(twice, t1="4 5", t2="5 6 7 8"), 3, 4) == [
        *("1/4", "2/5", "2/6"),
        "2/7<7.5",
    ]


def test_two_forks_in_one_segment() -> None:
    twice = {2: FORK[2], 3: [*FORK[2], (2, lsn(5.75))]}
    assert replayed(covered(twice, t1="4 5 6", t2="5 6"), 3, 4) == ["1/4", "2/5<5.75"]
    assert isinstance(replayed(covered(twice, t1="4 5 6"), 3, 4), Fault)


def test_a_timeline_outside_the_pinned_history_is_refused() -> None:
    siblings = covered({2: FORK[2], 3: [(1, lsn(4.5))]}, t1="3 4 5", t2="5 6", t3="4 5")
    assert isinstance(decide(siblings, 3, 4, pinned=2), Fault)
    assert isinstance(decide(siblings, 2, 5, pinned=1), Fault)


def test_an_older_timeline_needs_the_pinned_history() -> None:
    assert isinstance(decide(covered(t1="3 4", t5="9"), 1, 3, pinned=5), Fault)
    assert decide(covered(t5="9"), 5, 9, pinned=5) == Serve()


def test_a_segment_before_the_timeline_began_is_absent() -> None:
    coverage = covered(FORK, t1="3 4 5", t2="5 6")
    assert isinstance(decide(coverage, 2, 4, pinned=2), Absent)
    assert isinstance(decide(coverage, 2, 4, pinned=None), Absent)


def test_an_exact_route_and_what_is_served_agree() -> None:
    """`list` and `restore` speak from routes, recovery lives on what is served."""
    for coverage in (
        covered(FORK, t1="3 4 5 6", t2="5 6"),
        covered(FORK, t1="3 4 5 6"),
        covered(FORK, t1="3 4 5p"),
        covered({2: [(1, lsn(5))]}, t1="3 4 5 6", t2="5"),
    ):
        for pinned in (1, 2):
            runs = coverage.route(pinned, lsn(3)).runs
            pieces = [
                f"{run.timeline}/{number}{'p' if run.partial else ''}"
                + (f"<{run.cut / SIZE}" if run.cut is not None else "")
                for run in runs
                for number in range(run.first, run.last + 1)
            ]
            assert replayed(coverage, pinned, 3) == pieces
