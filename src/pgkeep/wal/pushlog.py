"""A note on this host of how the last pushes went.

A backup that waits for WAL in vain can then say why archiving fails, in the words of the push that
failed: PostgreSQL only knows an exit code.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec

_SUCCESS = "push-last-success.json"
_ERROR = "push-last-error.json"


class PushNote(msgspec.Struct, frozen=True):
    """One push: the file's name, when it ended, and of a failed one what was said."""

    name: str
    time: datetime
    message: str | None = None
    hint: str | None = None


@dataclass(frozen=True)
class LastPush:
    """The last push that succeeded and the last one that failed, as far as this host knows."""

    success: PushNote | None
    error: PushNote | None

    @property
    def failing(self) -> bool:
        """Whether the newest of the two is the failed one."""
        if self.error is None:
            return False
        return self.success is None or self.error.time > self.success.time


def note_success(state_dir: Path | None, name: str) -> None:
    """Notes that `name` is stored."""
    _write(state_dir, _SUCCESS, PushNote(name, datetime.now(UTC)))


def note_error(state_dir: Path | None, name: str, message: str, hint: str | None = None) -> None:
    """Notes that `name` was not stored, and why."""
    _write(state_dir, _ERROR, PushNote(name, datetime.now(UTC), message, hint))


def last_push(state_dir: Path | None) -> LastPush:
    """What was noted. A note that can't be read counts as none."""
    return LastPush(_read(state_dir, _SUCCESS), _read(state_dir, _ERROR))


def _write(state_dir: Path | None, file: str, note: PushNote) -> None:
    # A note helps a message later; a full or read-only disk must not fail the push itself.
    if state_dir is None:
        return
    temporary = state_dir / f".{file}.{os.getpid()}"
    try:
        state_dir.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(msgspec.json.encode(note))
        temporary.replace(state_dir / file)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()


def _read(state_dir: Path | None, file: str) -> PushNote | None:
    if state_dir is None:
        return None
    try:
        return msgspec.json.decode((state_dir / file).read_bytes(), type=PushNote)
    except (OSError, msgspec.DecodeError):
        return None


def describe_last_push(state_dir: Path | None) -> str:
    """The last push of this host in words, for messages about archiving."""
    known = last_push(state_dir)
    if known.error is not None and known.failing:
        hint = f" ({known.error.hint})" if known.error.hint else ""
        return (
            f"the last wal push here, of {known.error.name} at {_moment(known.error.time)}, "
            f"failed: {known.error.message}{hint}"
        )
    if known.success is not None:
        return (
            f"the last wal push here, of {known.success.name} at {_moment(known.success.time)}, "
            "succeeded"
        )
    return "no wal push has run on this host"


def _moment(time: datetime) -> str:
    return time.astimezone(UTC).isoformat(sep=" ", timespec="seconds")
