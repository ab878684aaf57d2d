"""Log sequence numbers: positions in the WAL, in bytes (src/include/access/xlogdefs.h)."""

from __future__ import annotations

import re

from pgkeep.errors import NotPostgres

Lsn = int

_TEXT = re.compile(r"([0-9A-Fa-f]{1,8})/([0-9A-Fa-f]{1,8})")


def parse_lsn(text: str) -> Lsn:
    """`0/16B3748` as a number; raises NotPostgres."""
    found = _TEXT.fullmatch(text.strip())
    if found is None:
        raise NotPostgres(f"{text!r} is not an LSN", hint="an LSN looks like 0/16B3748")
    return int(found[1], 16) << 32 | int(found[2], 16)


def format_lsn(lsn: Lsn) -> str:
    """A number as PostgreSQL prints it."""
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"
