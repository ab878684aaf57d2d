"""What to recover to, and which backup and timeline lead there (pure).

`parse_target` reads what somebody typed; `choose` decides, or says which moments near the wish can
be reached. What stops PostgreSQL, and when it fails instead, is told by `catalog.reach`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta, tzinfo
from enum import StrEnum
from typing import Literal

from pgkeep.catalog import reach
from pgkeep.catalog.coverage import Coverage, Gap
from pgkeep.catalog.reach import Answer, Contents, Side
from pgkeep.catalog.records import Record
from pgkeep.errors import TargetUnreachable, UsageError
from pgkeep.pgformat.lsn import format_lsn, parse_lsn
from pgkeep.pgformat.recoverytime import format_for_postgres, parse_recovery_time

Action = Literal["promote", "pause", "shutdown"]
TimelineWish = int | Literal["current", "latest"] | None

_PREFIXED = re.compile(r"(time|lsn|xid|name):(.*)", re.DOTALL)
_LSN = re.compile(r"[0-9A-Fa-f]{1,8}/[0-9A-Fa-f]{1,8}")
_FIRST_NORMAL_XID = 3
_LONGEST_NAME = 63
_LISTED = 10


class Kind(StrEnum):
    """The kinds of recovery target; all but `LATEST` are settings of PostgreSQL."""

    LATEST = "latest"
    IMMEDIATE = "immediate"
    TIME = "time"
    LSN = "lsn"
    XID = "xid"
    NAME = "name"


@dataclass(frozen=True, slots=True)
class Target:
    """A wish: `time` is aware, `lsn` and `xid` are numbers, `name` is a restore point's.

    `timeline` None is the newest one that a backup leads to; "current" is the backup's own.
    """

    kind: Kind
    time: datetime | None = None
    lsn: int | None = None
    xid: int | None = None
    name: str | None = None
    inclusive: bool = True
    timeline: TimelineWish = None
    action: Action = "promote"

    def __str__(self) -> str:
        match self.kind:
            case Kind.TIME:
                return f"time {_moment(self.time)}" if self.time else "time"
            case Kind.LSN:
                return f"LSN {format_lsn(self.lsn or 0)}"
            case Kind.XID:
                return f"transaction {self.xid}"
            case Kind.NAME:
                return f"restore point {self.name}"
            case Kind.IMMEDIATE:
                return "the end of the backup"
            case _:
                return "the end of the WAL"

    def setting(self) -> tuple[str, str] | None:
        """The setting that makes PostgreSQL stop there; None for the end of the WAL."""
        match self.kind:
            case Kind.TIME:
                assert self.time is not None
                return "recovery_target_time", format_for_postgres(self.time)
            case Kind.LSN:
                return "recovery_target_lsn", format_lsn(self.lsn or 0)
            case Kind.XID:
                return "recovery_target_xid", str(self.xid)
            case Kind.NAME:
                return "recovery_target_name", self.name or ""
            case Kind.IMMEDIATE:
                return "recovery_target", "immediate"
            case _:
                return None


LATEST = Target(Kind.LATEST)


@dataclass(frozen=True, slots=True)
class Choice:
    """A target that can be reached, from `record` along `timeline`.

    WAL is needed from `wal_from` up to `wal_to` (LSNs), or up to its end where that is None.
    `creates` are the directories of tablespaces that replaying this WAL may make. `cautions` are
    what should be known before.
    """

    record: Record
    timeline: int
    target: Target
    wal_from: int
    wal_to: int | None
    creates: tuple[str, ...] = ()
    cautions: tuple[str, ...] = ()


def parse_target(text: str, *, local_zone: tzinfo) -> Target:
    """What `--to` means: `latest`, `immediate`, an LSN, a transaction id, a time or a name.

    `time:`, `lsn:`, `xid:` and `name:` in front decide what it is. Raises UsageError for what is
    none of these, and for a local time that does not exist or exists twice.
    """
    text = text.strip()
    found = _PREFIXED.fullmatch(text)
    if found:
        return _of_kind(Kind(found.group(1)), found.group(2).strip(), local_zone)
    if text in (Kind.LATEST, Kind.IMMEDIATE):
        return Target(Kind(text))
    if _LSN.fullmatch(text):
        return _of_kind(Kind.LSN, text, local_zone)
    if text.isdecimal() and text.isascii():
        return _of_kind(Kind.XID, text, local_zone)
    if re.match(r"\d", text):
        return _of_kind(Kind.TIME, text, local_zone)
    return _of_kind(Kind.NAME, text, local_zone)


def _of_kind(kind: Kind, text: str, local_zone: tzinfo) -> Target:
    match kind:
        case Kind.TIME:
            return Target(kind, time=parse_recovery_time(text, local_zone))
        case Kind.LSN:
            if not _LSN.fullmatch(text):
                raise UsageError(f"{text!r} is not an LSN", hint="an LSN looks like 16/B374D848")
            return Target(kind, lsn=parse_lsn(text))
        case Kind.XID:
            return Target(kind, xid=_parse_xid(text))
        case _:
            return Target(kind, name=_parse_name(text))


def _parse_xid(text: str) -> int:
    if not (text.isdecimal() and text.isascii()) or int(text) >= 1 << 64:
        raise UsageError(f"{text!r} is not a transaction id", hint="it is a whole number")
    # pg_current_xact_id() puts the epoch above; WAL, and so recovery, knows only these 32 bits.
    xid = int(text) & 0xFFFFFFFF
    if xid < _FIRST_NORMAL_XID:
        raise UsageError(f"no transaction has the id {text}", hint="ids start at 3")
    return xid


def _parse_name(text: str) -> str:
    if not text:
        raise UsageError(
            "the recovery target is empty",
            hint="give a time, an LSN, a transaction id, a restore point, latest or immediate",
        )
    if len(text.encode("utf-8", "surrogateescape")) > _LONGEST_NAME or "\0" in text:
        raise UsageError(f"no restore point can be named {text!r}", hint="63 bytes is the longest")
    return text


def choose(
    wish: Target,
    records: Sequence[Record],
    coverage: Coverage,
    contents: Contents,
    *,
    backup: str | None = None,
) -> Choice:
    """The newest backup from which the wish can be reached, and the timeline as a number.

    `backup` is the id of the only one to consider. Raises TargetUnreachable, naming the nearest
    moments, and UsageError for an unknown backup or timeline; nothing has been written then.
    """
    if wish.kind is Kind.LATEST and wish.action != "promote":
        raise UsageError(
            f"--action {wish.action} needs a recovery target",
            hint="at the end of the WAL PostgreSQL always promotes",
        )
    candidates = _candidates(records, backup)
    if wish.kind is Kind.IMMEDIATE:
        return _choose_immediate(wish, candidates, coverage, contents)
    timeline = _timeline(wish, candidates, coverage)
    leading = [r for r in candidates if _leads(coverage, r, timeline)]
    if not leading:
        raise TargetUnreachable(
            f"no backup leads onto timeline {timeline}",
            hint="backups exist on timeline "
            + _listed(sorted({str(r.timeline) for r in candidates}))
            + "; choose with --timeline",
        )
    choice = _first_that_reaches(wish, leading, coverage, contents, timeline)
    if isinstance(choice, Choice):
        return _with_cautions(choice, candidates, coverage, contents)
    raise _unreachable(wish, leading, choice, coverage, contents, timeline)


def _candidates(records: Sequence[Record], backup: str | None) -> list[Record]:
    """Newest first."""
    if not records:
        raise TargetUnreachable("there is no backup yet", hint="make one: pgkeep backup")
    ordered = sorted(records, key=lambda r: r.stop_time, reverse=True)
    if backup is None:
        return ordered
    named = [r for r in ordered if r.id == backup]
    if not named:
        raise UsageError(
            f"there is no backup {backup}", hint=f"there are {_listed([r.id for r in ordered])}"
        )
    return named


def _timeline(wish: Target, candidates: Sequence[Record], coverage: Coverage) -> int:
    known = {r.timeline for r in candidates} | set(coverage.timelines)
    if isinstance(wish.timeline, int):
        if wish.timeline not in known:
            raise UsageError(
                f"nothing is known of timeline {wish.timeline}",
                hint=f"there is timeline {_listed([str(t) for t in sorted(known)])}",
            )
        return wish.timeline
    if wish.timeline == "current":
        return candidates[0].timeline
    return max(t for t in known if any(_leads(coverage, r, t) for r in candidates))


def _leads(coverage: Coverage, record: Record, timeline: int) -> bool:
    own = timeline == record.timeline
    return own or coverage.descends(timeline, record.timeline, record.stop_lsn)


def _choose_immediate(
    wish: Target, candidates: Sequence[Record], coverage: Coverage, contents: Contents
) -> Choice:
    wanted = wish.timeline if isinstance(wish.timeline, int) else None
    fitting = [r for r in candidates if wanted is None or _leads(coverage, r, wanted)]
    for record in fitting:
        timeline = record.timeline if wanted is None else wanted
        here = reach.window(record, coverage, timeline)
        if here.restorable:
            return Choice(record, timeline, wish, record.start_lsn, record.stop_lsn)
    if not fitting:
        raise TargetUnreachable(f"no backup leads onto timeline {wanted}")
    missing = reach.window(fitting[0], coverage, fitting[0].timeline).missing
    raise TargetUnreachable(
        f"the WAL that makes backup {fitting[0].id} consistent is not in the repository"
        + _gap_text(missing, coverage),
        hint="archive the missing WAL with pgkeep wal push, or choose another backup",
    )


def _first_that_reaches(
    wish: Target,
    leading: Sequence[Record],
    coverage: Coverage,
    contents: Contents,
    timeline: int,
) -> Choice | list[Answer]:
    """The newest backup that reaches the wish, or what each of them answered."""
    answers = []
    for record in leading:
        answer = _ask(wish, record, coverage, contents, timeline)
        certain = answer.side is Side.WITHIN
        if certain or (answer.side is Side.UNKNOWN and wish.kind in (Kind.TIME, Kind.LSN)):
            choice = Choice(record, timeline, wish, record.start_lsn, _wal_to(wish, answer))
            return choice if certain else replace(choice, cautions=(_UNCERTAIN,))
        answers.append(answer)
        if answer.side is Side.AFTER:
            break
    return answers


_UNCERTAIN = (
    "some WAL was stored without a note of what is in it, so nobody can tell whether the target is "
    "reached; if it is not, the server will say so and stop"
)


def _ask(
    wish: Target, record: Record, coverage: Coverage, contents: Contents, timeline: int
) -> Answer:
    match wish.kind:
        case Kind.TIME:
            assert wish.time is not None
            return reach.time_target(
                wish.time, record, coverage, timeline, contents, inclusive=wish.inclusive
            )
        case Kind.LSN:
            return reach.lsn_target(wish.lsn or 0, record, coverage, timeline, contents)
        case Kind.XID:
            return reach.xid_target(wish.xid or 0, record, coverage, timeline, contents)
        case Kind.NAME:
            return reach.name_target(wish.name or "", record, coverage, timeline, contents)
        case _:
            return _ask_latest(record, coverage, contents, timeline)


def _ask_latest(record: Record, coverage: Coverage, contents: Contents, timeline: int) -> Answer:
    here = reach.window(record, coverage, timeline, contents)
    if not here.restorable:
        side = Side.BEFORE
    else:
        side = Side.WITHIN if here.missing is None else Side.AFTER
    return Answer(side, record.stop_lsn, here.to_lsn, record.stop_time, here.to_time)


def _wal_to(wish: Target, answer: Answer) -> int | None:
    if wish.kind is Kind.LATEST:
        return None
    if wish.kind is Kind.LSN:
        return wish.lsn
    return answer.found_lsn if answer.found_lsn is not None else answer.latest_lsn


def _with_cautions(
    choice: Choice, candidates: Sequence[Record], coverage: Coverage, contents: Contents
) -> Choice:
    cautions = list(choice.cautions)
    if choice.target.timeline is None:
        others = [
            str(t)
            for t in sorted(coverage.timelines)
            if not coverage.descends(choice.timeline, t, 0)
            and any(_leads(coverage, r, t) for r in candidates)
        ]
        if others:
            cautions.append(
                f"timeline {choice.timeline} is the newest and was chosen; timeline "
                f"{_listed(others)} is another history and no part of it (--timeline chooses)"
            )
    route = coverage.route(choice.timeline, choice.wal_from)
    creates = tuple(sorted(set(reach.tablespaces(route, contents))))
    return replace(choice, creates=creates, cautions=tuple(cautions))


def _unreachable(
    wish: Target,
    leading: Sequence[Record],
    answers: Sequence[Answer],
    coverage: Coverage,
    contents: Contents,
    timeline: int,
) -> TargetUnreachable:
    """Why not, and the nearest moments that can be reached."""
    last, sides = answers[-1], {answer.side for answer in answers}
    route = reach.window(leading[len(answers) - 1], coverage, timeline)
    if wish.kind is Kind.LATEST or (last.side is Side.AFTER and route.missing is not None):
        message = f"WAL is missing on the way to {wish}{_gap_text(route.missing, coverage)}"
        hint = f"archive it with pgkeep wal push, or recover up to it: {_newest_offer(last)}"
    elif last.side is Side.AFTER:
        message = f"{wish} lies after the end of the WAL that is stored, {_end_text(last)}"
        hint = f"recover as far as possible with --to latest; {_newest_offer(last)}"
    elif Side.ABSENT in sides or Side.UNKNOWN in sides:
        message, hint = _absent(wish, leading, coverage, contents, timeline)
    else:
        message = f"{wish} lies before the end of every backup on timeline {timeline}"
        hint = _oldest_offer(leading, coverage, timeline)
    other = _elsewhere(wish, leading, coverage, contents, timeline)
    return TargetUnreachable(message, hint=f"{other}; {hint}" if other else hint)


def _absent(
    wish: Target,
    leading: Sequence[Record],
    coverage: Coverage,
    contents: Contents,
    timeline: int,
) -> tuple[str, str]:
    if wish.kind is Kind.XID:
        message = f"{wish} does not end in the WAL that is stored for timeline {timeline}"
        return message, (
            "a transaction's own id counts, not that of a savepoint in it; choose a time or an LSN"
        )
    known = _restore_points(leading[-1], coverage, contents, timeline)
    message = f"there is no {wish} in the WAL that is stored for timeline {timeline}"
    return message, f"restore points: {_listed(known)}" if known else "there is none at all"


def _restore_points(
    oldest: Record, coverage: Coverage, contents: Contents, timeline: int
) -> list[str]:
    names: list[str] = []
    for place in coverage.route(timeline, oldest.start_lsn).segments_backwards():
        summary = contents.summary(*place)
        names += [point.name for point in reversed(summary.restore_points)] if summary else []
    return list(dict.fromkeys(names))


def _elsewhere(
    wish: Target,
    leading: Sequence[Record],
    coverage: Coverage,
    contents: Contents,
    timeline: int,
) -> str | None:
    """The timeline on which the wish could be had, if it is another one."""
    if wish.kind is Kind.LATEST:
        return None
    for other in sorted(coverage.timelines, reverse=True):
        fitting = [r for r in leading if _leads(coverage, r, other)]
        if other == timeline or not fitting:
            continue
        found = _first_that_reaches(wish, fitting, coverage, contents, other)
        if isinstance(found, Choice) and not found.cautions:
            return f"timeline {other} reaches it (--timeline {other})"
    return None


def _gap_text(missing: Gap | None, coverage: Coverage) -> str:
    if missing is None:
        return ""
    first, last = missing.first * coverage.segment_size, (missing.last + 1) * coverage.segment_size
    return f": timeline {missing.timeline} from {format_lsn(first)} to {format_lsn(last)}"


def _end_text(answer: Answer) -> str:
    text = f"LSN {format_lsn(answer.latest_lsn)}"
    if answer.latest_time is None:
        return f"{text}, and no transaction ended after the backup"
    return f"{text}, whose last transaction ended at {_moment(answer.latest_time)}"


def _newest_offer(answer: Answer) -> str:
    if answer.latest_time is None:
        return f"nothing happened after the backup's end at {_moment(answer.earliest_time)}"
    return f"the newest time is just before {_moment(answer.latest_time)}"


def _oldest_offer(leading: Sequence[Record], coverage: Coverage, timeline: int) -> str:
    for record in reversed(leading):
        if reach.window(record, coverage, timeline).restorable:
            # Rounded up: a second that is cut off would lie before the backup's end again.
            first = record.stop_time.replace(microsecond=0) + timedelta(seconds=1)
            return (
                f"the oldest moment is the end of backup {record.id}, "
                f"LSN {format_lsn(record.stop_lsn)}: --to '{_moment(first)}'"
            )
    return "no backup on this timeline has the WAL that makes it consistent"


def _moment(time: datetime) -> str:
    return time.astimezone(UTC).isoformat(sep=" ")


def _listed(items: Sequence[str]) -> str:
    shown = ", ".join(items[:_LISTED])
    return f"{shown} and {len(items) - _LISTED} more" if len(items) > _LISTED else shown
