"""Which WAL is there, and along which ways it can be replayed. Pure: values in, values out.

Numbers of segments count from 0 at LSN 0 and go on over timelines; LSNs are integers. What
PostgreSQL asks for in recovery, and in which order, is in src/backend/access/transam/
xlogrecovery.c, `XLogFileReadAnyTLI`: the newest timeline of the target's history that may have the
segment first, then its parents, never an older one than it has already read.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple


class SegmentFact(NamedTuple):
    """One stored WAL file: `partial` is a `.partial` file, the last of a timeline left behind."""

    timeline: int
    number: int
    partial: bool = False


class Span(NamedTuple):
    """A timeline's part of a history: the LSNs from `begin` up to, without, `end`."""

    timeline: int
    begin: int
    end: int | None


class Stretch(NamedTuple):
    """Segments `first` to `last`, all of them."""

    first: int
    last: int


class Gap(NamedTuple):
    """Segments `first` to `last` of a timeline that must have existed and are not stored."""

    timeline: int
    first: int
    last: int


class Fork(NamedTuple):
    """`child` left `parent` at `lsn`."""

    child: int
    parent: int
    lsn: int


class Run(NamedTuple):
    """Segments to replay from one timeline. From `cut` on, what they hold is another history."""

    timeline: int
    first: int
    last: int
    cut: int | None = None
    partial: bool = False


@dataclass(frozen=True)
class Route:
    """How WAL leads from an LSN along the history of `timeline`.

    `end` is the LSN up to which whole segments (or a part before a fork) are there. `missing` is
    set when WAL that must have existed stops the way; unset, the way ends where archiving stands.
    A last run that is `partial` holds more than `end` says: only its contents tell how much.
    """

    timeline: int
    start: int
    end: int
    runs: tuple[Run, ...]
    missing: Gap | None = None

    def segments(self, first: int = 0) -> Iterable[tuple[int, int]]:
        """(timeline, number) of every segment from `first` on, in the order of replay."""
        for run in self.runs:
            for number in range(max(run.first, first), run.last + 1):
                yield run.timeline, number

    def segments_backwards(self) -> Iterable[tuple[int, int]]:
        """(timeline, number), the newest first."""
        for run in reversed(self.runs):
            for number in range(run.last, run.first - 1, -1):
                yield run.timeline, number


@dataclass(frozen=True)
class TimelineCoverage:
    """What is stored of one timeline. `lineage` is oldest first and ends with the timeline."""

    timeline: int
    stretches: tuple[Stretch, ...]
    partials: tuple[int, ...]
    lineage: tuple[Span, ...]
    history_known: bool

    @property
    def begin(self) -> int:
        return self.lineage[-1].begin

    @property
    def gaps(self) -> tuple[Gap, ...]:
        """What is missing between stretches."""
        return tuple(
            Gap(self.timeline, left.last + 1, right.first - 1)
            for left, right in zip(self.stretches, self.stretches[1:], strict=False)
        )

    @property
    def newest(self) -> int | None:
        """The newest stored segment, whole or partial."""
        last = [self.stretches[-1].last] if self.stretches else []
        return max([*last, *self.partials], default=None)

    def stretch_with(self, number: int) -> Stretch | None:
        """The stretch that segment `number` is part of."""
        at = bisect_right(self.stretches, (number, 1 << 64)) - 1
        if at >= 0 and self.stretches[at].last >= number:
            return self.stretches[at]
        return None

    def next_whole(self, number: int) -> int | None:
        """The first whole stored segment after `number`."""
        if self.stretch_with(number + 1) is not None:
            return number + 1
        at = bisect_right(self.stretches, (number, 1 << 64))
        return self.stretches[at].first if at < len(self.stretches) else None

    def next_any(self, number: int) -> int | None:
        """The first stored segment after `number`, whole or partial."""
        later = [p for p in self.partials if p > number]
        whole = self.next_whole(number)
        return min(later if whole is None else [whole, *later], default=None)


