"""What libpq and the server say, as our errors with a remedy."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pgkeep.errors import ServerError, ServerGone

_REMEDIES: Sequence[tuple[str, type[ServerError], str]] = (
    (
        r"no pg_hba\.conf entry for replication",
        ServerError,
        "add a line to pg_hba.conf and reload: host replication pgkeep <address> scram-sha-256",
    ),
    (r"no pg_hba\.conf entry", ServerError, "add a line for this user to pg_hba.conf and reload"),
    (
        r"password authentication failed|no password supplied",
        ServerError,
        "put the password into ~/.pgpass, PGPASSFILE or a service file (never into conninfo)",
    ),
    (
        r"replication role|permission denied to start WAL sender|must be superuser or replication",
        ServerError,
        "as a superuser: ALTER ROLE <user> REPLICATION",
    ),
    (r'role ".*" does not exist', ServerError, "create the role, or mend user in conninfo"),
    (r'database ".*" does not exist', ServerError, "mend dbname in conninfo"),
    (
        r"Connection refused|No such file or directory|could not connect",
        ServerGone,
        "is the server running, and are host and port in conninfo right?",
    ),
    (r"could not translate host name|Name or service", ServerGone, "mend host in conninfo"),
    (r"starting up|not yet accepting", ServerGone, "the server is starting: try again soon"),
    (r"shutting down", ServerGone, "the server is stopping"),
    (
        r"too many clients|remaining connection slots|number of requested standby connections",
        ServerGone,
        "raise max_connections or max_wal_senders, or wait",
    ),
    (
        r"timeout expired|timed out",
        ServerGone,
        "is host in conninfo right, and no firewall between?",
    ),
    (r"permission denied for function", ServerError, "grant it: pgkeep init prints the statements"),
    (
        r"server closed the connection|connection to server was lost|terminating connection"
        r"|SSL SYSCALL|EOF detected|connection not open|no connection to the server",
        ServerGone,
        "look at the server's log: it stopped, crashed, or somebody ended the connection",
    ),
)


def explain(doing: str, text: str) -> ServerError:
    """The error for what the server or libpq said while we were `doing` something."""
    message = first_line(text) or "the connection broke"
    for pattern, kind, hint in _REMEDIES:
        if re.search(pattern, text):
            return kind(f"{doing}: {message}", hint=hint)
    return ServerError(f"{doing}: {message}", hint="the server's log may say more")


def first_line(text: str) -> str:
    """The message itself, without libpq's prefixes and its further lines."""
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    if not lines:
        return ""
    best = next((line for line in lines if "FATAL:" in line or "ERROR:" in line), lines[0])
    return re.sub(r"^.*?(FATAL|ERROR):\s*", "", best)
