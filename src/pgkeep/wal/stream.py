"""Takes the WAL of one backup over a replication connection of its own, beside the base backup.

1. Before the backup reads anything: a temporary slot, so that the server keeps the WAL, and the
   timeline's history file.
2. A thread streams from the start of the first segment and stores every whole segment by the code
   of `push`; a segment that archiving stored meanwhile is the same bytes.
3. `finish` waits until the segment with the backup's end is whole. It is never filled up with zeros
   here: under its own name that would stand in the way of the real one.
"""

from __future__ import annotations

import os
import secrets
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING

from pgkeep.errors import ArchiveStalled, PgkeepError, ServerGone, WrongCluster
from pgkeep.pgformat.lsn import Lsn, format_lsn
from pgkeep.pgformat.walname import SegmentName, history_name
from pgkeep.pgserver.replication import ReplicationConnection, WalStream
from pgkeep.wal.push import push_bytes

if TYPE_CHECKING:
    from pgkeep.repo.repository import Repository

_READ_SECONDS = 0.2
_SWITCH_AFTER = 2.0


def stream_backup_wal(
    repo: Repository,
    cluster: str,
    conninfo: str,
    *,
    start_lsn: Lsn,
    timeline: int,
    segment_size: int,
    system_identifier: int,
    level: int = 1,
) -> BackupWalStream:
    """Starts streaming from the segment with `start_lsn`; use it in a `with` block.

    Raises ServerError, WrongCluster and what push raises for the history file.
    """
    connection = ReplicationConnection.connect(conninfo)
    try:
        found = connection.identify().system_identifier
        if found != system_identifier:
            raise WrongCluster(
                f"conninfo leads to another server now: system identifier {found} instead of "
                f"{system_identifier}",
                hint="name one host in conninfo",
            )
        store_history(repo, cluster, connection, timeline, system_identifier=system_identifier)
        confirm = not _may_be_synchronous(connection)
        slot = f"pgkeep_{os.getpid()}_{secrets.token_hex(4)}"
        connection.create_slot(slot)
        first = SegmentName(timeline, start_lsn // segment_size)
        stream = connection.start_replication(first.start(segment_size), timeline, slot=slot)
    except BaseException:
        connection.close()
        raise

    def store(name: str, raw: bytes) -> None:
        push_bytes(repo, cluster, name, raw, system_identifier=system_identifier, level=level)

    return BackupWalStream(connection, stream, first, segment_size, store, confirm=confirm)


def store_history(
    repo: Repository,
    cluster: str,
    connection: ReplicationConnection,
    timeline: int,
    *,
    system_identifier: int,
) -> None:
    """Stores the server's history file of `timeline`; timeline 1 has none.

    A cluster that was promoted before it was archived here never archives that file again, and
    without it PostgreSQL refuses the timeline as a recovery target.
    """
    content = connection.timeline_history(timeline)
    if content is not None:
        push_bytes(
            repo, cluster, history_name(timeline), content, system_identifier=system_identifier
        )


def _may_be_synchronous(connection: ReplicationConnection) -> bool:
    """Whether commits on the server might wait for the positions that we report."""
    listed = connection.setting("synchronous_standby_names")
    return "*" in listed or connection.setting("application_name") in listed


class BackupWalStream:
    """A thread that stores WAL segments; its errors are raised by `check` and `finish`."""

    def __init__(
        self,
        connection: ReplicationConnection,
        stream: WalStream,
        first: SegmentName,
        segment_size: int,
        store: Callable[[str, bytes], None],
        *,
        confirm: bool,
    ) -> None:
        self._connection = connection
        self._stream = stream
        self._next = first
        self._size = segment_size
        self._store = store
        self._confirm = confirm
        self._names: list[str] = []
        self._received = first.start(segment_size)
        self._last_arrival = 0.0
        self._stopping = threading.Event()
        self._changed = threading.Condition()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="pgkeep-wal-stream", daemon=True)

    def __enter__(self) -> BackupWalStream:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stopping.set()
        self._thread.join()
        self._connection.close()

    def finish(
        self, stop_lsn: Lsn, *, timeout: float, switch: Callable[[], object] | None = None
    ) -> tuple[str, ...]:
        """Waits until all WAL before `stop_lsn` is stored; returns the names of its segments.

        `switch` asks the server to close its current segment; a refusal is no failure, for somebody
        else's WAL may fill it. `timeout` (seconds) runs anew whenever WAL arrives. Raises
        ArchiveStalled when none did for that long, and whatever stopped the thread.
        """
        last = (stop_lsn - 1) // self._size
        began = time.monotonic()
        refused: PgkeepError | None = None
        asked = switch is None
        while not self._done(last, _READ_SECONDS):
            if self._idle_since(began) > timeout:
                raise self._stalled(last, timeout, refused)
            if not asked and switch is not None and time.monotonic() - began > _SWITCH_AFTER:
                # The server switches by itself when a backup on a primary ends: this is for when
                # that did not happen.
                asked = True
                try:
                    switch()
                except PgkeepError as error:
                    refused = error
        return tuple(self._names)

    def check(self) -> None:
        """Raises what stopped the thread, so that a long backup fails early."""
        with self._changed:
            if self._error is not None:
                raise self._error

    def _done(self, last: int, seconds: float) -> bool:
        with self._changed:
            if self._error is None and self._next.number <= last:
                self._changed.wait(seconds)
            if self._next.number > last:
                return True
            if self._error is not None:
                raise self._error
            return False

    def _idle_since(self, began: float) -> float:
        return time.monotonic() - max(began, self._last_arrival)

    def _stalled(self, last: int, timeout: float, refused: PgkeepError | None) -> ArchiveStalled:
        name = SegmentName(self._next.timeline, last).name(self._size)
        why = f"; the server would not close it: {refused.message}" if refused else ""
        return ArchiveStalled(
            f"segment {name}, in which the backup ends, is not complete: WAL was received up to "
            f"{format_lsn(self._received)} and none arrived for {timeout:.0f} s{why}",
            hint="on the primary: SELECT pg_switch_wal(); a standby has only the WAL that its "
            "primary writes",
        )

    def _run(self) -> None:
        buffer = bytearray()
        try:
            while not self._stopping.is_set():
                piece = self._stream.read(_READ_SECONDS)
                if piece is not None:
                    self._take(piece.start, piece.data, buffer)
                elif self._stream.over:
                    raise ServerGone(
                        "the server ended the WAL stream before the backup was complete",
                        hint="it was stopped or promoted: look at its log",
                    )
        except BaseException as error:  # noqa: BLE001 - `finish` raises it in the caller's thread
            with self._changed:
                self._error = error
                self._changed.notify_all()

    def _take(self, start: Lsn, data: memoryview, buffer: bytearray) -> None:
        if start != self._received:
            raise ServerGone(
                f"the server sent WAL from {format_lsn(start)} where "
                f"{format_lsn(self._received)} was due"
            )
        buffer += data
        self._received += len(data)
        self._last_arrival = time.monotonic()
        if self._confirm:
            # The slot serves only this backup, which fails when we do: so "received" may stand for
            # "flushed". A position that lagged would hold up a fast shutdown of the server. Where
            # commits could wait for us none is reported, and the slot keeps all WAL until the end.
            self._stream.flushed = self._received
        while len(buffer) >= self._size:
            name = self._next.name(self._size)
            self._store(name, bytes(memoryview(buffer)[: self._size]))
            del buffer[: self._size]
            with self._changed:
                self._names.append(name)
                self._next = SegmentName(self._next.timeline, self._next.number + 1)
                self._changed.notify_all()
            if self._confirm:
                self._stream.confirm(self._received)