@dataclass(frozen=True)
class Coverage:
    """All WAL of one system identifier."""

    segment_size: int
    timelines: Mapping[int, TimelineCoverage]

    def number(self, lsn: int) -> int:
        """The segment that the byte at `lsn` is in."""
        return lsn // self.segment_size

    def needed(self, start: int, stop: int) -> Stretch:
        """Segments with the bytes from `start` up to, without, `stop`."""
        return Stretch(self.number(start), self.number(max(stop - 1, start)))

    def has(self, timeline: int, number: int) -> bool:
        """Whether the whole segment is stored."""
        found = self.timelines.get(timeline)
        return found is not None and found.stretch_with(number) is not None

    @property
    def forks(self) -> tuple[Fork, ...]:
        """Where timelines left their parents, by child."""
        return tuple(
            Fork(t.timeline, t.lineage[-2].timeline, t.begin)
            for t in sorted(self.timelines.values(), key=lambda t: t.timeline)
            if len(t.lineage) > 1
        )

    def descends(self, timeline: int, ancestor: int, lsn: int) -> bool:
        """Whether the history of `timeline` goes through `ancestor` at `lsn` or later.

        A backup that ended on `ancestor` at `lsn` can be recovered onto `timeline` only then.
        """
        found = self.timelines.get(timeline)
        if found is None:
            return False
        return any(
            span.timeline == ancestor and (span.end is None or span.end >= lsn)
            for span in found.lineage
        )

    def route(self, timeline: int, start: int) -> Route:
        """The way from `start` along the history of `timeline` as far as stored WAL goes."""
        found = self.timelines.get(timeline)
        lineage = found.lineage if found else (Span(timeline, 0, None),)
        runs: list[Run] = []
        at = start
        for place, span in enumerate(lineage):
            if span.end is None:
                return self._last_run(span, start, at, runs)
            if at >= span.end:
                continue
            missing = self._parent_run(lineage[place:], at, runs)
            if missing is not None:
                end = max(at, missing.first * self.segment_size)
                return Route(timeline, start, end, _merged(runs), missing)
            at = span.end
        raise ValueError("a lineage without an end open to the future")

    def _parent_run(self, spans: Sequence[Span], at: int, runs: list[Run]) -> Gap | None:
        """Adds what is needed of a timeline that history left; says what of it is missing."""
        timeline, _, end = spans[0]
        assert end is not None
        last = self.number(end - 1)
        whole_last = last if end % self.segment_size == 0 else last - 1
        first = self.number(at)
        have = self._contiguous(timeline, first, whole_last)
        if have >= first:
            runs.append(Run(timeline, first, have))
        if have < whole_last:
            known = self.timelines.get(timeline)
            after = known.next_whole(have) if known else None
            until = whole_last if after is None else min(whole_last, after - 1)
            return Gap(timeline, have + 1, until)
        if whole_last < last:
            return self._fork_run(spans, last, runs)
        return None

    def _fork_run(self, spans: Sequence[Span], number: int, runs: list[Run]) -> Gap | None:
        """The segment with the end of `spans[0]`: a descendant's copy, or its own up to there."""
        for span in reversed(spans[1:]):
            if self.number(span.begin) == number and self.has(span.timeline, number):
                runs.append(Run(span.timeline, number, number, self._cut(span, number)))
                return None
        timeline, _, end = spans[0]
        found = self.timelines.get(timeline)
        if self.has(timeline, number):
            runs.append(Run(timeline, number, number, end))
        elif found is not None and number in found.partials:
            runs.append(Run(timeline, number, number, end, partial=True))
        else:
            return Gap(timeline, number, number)
        return None

    def _cut(self, span: Span, number: int) -> int | None:
        """Where the history of `span` ends within segment `number`, if it does."""
        if span.end is None or self.number(span.end - 1) != number:
            return None
        return span.end if span.end % self.segment_size else None

    def _last_run(self, span: Span, start: int, at: int, runs: list[Run]) -> Route:
        """The rest of the way, on the timeline that it leads to."""
        first = self.number(at)
        found = self.timelines.get(span.timeline)
        have = self._contiguous(span.timeline, first, None)
        if have >= first:
            runs.append(Run(span.timeline, first, have))
        end = max(at, (have + 1) * self.segment_size)
        after = found.next_any(have) if found else None
        if found is None or after is None:
            return Route(span.timeline, start, end, _merged(runs))
        beyond = found.next_any(after) if after == have + 1 else after
        if beyond is not None:
            missing = Gap(span.timeline, have + 1, beyond - 1)
            return Route(span.timeline, start, end, _merged(runs), missing)
        runs.append(Run(span.timeline, after, after, None, partial=True))
        return Route(span.timeline, start, end, _merged(runs))

    def _contiguous(self, timeline: int, first: int, limit: int | None) -> int:
        """The last of the segments from `first` on that are stored; `first` - 1 for none."""
        found = self.timelines.get(timeline)
        stretch = found.stretch_with(first) if found else None
        if stretch is None:
            return first - 1
        return stretch.last if limit is None else max(first - 1, min(stretch.last, limit))


def lineage(timeline: int, switches: Sequence[tuple[int, int]]) -> tuple[Span, ...]:
    """Spans from a history file's lines (parent timeline, switch point), oldest first."""
    spans: list[Span] = []
    begin = 0
    for parent, switch in switches:
        spans.append(Span(parent, begin, switch))
        begin = switch
    return (*spans, Span(timeline, begin, None))


def cover(
    segment_size: int,
    facts: Iterable[SegmentFact],
    histories: Mapping[int, Sequence[tuple[int, int]]],
) -> Coverage:
    """Coverage from stored files. `histories`: timeline → lines of its history file."""
    whole: dict[int, set[int]] = {}
    partial: dict[int, set[int]] = {}
    for fact in facts:
        (partial if fact.partial else whole).setdefault(fact.timeline, set()).add(fact.number)
    timelines = {}
    for timeline in sorted({*whole, *partial, *histories}):
        numbers = whole.get(timeline, set())
        timelines[timeline] = TimelineCoverage(
            timeline,
            _stretches(sorted(numbers)),
            tuple(sorted(partial.get(timeline, set()) - numbers)),
            lineage(timeline, histories.get(timeline, ())),
            timeline in histories or timeline == 1,
        )
    return Coverage(segment_size, timelines)


def _stretches(numbers: Sequence[int]) -> tuple[Stretch, ...]:
    stretches: list[Stretch] = []
    for number in numbers:
        if stretches and stretches[-1].last == number - 1:
            stretches[-1] = Stretch(stretches[-1].first, number)
        else:
            stretches.append(Stretch(number, number))
    return tuple(stretches)


def _merged(runs: Sequence[Run]) -> tuple[Run, ...]:
    """Runs without repeats: a fork's segment from the child is also the child's own first."""
    merged: list[Run] = []
    for run in runs:
        last = merged[-1] if merged else None
        if last is None or last.timeline != run.timeline:
            merged.append(run)
            continue
        fresh = run._replace(first=max(run.first, last.last + 1))
        if fresh.first > fresh.last:
            continue
        plain = last.cut is None and run.cut is None and last.partial == run.partial
        if plain and fresh.first == last.last + 1:
            merged[-1] = last._replace(last=fresh.last)
        else:
            merged.append(fresh)
    return tuple(merged)
