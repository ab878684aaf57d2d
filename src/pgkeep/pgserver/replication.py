"""The replication protocol on libpq (`psycopg.pq`).

Sources: the documentation's "Streaming Replication Protocol", src/backend/backup/basebackup.c and
basebackup_copy.c. Copy data is read without blocking and the socket waited for: libpq's blocking
read would keep the GIL, and the threads that compress would starve.
"""

from __future__ import annotations

import select
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import TracebackType

from psycopg import pq
from psycopg.pq.abc import PGconn, PGresult

from pgkeep.errors import ServerError, ServerGone
from pgkeep.pgformat.lsn import Lsn, format_lsn, parse_lsn
from pgkeep.pgserver.failures import explain, first_line
from pgkeep.pgserver.session import complete_conninfo

CHECKSUM_FAILURE = b"XX001"
_EPOCH_OFFSET = 946_684_800
_OK = (pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK)


@dataclass(frozen=True, slots=True)
class System:
    """IDENTIFY_SYSTEM."""

    system_identifier: int
    timeline: int
    position: Lsn


@dataclass(frozen=True, slots=True)
class BaseBackupOptions:
    """`max_rate` in kB/s."""

    label: str = "pgkeep"
    fast_checkpoint: bool = True
    progress: bool = True
    max_rate: int | None = None


@dataclass(frozen=True, slots=True)
class StreamedTablespace:
    """A tablespace as BASE_BACKUP lists it; `oid` None for the data directory; size in bytes."""

    oid: int | None
    location: str | None
    size: int | None


@dataclass(frozen=True, slots=True)
class XLogData:
    """A piece of WAL from `start`; `end` is where the server's WAL ends."""

    start: Lsn
    end: Lsn
    data: memoryview


