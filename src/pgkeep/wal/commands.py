"""The shell lines for PostgreSQL's archive_command and restore_command.

PostgreSQL reads exit codes its own way (src/backend/access/transam/xlogarchive.c and
postmaster/pgarch.c): to restore_command 1 to 125 all mean "absent", so that recovery ends and
promotes, and more, or a signal, stops the server; more than 125 from archive_command kills the
archiver. A traceback exits with 1, a missing interpreter with 127. So only the one code that
`wal fetch` uses for "absent" may get through as 1.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from pgkeep.errors import EXIT_WAL_ABSENT


def archive_command(pgkeep: Sequence[str]) -> str:
    """The line that archives one file: exits 0 when it is stored, else 1.

    `pgkeep` is the program and its global options, as for exec.
    """
    return f'{_quoted(pgkeep)} wal push "%p" || exit 1'


def restore_command(pgkeep: Sequence[str], *, timeline: int | None = None) -> str:
    """The line that fetches one file: exits 0 when it is there, 1 when it is absent, else 126.

    `timeline` pins the history to serve. On a standby failing means trying again later, or
    streaming, where 126 would stop the server: there (PostgreSQL runs the command in its data
    directory) everything but success is 1.
    """
    pinned = "" if timeline is None else f" --timeline {timeline}"
    return (
        f'{_quoted(pgkeep)} wal fetch{pinned} "%f" "%p"; '
        f"case $? in 0) exit 0;; {EXIT_WAL_ABSENT}) exit 1;; "
        "*) [ -f standby.signal ] && exit 1; exit 126;; esac"
    )


def _quoted(words: Sequence[str]) -> str:
    """Words for sh, with the per cent sign doubled for PostgreSQL."""
    return shlex.join(words).replace("%", "%%")
