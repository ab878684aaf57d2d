"""Writes what makes the server recover to the chosen target, and the manifest of what is there.

The server reads backup_label and recovery.signal at its start (src/backend/access/transam/
xlogrecovery.c, `InitWalRecovery`). standby.signal, an older recovery.signal and tablespace_map were
never placed: the first would beat ours, the last would lead the links back to the old directories.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pgkeep.errors import Damaged
from pgkeep.pgformat.crc32c import crc32c
from pgkeep.pgformat.label import strip_incremental
from pgkeep.pgformat.manifest import MANIFEST_FILE, ManifestFile, parse_manifest, write_manifest
from pgkeep.restore.destination import Owner
from pgkeep.restore.plan import LEFT_OUT
from pgkeep.restore.settings import Setting, recovery_lines, rewrite
from pgkeep.restore.target import Choice, Kind

AUTO_CONF = "postgresql.auto.conf"
BACKUP_LABEL = "backup_label"
RECOVERY_SIGNAL = "recovery.signal"
_MAIN_CONF = "postgresql.conf"
_DATA_DIRECTORY = re.compile(
    rb"^\s*data_directory\s*=?\s*'([^'\n]*)'", re.MULTILINE | re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Wish:
    """What recovery is to do. `manifest` is the server's own, as it was when backed up."""

    choice: Choice
    restore_command: str
    archive: bool
    manifest: bytes


def write(root: Path, owner: Owner, wish: Wish) -> list[str]:
    """Writes the files, each durably; returns what the user should know of the restored ones.

    Raises Damaged when the backup has no backup_label, OSError for what the system refuses.
    """
    label = label_of(wish)
    mode = 0o640 if wish.choice.record.directory_mode & 0o050 else 0o600
    files: list[tuple[str, Iterable[bytes]]] = [
        (BACKUP_LABEL, [label]),
        (AUTO_CONF, [auto_conf(_read(root / AUTO_CONF), wish)]),
        (RECOVERY_SIGNAL, []),
    ]
    if wish.manifest:
        major = wish.choice.record.server_version_num // 10_000
        files.append((MANIFEST_FILE, fresh_manifest(wish.manifest, label, major=major)))
    for name, pieces in files:
        _write_file(root / name, pieces, mode, owner)
    return cautions(root, wish)


def label_of(wish: Wish) -> bytes:
    """The backup_label for the server: a label of an incremental backup would make it refuse."""
    label = wish.choice.record.backup_label.encode("utf-8", "surrogateescape")
    if not label:
        raise Damaged(f"backup {wish.choice.record.id} has no backup_label")
    return strip_incremental(label)


def auto_conf(old: bytes, wish: Wish) -> bytes:
    """postgresql.auto.conf with our recovery settings instead of older ones."""
    target = wish.choice.target
    extra: list[Setting] = []
    if target.action == "pause" and target.kind is not Kind.LATEST:
        # Without hot standby PostgreSQL turns a pause into a shutdown.
        extra.append(("hot_standby", "on"))
    if not wish.archive:
        extra.append(("archive_mode", "off"))
    lines = recovery_lines(
        about=f"recovery of backup {wish.choice.record.id} to {target}",
        restore_command=wish.restore_command,
        timeline=wish.choice.timeline,
        target=target.setting(),
        inclusive=target.inclusive,
        action=target.action,
        extra=extra,
    )
    return rewrite(old, lines)


def fresh_manifest(manifest: bytes, label: bytes, *, major: int) -> Iterable[bytes]:
    """A manifest of what was restored, in pieces, which `pg_verifybackup -n` accepts.

    It ignores postgresql.auto.conf and the signal files by itself (pg_verifybackup.c). Raises
    NotPostgres when `manifest` is none.
    """
    old = parse_manifest(manifest)
    files = (
        _label_entry(file, label) if file.path == BACKUP_LABEL else file
        for file in old.files
        if file.path == BACKUP_LABEL or os.fsencode(file.path) not in LEFT_OUT
    )
    return write_manifest(
        files,
        major=major,
        system_identifier=old.system_identifier or 0,
        wal_ranges=old.wal_ranges,
    )


def _label_entry(file: ManifestFile, label: bytes) -> ManifestFile:
    checksum = crc32c(label).to_bytes(4, "little").hex()
    return file._replace(size=len(label), algorithm="CRC32C", checksum=checksum)


def cautions(root: Path, wish: Wish) -> list[str]:
    """What about the restored configuration may surprise whoever starts the server."""
    found = []
    content = _read(root / _MAIN_CONF)
    if not (root / _MAIN_CONF).exists():
        found.append(
            "the backup has no postgresql.conf (the server kept it elsewhere): put it, pg_hba.conf "
            f"and pg_ident.conf into {root} or start the server with -c config_file"
        )
    for match in _DATA_DIRECTORY.finditer(content):
        directory = os.fsdecode(match.group(1))
        if os.path.realpath(directory) != str(root.resolve()):
            found.append(
                f"postgresql.conf sets data_directory = '{directory}': the server would use that "
                f"directory instead of {root}; change it before the start"
            )
    if wish.choice.record.warnings:
        found.append("when it was backed up: " + "; ".join(wish.choice.record.warnings))
    return found


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


def _write_file(path: Path, pieces: Iterable[bytes], mode: int, owner: Owner) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(path, flags, 0o600), "wb") as file:
        owner.give(file.fileno())
        os.fchmod(file.fileno(), mode)
        file.writelines(pieces)
        file.flush()
        os.fsync(file.fileno())
