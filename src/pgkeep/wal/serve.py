"""Decides what recovery may be given when it asks for a segment. Pure: coverage in, verdict out.

PostgreSQL takes "absent" for the end of the WAL: it asks the segment of the next older timeline,
and when no timeline has it, recovery ends and the server promotes (src/backend/access/transam/
xlogrecovery.c, `XLogFileReadAnyTLI`). So:

- Absent with something newer on the same timeline is a hole, not the end: a fault.
- With the target's timeline pinned, an older timeline is served only up to the point where the
  target's history left it. Without that, a child's first segment that was never archived makes
  PostgreSQL replay the parent past the fork. What history says must exist on an older timeline,
  and doesn't, is a hole as well.
- A `.partial` file stands in for its segment at the end of a timeline that was left.
"""

from __future__ import annotations

from dataclasses import dataclass

from pgkeep.catalog.coverage import Coverage, Span, TimelineCoverage


@dataclass(frozen=True)
class Serve:
    """Give the segment (its `.partial` file if `partial`), with zeros from the LSN `cut` on."""

    partial: bool = False
    cut: int | None = None


@dataclass(frozen=True)
class Absent:
    """WAL really ends before this segment."""

    why: str


@dataclass(frozen=True)
class Fault:
    """Recovery must stop here: going on would replay the wrong history or lose some."""

    why: str


Verdict = Serve | Absent | Fault


def decide(coverage: Coverage, timeline: int, number: int, *, pinned: int | None) -> Verdict:
    """What to answer to a request for segment `number` of `timeline`.

    `coverage` must know the files of `timeline`, and the history of `pinned` if that is given.
    """
    found = coverage.timelines.get(timeline)
    span = found.lineage[-1] if found else Span(timeline, 0, None)
    if pinned is not None and pinned != timeline:
        inherited = _ancestor(coverage, pinned, timeline)
        if isinstance(inherited, Fault):
            return inherited
        span = inherited
    start = number * coverage.segment_size
    if span.end is not None and start >= span.end:
        return Absent(f"the history of timeline {pinned} left timeline {timeline} before it")
    if start + coverage.segment_size <= span.begin:
        return Absent(f"timeline {timeline} began after it")
    if span.end is not None:
        return _of_ancestor(coverage, number, span, found)
    return _of_target(number, found)


def _ancestor(coverage: Coverage, pinned: int, timeline: int) -> Span | Fault:
    target = coverage.timelines.get(pinned)
    if pinned != 1 and (target is None or not target.history_known):
        return Fault(f"the history file of timeline {pinned} is not in the repository")
    for span in target.lineage if target else ():
        if span.timeline == timeline:
            return span
    return Fault(f"timeline {timeline} is not in the history of timeline {pinned}")


def _of_ancestor(
    coverage: Coverage, number: int, span: Span, found: TimelineCoverage | None
) -> Verdict:
    assert span.end is not None
    inside = span.end < (number + 1) * coverage.segment_size
    cut = span.end if inside else None
    if found is not None and found.stretch_with(number) is not None:
        return Serve(cut=cut)
    if found is not None and inside and number in found.partials:
        return Serve(partial=True, cut=cut)
    return Fault("it is missing, and later WAL of the same history exists")


def _of_target(number: int, found: TimelineCoverage | None) -> Verdict:
    if found is None:
        return Absent("nothing of this timeline is stored")
    if found.stretch_with(number) is not None:
        return Serve()
    if found.next_any(number) is not None:
        return Fault("it is missing, and later WAL of the same timeline is stored")
    if number in found.partials:
        return Serve(partial=True)
    return Absent("nothing newer of this timeline is stored")
