"""Moments as people write them for a recovery, and as PostgreSQL wants and stores them."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pgkeep.errors import UsageError

POSTGRES_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_TEXT = re.compile(
    r"(?P<day>\d{4}-\d{2}-\d{2})"
    r"(?:[T ](?P<time>\d{2}:\d{2}(?::\d{2}(?:\.\d{1,6})?)?))?"
    r"\s*(?P<zone>Z|UTC|[+-]\d{2}(?::?\d{2})?|[A-Za-z]+(?:/[A-Za-z0-9_+-]+)+)?",
    re.IGNORECASE,
)
_HINT = "write 2025-11-07 14:30:00+01:00, or a zone name at the end: 2025-11-07 14:30 Europe/Berlin"


def parse_recovery_time(text: str, local_zone: tzinfo) -> datetime:
    """The moment that `text` means; without a zone, `local_zone` counts.

    Raises UsageError when it is no time, or one that a change of clocks made ambiguous or left out:
    then the hint names the readings with explicit offsets.
    """
    found = _TEXT.fullmatch(text.strip())
    if found is None:
        raise UsageError(f"{text!r} is not a time", hint=_HINT)
    try:
        naive = datetime.fromisoformat(f"{found['day']} {_padded(found['time'] or '00:00:00')}")
    except ValueError as error:
        raise UsageError(f"{text!r} is not a time: {error}", hint=_HINT) from None
    zone = _zone(found["zone"], local_zone)
    early = naive.replace(tzinfo=zone, fold=0)
    late = naive.replace(tzinfo=zone, fold=1)
    if early.utcoffset() != late.utcoffset():
        raise _unclear(text, naive, early, late)
    return early


def _padded(text: str) -> str:
    """Fractions of a second with six digits, which is what `fromisoformat` takes."""
    whole, dot, fraction = text.partition(".")
    return f"{whole}.{fraction:0<6}" if dot else whole


def _zone(text: str | None, local_zone: tzinfo) -> tzinfo:
    if text is None:
        return local_zone
    if text.upper() in ("Z", "UTC"):
        return UTC
    if text[0] in "+-":
        digits = text[1:].replace(":", "").ljust(4, "0")
        span = timedelta(hours=int(digits[:2]), minutes=int(digits[2:]))
        if span >= timedelta(hours=16) or int(digits[2:]) > 59:
            raise UsageError(f"{text} is not an offset from UTC", hint=_HINT)
        return timezone(span if text[0] == "+" else -span)
    try:
        return ZoneInfo(text)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise UsageError(f"there is no time zone {text!r}", hint=_HINT) from None


def _unclear(text: str, naive: datetime, early: datetime, late: datetime) -> UsageError:
    """The clocks were put back (the time came twice) or forward (it never came)."""
    twice = naive == early.astimezone(UTC).astimezone(early.tzinfo).replace(tzinfo=None)
    first, second = sorted((early, late), key=lambda moment: moment.astimezone(UTC))
    what = "came twice" if twice else "never came"
    return UsageError(
        f"{text!r} {what}: the clocks were changed then",
        hint=f"write {_explicit(first)} or {_explicit(second)}",
    )


def _explicit(moment: datetime) -> str:
    offset = moment.utcoffset() or timedelta()
    return moment.replace(tzinfo=timezone(offset)).isoformat(sep=" ")


def format_for_postgres(moment: datetime) -> str:
    """As recovery_target_time takes it: with microseconds and an explicit offset, in UTC."""
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S.%f}+00"


def to_postgres(moment: datetime) -> int:
    """TimestampTz: microseconds since 2000-01-01 UTC."""
    return (moment - POSTGRES_EPOCH) // timedelta(microseconds=1)


def from_postgres(microseconds: int) -> datetime:
    """The moment of a TimestampTz, in UTC."""
    return POSTGRES_EPOCH + timedelta(microseconds=microseconds)
