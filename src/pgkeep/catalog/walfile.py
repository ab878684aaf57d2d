"""What the footer of a stored WAL file says of it (docs/format.md, section 7).

It is sealed with the map key, so a host that may archive but not read contents can still tell what
is stored.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec

from pgkeep.codec.container import Kind
from pgkeep.errors import Damaged, FormatError
from pgkeep.pgformat.lsn import format_lsn, parse_lsn
from pgkeep.pgformat.walsummary import WalSummary
from pgkeep.repo import names
from pgkeep.repo.objects import read_footer

if TYPE_CHECKING:
    from pgkeep.repo.repository import Repository


class WalHeader(msgspec.Struct, frozen=True):
    """Of the first page of a segment: its timeline, the cluster's identity, the major version."""

    timeline: int
    system_identifier: int
    version: int


class WalFile(msgspec.Struct, frozen=True, omit_defaults=True):
    """A stored WAL file: `size` in bytes, `sha256` in hexadecimal, both of the file itself.

    `summary` is WalSummary's JSON; `history` are the lines of a history file: timeline and the LSN,
    as text, at which it was left.
    """

    name: str
    size: int
    sha256: str
    time: str
    header: WalHeader | None = None
    summary: dict[str, Any] | None = None
    history: tuple[tuple[int, str], ...] | None = None

    @property
    def pushed(self) -> datetime:
        return names.parse_time(self.time)

    def wal_summary(self) -> WalSummary | None:
        """What the WAL contains; None where there is no summary that this version understands."""
        if self.summary is None:
            return None
        try:
            return WalSummary.from_json(self.summary)
        except FormatError:
            return None

    def switches(self) -> tuple[tuple[int, int], ...]:
        """A history file's lines: (timeline, LSN at which it was left), oldest first."""
        return tuple((timeline, parse_lsn(lsn)) for timeline, lsn in self.history or ())


def history_lines(switches: tuple[tuple[int, int], ...]) -> tuple[tuple[int, str], ...]:
    """Lines as `WalFile.history` has them."""
    return tuple((timeline, format_lsn(lsn)) for timeline, lsn in switches)


def decode(meta: bytes, object_name: str) -> WalFile:
    """Reads a footer's JSON; raises Damaged, naming the object."""
    try:
        return msgspec.json.decode(meta, type=WalFile)
    except msgspec.DecodeError as problem:
        raise Damaged(f"{object_name} does not describe a WAL file: {problem}") from problem


def read(repo: Repository, object_name: str) -> WalFile:
    """What is stored under a name, from its footer only.

    Raises ObjectMissing, Damaged, NewerFormat or KeyProblem.
    """
    return decode(read_footer(repo, Kind.WAL, object_name).footer.meta, object_name)
