"""Recovery target times: what people write, what PostgreSQL is told, what WAL records contain."""

from __future__ import annotations

import re
import zoneinfo
from datetime import UTC, datetime, timedelta, timezone, tzinfo

from pgkeep.errors import NotPostgres, UsageError

POSTGRES_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
"""Where TimestampTz counts its microseconds from (src/include/datatype/timestamp.h)."""

_TIME = re.compile(
    r"(?P<date>\d{4}-\d\d-\d\d)"
    r"(?:[Tt ]\s*(?P<time>\d\d:\d\d(?::\d\d(?:[.,]\d{1,6})?)?))?"
    r"\s*(?P<zone>\S+)?",
    re.ASCII,
)
_OFFSET = re.compile(r"([+-])(\d\d)(?::?(\d\d)(?::?(\d\d))?)?", re.ASCII)
_EXAMPLES = "write it like 2025-11-07 14:30:00+01 or 2025-11-07 14:30:00 Europe/Berlin"
_MICROSECOND = timedelta(microseconds=1)


def parse_recovery_time(text: str, local_zone: tzinfo) -> datetime:
    """An aware time, exact to the microsecond.

    Takes ISO 8601 with "T" or a blank, seconds and their fraction optional, then an offset ("+01",
    "+01:00", "Z"), the name of a zone ("Europe/Berlin"), or nothing for `local_zone`. A date alone
    is its midnight.

    Raises UsageError for anything else, and for a local time that a change of the clocks makes
    happen twice or never: the hint then gives both readings with their offsets.
    """
    match = _TIME.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"{text!r} is not a time", hint=_EXAMPLES)
    zone = local_zone if match["zone"] is None else _parse_zone(match["zone"])
    try:
        plain = datetime.fromisoformat(f"{match['date']} {_padded(match['time'])}")
        before, after = (_with_offset(plain, zone, fold) for fold in (0, 1))
    except (ValueError, OverflowError) as error:
        raise UsageError(f"{text!r} is not a time: {error}", hint=_EXAMPLES) from error
    if before != after:
        raise _two_readings(text, before, after)
    return before


def _padded(time: str | None) -> str:
    """fromisoformat() takes a fraction of three or six digits only."""
    whole, _, fraction = (time or "00:00").replace(",", ".").partition(".")
    return f"{whole}.{fraction:0<6}" if fraction else whole


def _parse_zone(text: str) -> tzinfo:
    if text.upper() in ("Z", "UTC", "GMT"):
        return UTC
    if match := _OFFSET.fullmatch(text):
        hours, minutes, seconds = (int(part or 0) for part in match.groups()[1:])
        if hours > 15 or minutes > 59 or seconds > 59:
            raise UsageError(f"{text!r} is not an offset from UTC", hint=_EXAMPLES)
        offset = timedelta(hours=hours, minutes=minutes, seconds=seconds)
        return timezone(-offset if match[1] == "-" else offset)
    return _named_zone(text)


def _named_zone(name: str) -> tzinfo:
    """Only names with a region: of abbreviations, EST, CST or IST mean several things, and CET
    the winter's offset to PostgreSQL but also the summer's to the zone database."""
    if "/" in name:
        try:
            return zoneinfo.ZoneInfo(name)
        except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
            pass  # the name comes from a person: the same answer as for one without a region
    raise UsageError(f"{name!r} is not a time zone known here", hint=_EXAMPLES)


def _with_offset(plain: datetime, zone: tzinfo, fold: int) -> datetime:
    offset = plain.replace(tzinfo=zone, fold=fold).utcoffset()
    if offset is None:
        raise ValueError("its time zone has no offset")
    return plain.replace(tzinfo=timezone(offset))


def _two_readings(text: str, before: datetime, after: datetime) -> UsageError:
    # Where clocks go back, the reading with the offset before the change is the earlier one.
    problem = "happens twice" if before < after else "does not exist"
    first, second = sorted((before, after))
    return UsageError(
        f"{text!r} {problem}: clocks are changed then",
        hint=f"write {format_for_postgres(first)} or {format_for_postgres(second)}",
    )


def format_for_postgres(time: datetime) -> str:
    """For recovery_target_time: with an explicit offset, which needs no setting to be read."""
    if time.utcoffset() is None:
        raise ValueError("a time without an offset means nothing to a server elsewhere")
    return time.isoformat(sep=" ")


def to_timestamptz(time: datetime) -> int:
    """Microseconds since 2000-01-01 UTC, as in WAL records."""
    return (time - POSTGRES_EPOCH) // _MICROSECOND


def from_timestamptz(microseconds: int) -> datetime:
    """In UTC. Raises NotPostgres for the infinities and for years beyond 9999."""
    try:
        return POSTGRES_EPOCH + timedelta(microseconds=microseconds)
    except OverflowError as error:
        raise NotPostgres(f"{microseconds} is not a time that a WAL record can have") from error
