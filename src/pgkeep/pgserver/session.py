"""SQL to a live server, and what it says of itself."""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any

from pgkeep.errors import ConfigError, ServerError
from pgkeep.pgformat.lsn import Lsn, parse_lsn
from pgkeep.pgserver.failures import explain

if TYPE_CHECKING:
    import psycopg

CONNECT_TIMEOUT = 10
_SETTINGS = (
    "archive_command",
    "archive_library",
    "archive_mode",
    "archive_timeout",
    "block_size",
    "data_directory",
    "data_directory_mode",
    "data_checksums",
    "full_page_writes",
    "max_wal_senders",
    "segment_size",
    "summarize_wal",
    "unix_socket_directories",
    "wal_level",
    "wal_segment_size",
)


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """What a server says of itself; sizes in bytes. Settings that the role may not see are absent
    from `settings`."""

    version_num: int
    system_identifier: int
    timeline: int
    in_recovery: bool
    user: str
    superuser: bool
    replication: bool
    timezone: str
    segment_size: int
    block_size: int
    settings: dict[str, str]
    data_directory: str | None
    directory_mode: int
    os_user: str | None
    os_group: str | None


@dataclass(frozen=True, slots=True)
class ArchiverStatus:
    """pg_stat_archiver; times as text, None for never."""

    archived: int
    last_archived: str | None
    last_archived_time: str | None
    failed: int
    last_failed: str | None
    last_failed_time: str | None

    @property
    def failing(self) -> bool:
        """Whether the last thing that it did was to fail."""
        if self.last_failed_time is None:
            return False
        return self.last_archived_time is None or self.last_failed_time > self.last_archived_time


def complete_conninfo(conninfo: str, **extra: str) -> str:
    """`conninfo` with what we add; the database is `postgres` unless something names another."""
    import psycopg
    from psycopg.conninfo import conninfo_to_dict, make_conninfo

    try:
        known = conninfo_to_dict(conninfo)
    except psycopg.ProgrammingError as error:
        raise ConfigError(
            f"conninfo {conninfo!r} can't be read: {str(error).strip()}",
            hint="write it as in: host=localhost user=pgkeep",
        ) from None
    added: dict[str, Any] = dict(extra)
    if "dbname" not in known and "PGDATABASE" not in os.environ and "service" not in known:
        added.setdefault("dbname", "postgres")
    if "connect_timeout" not in known and "PGCONNECT_TIMEOUT" not in os.environ:
        added.setdefault("connect_timeout", str(CONNECT_TIMEOUT))
    if "application_name" not in known:
        added.setdefault("application_name", "pgkeep")
    return make_conninfo(conninfo, **added)


class Session:
    """An ordinary connection in autocommit mode; close it, or use `with`."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection

    @classmethod
    def connect(cls, conninfo: str) -> Session:
        """Connects; raises ServerError or ServerGone with what to do about it."""
        import psycopg

        try:
            connection = psycopg.connect(complete_conninfo(conninfo), autocommit=True)
        except psycopg.Error as error:
            raise explain("can't connect to the server", str(error)) from None
        return cls(connection)

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._connection.close()

    def query(self, sql: str, *args: object) -> list[tuple[Any, ...]]:
        """The rows of one statement (`%s` for arguments); none for statements without any."""
        with self._failing("the server refused a query"):
            cursor = self._connection.execute(sql.encode(), args or None)
            return cursor.fetchall() if cursor.description is not None else []

    def facts(self) -> ServerFacts:
        """Reads everything; raises ServerError when the role lacks a right that backups need."""
        with self._failing("the server's facts can't be read"):
            row = self._connection.execute(
                "SELECT current_setting('server_version_num')::int,"
                " (SELECT system_identifier FROM pg_control_system()),"
                " (SELECT timeline_id FROM pg_control_checkpoint()), pg_is_in_recovery(),"
                " current_user::text, rolsuper, rolreplication, current_setting('TimeZone'),"
                " current_setting('block_size')::int,"
                " pg_size_bytes(current_setting('wal_segment_size'))"
                " FROM pg_roles WHERE rolname = current_user"
            ).fetchone()
            settings = self._connection.execute(
                "SELECT name, setting FROM pg_settings WHERE name = ANY(%s)", (list(_SETTINGS),)
            ).fetchall()
        if row is None:
            raise ServerError("the server does not know the role that we are connected as")
        known = dict(settings)
        directory = known.get("data_directory")
        user, group = _owner_of(directory)
        return ServerFacts(
            version_num=row[0],
            system_identifier=row[1] & 0xFFFFFFFFFFFFFFFF,
            timeline=row[2],
            in_recovery=row[3],
            user=row[4],
            superuser=row[5],
            replication=row[5] or row[6],
            timezone=row[7],
            block_size=row[8],
            segment_size=row[9],
            settings=known,
            data_directory=directory,
            directory_mode=int(known.get("data_directory_mode", "0700"), 8),
            os_user=user,
            os_group=group,
        )

    def archiver(self) -> ArchiverStatus:
        """What pg_stat_archiver knows."""
        rows = self.query(
            "SELECT archived_count, last_archived_wal, last_archived_time::text, failed_count,"
            " last_failed_wal, last_failed_time::text FROM pg_stat_archiver"
        )
        return ArchiverStatus(*rows[0])

    def write_position(self) -> Lsn:
        """Where the server writes WAL now, or up to where a standby has replayed it."""
        rows = self.query(
            "SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn()"
            " ELSE pg_current_wal_lsn() END::text"
        )
        return parse_lsn(rows[0][0])

    def switch_wal(self) -> Lsn:
        """Closes the current segment; raises ServerError where the role may not."""
        return parse_lsn(self.query("SELECT pg_switch_wal()::text")[0][0])

    def try_lock(self, key: int) -> bool:
        """An advisory lock for as long as this session lives; False if another one has it."""
        return bool(self.query("SELECT pg_try_advisory_lock(%s)", key)[0][0])

    @contextmanager
    def _failing(self, doing: str) -> Iterator[None]:
        import psycopg

        try:
            yield
        except psycopg.Error as error:
            raise explain(doing, str(error)) from error


def _owner_of(directory: str | None) -> tuple[str | None, str | None]:
    """Names of the user and group that own a data directory, if it is on this host."""
    import grp

    if directory is None:
        return None, None
    try:
        info = os.stat(directory)
        return pwd.getpwuid(info.st_uid).pw_name, grp.getgrgid(info.st_gid).gr_name
    except (OSError, KeyError):
        return None, None