class ReplicationConnection:
    """A physical replication connection; it can't run SQL. Belongs to one thread but `cancel`."""

    def __init__(self, conn: PGconn) -> None:
        self._conn = conn
        self.notices: list[str] = []
        conn.notice_handler = self._notice
        self._poll = select.poll()
        self._poll.register(conn.socket, select.POLLIN)

    @classmethod
    def connect(cls, conninfo: str) -> ReplicationConnection:
        """Connects; raises ServerError or ServerGone with what to do about it."""
        text = complete_conninfo(conninfo, replication="true")
        conn = pq.PGconn.connect(text.encode())
        if conn.status != pq.ConnStatus.OK:
            message = conn.get_error_message()
            conn.finish()
            raise explain("can't open a replication connection", message)
        return cls(conn)

    def __enter__(self) -> ReplicationConnection:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connection; whatever runs on it ends too."""
        self._conn.finish()

    def identify(self) -> System:
        """Who the server is and where its WAL ends."""
        row = self._rows("IDENTIFY_SYSTEM")[0]
        return System(int(row[0] or 0), int(row[1] or 0), parse_lsn(row[2] or ""))

    def setting(self, name: str) -> str:
        """The value of a server setting."""
        return self._rows(f"SHOW {name}")[0][0] or ""

    def timeline_history(self, timeline: int) -> bytes | None:
        """The history file's content; None for timeline 1, which has none."""
        if timeline == 1:
            return None
        result = self._exec(f"TIMELINE_HISTORY {timeline}")
        content = result.get_value(0, 1)
        return bytes(content) if content is not None else None

    def create_slot(self, name: str) -> None:
        """A temporary physical slot that reserves WAL from now on; it goes with the connection."""
        self._rows(f'CREATE_REPLICATION_SLOT "{name}" TEMPORARY PHYSICAL RESERVE_WAL')

    def base_backup(self, options: BaseBackupOptions) -> BaseBackupStream:
        """Starts a base backup; nothing of it is read before the stream is."""
        quoted = options.label.replace("'", "''")
        words = [
            f"LABEL '{quoted}'",
            f"CHECKPOINT '{'fast' if options.fast_checkpoint else 'spread'}'",
            f"PROGRESS {'true' if options.progress else 'false'}",
            "WAL false",
            "WAIT false",
            "TABLESPACE_MAP true",
            "MANIFEST 'yes'",
            "MANIFEST_CHECKSUMS 'CRC32C'",
            "VERIFY_CHECKSUMS true",
        ]
        if options.max_rate is not None:
            words.append(f"MAX_RATE {options.max_rate}")
        self._send(f"BASE_BACKUP ({', '.join(words)})")
        return BaseBackupStream(self)

    def start_replication(self, start: Lsn, timeline: int, *, slot: str | None = None) -> WalStream:
        """Starts streaming WAL from `start`."""
        using = f'SLOT "{slot}" ' if slot is not None else ""
        self._send(f"START_REPLICATION {using}PHYSICAL {format_lsn(start)} TIMELINE {timeline}")
        result = self._result()
        if result is None or result.status != pq.ExecStatus.COPY_BOTH:
            raise self._refused("the server does not stream WAL", result)
        return WalStream(self)

    def _notice(self, result: PGresult) -> None:
        text = result.error_message.decode("utf-8", "replace").strip()
        self.notices.append(text)

    def _send(self, command: str) -> None:
        try:
            self._conn.send_query(command.encode())
        except Exception as error:
            if self._conn.status == pq.ConnStatus.OK and not _is_libpq(error):
                raise
            raise explain("the connection to the server broke", str(error)) from None

    def _exec(self, command: str) -> PGresult:
        self._send(command)
        result = self._result()
        if result is None or result.status not in _OK:
            raise self._refused(f"the server refused {command.split('(')[0].strip()}", result)
        while self._result() is not None:
            pass
        return result

    def _rows(self, command: str) -> list[list[str | None]]:
        return rows_of(self._exec(command))

    def _result(self) -> PGresult | None:
        """The next result, waiting for it without keeping the GIL."""
        while self._conn.is_busy():
            self._wait(None)
        return self._conn.get_result()

    def _wait(self, seconds: float | None) -> bool:
        """Waits for bytes and takes them in; False when none came in time."""
        if not self._poll.poll(None if seconds is None else int(seconds * 1000)):
            return False
        try:
            self._conn.consume_input()
        except Exception as error:
            if not _is_libpq(error):
                raise
            raise _gone(str(error)) from None
        return True

    def _refused(self, doing: str, result: PGresult | None) -> ServerError:
        text = result.error_message.decode("utf-8", "replace") if result is not None else ""
        return explain(doing, text or self._conn.get_error_message())

    def copy_data(self, seconds: float | None = None) -> memoryview | None:
        """The next copy message; None at the end of the copy or when `seconds` pass without one.

        After None, `copying` tells which of the two it was.
        """
        while True:
            try:
                length, data = self._conn.get_copy_data(1)
            except Exception as error:
                if not _is_libpq(error):
                    raise
                raise _gone(str(error)) from None
            if length > 0:
                return memoryview(data)
            if length == -1:
                self.copying = False
                return None
            if not self._wait(seconds):
                return None

    copying = True


def _is_libpq(error: Exception) -> bool:
    import psycopg

    return isinstance(error, psycopg.OperationalError)


def _gone(text: str) -> ServerGone:
    found = explain("the connection to the server broke", text)
    return ServerGone(
        found.message,
        hint="look at the server's log: it stopped, crashed, or somebody ended the connection",
    )


def rows_of(result: PGresult) -> list[list[str | None]]:
    """A result's rows as text."""
    return [
        [_text(result.get_value(row, column)) for column in range(result.nfields)]
        for row in range(result.ntuples)
    ]


def _text(value: bytes | None) -> str | None:
    return value.decode("utf-8", "surrogateescape") if value is not None else None


