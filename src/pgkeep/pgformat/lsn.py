"""Log sequence numbers: byte positions in the WAL, as integers.

PostgreSQL writes them as two hexadecimal halves (LSN_FORMAT_ARGS in
src/include/access/xlogdefs.h).
"""

from __future__ import annotations

import re

from pgkeep.errors import NotPostgres

Lsn = int

_TEXT = re.compile(r"([0-9A-Fa-f]{1,8})/([0-9A-Fa-f]{1,8})")


def parse_lsn(text: str) -> Lsn:
    """From "0/16B3748". Raises NotPostgres for anything else."""
    match = _TEXT.fullmatch(text)
    if match is None:
        raise NotPostgres(f"{text!r} is not an LSN", hint="an LSN looks like 16/B374D848")
    return int(match[1], 16) << 32 | int(match[2], 16)


def format_lsn(lsn: Lsn) -> str:
    """As the server writes it: capitals, no leading zeros."""
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"
