"""The lines of postgresql.auto.conf that make a server recover to one target (pure).

How PostgreSQL reads them: src/backend/utils/misc/guc-file.l. Of one setting the last line of all
files counts; lines take effect in order, and naming a target while another one is set is fatal
(`error_multiple_recovery_targets` in xlogrecovery.c). So every other target is blanked first and
ours is named last, whatever the server's own files still say.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from pgkeep.errors import UsageError

TARGET_SETTINGS = (
    "recovery_target",
    "recovery_target_time",
    "recovery_target_lsn",
    "recovery_target_xid",
    "recovery_target_name",
)
_DROPPED = re.compile(
    r"recovery_target.*|restore_command|archive_cleanup_command|recovery_end_command"
    r"|primary_conninfo|primary_slot_name|recovery_min_apply_delay|promote_trigger_file"
)
_SETTING_NAME = re.compile(rb"\s*([A-Za-z_][A-Za-z0-9_.$]*)")
_OPENING = "# Written by pgkeep restore"
_CLOSING = "# End of what pgkeep restore wrote"
_OUR_BLOCK = re.compile(rf"^{_OPENING}: .*?^{_CLOSING}\n".encode(), flags=re.DOTALL | re.MULTILINE)

Setting = tuple[str, str]


def quote(value: str) -> str:
    """A value as postgresql.conf wants it, in single quotes.

    Raises UsageError for a NUL, which no setting can hold.
    """
    if "\0" in value:
        raise UsageError(f"a setting can't contain a NUL character: {value!r}")
    escaped = value.replace("\\", "\\\\").replace("'", "''")
    return "'" + escaped.replace("\n", "\\n").replace("\r", "\\r") + "'"


def without_recovery(text: bytes) -> bytes:
    """The file's lines but for those about an older recovery, a primary, or our own of before.

    A quoted value can't span lines in these files, so a line is a setting. ALTER SYSTEM rewrites
    the file without comments, so where ours still stand, the lines between them are ours.
    """
    text = _OUR_BLOCK.sub(b"", text)
    kept = [line for line in text.splitlines() if not _is_dropped(line)]
    return b"".join(line + b"\n" for line in kept)


def _is_dropped(line: bytes) -> bool:
    name = _SETTING_NAME.match(line)
    return bool(name and _DROPPED.fullmatch(name.group(1).decode("ascii").lower()))


def recovery_lines(
    *,
    about: str,
    restore_command: str,
    timeline: int,
    target: Setting | None,
    inclusive: bool,
    action: str,
    extra: Sequence[Setting] = (),
) -> bytes:
    """Our lines, for the end of postgresql.auto.conf.

    `about` goes into the comment; `target` is the one recovery target (name, value) or None for
    the end of the WAL; `timeline` is always a number, since `latest` lets the server follow a
    history that was not chosen; `extra` are settings written after all others.
    """
    blanks = [name for name in TARGET_SETTINGS if target is None or name != target[0]]
    settings: list[Setting] = [
        ("restore_command", restore_command),
        ("archive_cleanup_command", ""),
        ("recovery_end_command", ""),
        ("recovery_min_apply_delay", "0"),
        ("recovery_target_timeline", str(timeline)),
        *((name, "") for name in blanks),
    ]
    if target is not None:
        settings.append(target)
        settings.append(("recovery_target_inclusive", "on" if inclusive else "off"))
        settings.append(("recovery_target_action", action))
    settings.extend(extra)
    text = [f"{_OPENING}: {' '.join(about.split())}"]
    text.append("# The server needs these lines until recovery is over.")
    text.extend(f"{name} = {quote(value)}" for name, value in settings)
    text.append(_CLOSING)
    return "".join(f"{line}\n" for line in text).encode()


def rewrite(text: bytes, lines: bytes) -> bytes:
    """postgresql.auto.conf as the restored server must find it."""
    return without_recovery(text) + lines