@dataclass
class BaseBackupStream:
    """One BASE_BACKUP: `start`, then `messages` to the end, then the stop position is known.

    `checksum_error` is what the server says after a complete stream when it found wrong page
    checksums: everything has been sent, so it is no failure.
    """

    connection: ReplicationConnection
    start_lsn: Lsn = 0
    start_timeline: int = 0
    stop_lsn: Lsn = 0
    stop_timeline: int = 0
    tablespaces: list[StreamedTablespace] = field(default_factory=list)
    checksum_error: str | None = None

    def start(self) -> None:
        """Waits for the checkpoint and the list of tablespaces; raises ServerError."""
        row = rows_of(self._expect(pq.ExecStatus.TUPLES_OK))[0]
        self.start_lsn, self.start_timeline = parse_lsn(row[0] or ""), int(row[1] or 0)
        for oid, location, size in rows_of(self._expect(pq.ExecStatus.TUPLES_OK)):
            self.tablespaces.append(
                StreamedTablespace(
                    int(oid) if oid else None, location, int(size) * 1024 if size else None
                )
            )
        self._expect(pq.ExecStatus.COPY_OUT)

    def messages(self) -> Iterator[memoryview]:
        """Every copy message; raises ServerGone or ServerError if the server stops half-way."""
        connection = self.connection
        connection.copying = True
        while (message := connection.copy_data()) is not None:
            yield message
        self._finish()

    def _expect(self, status: pq.ExecStatus) -> PGresult:
        result = self.connection._result()
        if result is None or result.status != status:
            raise self.connection._refused("the server does not make a base backup", result)
        return result

    def _finish(self) -> None:
        results: list[PGresult] = []
        while (result := self.connection._result()) is not None:
            results.append(result)
        for result in results:
            if result.status == pq.ExecStatus.TUPLES_OK:
                row = rows_of(result)[0]
                self.stop_lsn, self.stop_timeline = parse_lsn(row[0] or ""), int(row[1] or 0)
            elif result.status == pq.ExecStatus.FATAL_ERROR:
                self._failed(result)
        if not self.stop_lsn:
            raise ServerError(
                "the server ended the base backup without saying where it ends",
                hint="look at the server's log",
            )

    def _failed(self, result: PGresult) -> None:
        text = result.error_message.decode("utf-8", "replace")
        state = result.error_field(pq.DiagnosticField.SQLSTATE)
        if state == CHECKSUM_FAILURE and self.stop_lsn:
            self.checksum_error = first_line(text)
            return
        raise explain("the server gave the base backup up", text)


class WalStream:
    """Physical streaming: `read` messages, answer with `confirm`."""

    def __init__(self, connection: ReplicationConnection) -> None:
        self._connection = connection
        connection.copying = True
        self.flushed = 0

    def read(self, seconds: float) -> XLogData | None:
        """The next WAL; None when none came for so long or the stream is over (see `over`)."""
        deadline = time.monotonic() + seconds
        while True:
            left = deadline - time.monotonic()
            message = self._connection.copy_data(max(left, 0))
            if message is None:
                return None
            if message[0] == ord("w"):
                start = int.from_bytes(message[1:9], "big")
                end = int.from_bytes(message[9:17], "big")
                return XLogData(start, end, message[25:])
            if message[0] == ord("k") and message[17]:
                self.confirm(self.flushed)

    @property
    def over(self) -> bool:
        """Whether the server ended the stream: its timeline ended, or it is stopping."""
        return not self._connection.copying

    def confirm(self, flushed: Lsn) -> None:
        """Tells the server what is durable here."""
        self.flushed = flushed
        now = int((time.time() - _EPOCH_OFFSET) * 1_000_000)
        position = flushed.to_bytes(8, "big")
        # Nothing is applied here: a made-up apply position would satisfy remote_apply wrongly.
        message = b"r" + position * 2 + bytes(8) + now.to_bytes(8, "big") + b"\0"
        self._connection._conn.put_copy_data(message)
        self._connection._conn.flush()
