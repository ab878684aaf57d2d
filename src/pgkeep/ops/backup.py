"""`backup`: the engine with the configuration's source, repository and WAL."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pgkeep.backup.plan import BackupOptions, WalSource
from pgkeep.backup.run import BackupWal, Source, StreamWal, run
from pgkeep.catalog.records import Record
from pgkeep.config.model import Chosen
from pgkeep.events import Emit
from pgkeep.ops.wiring import open_chosen
from pgkeep.pgformat.lsn import Lsn
from pgkeep.pgserver.session import ServerFacts, Session
from pgkeep.repo.repository import Repository
from pgkeep.wal.pushlog import describe_last_push
from pgkeep.wal.stream import BackupWalStream, stream_backup_wal


def backup(
    chosen: Chosen,
    *,
    label: str | None = None,
    backup_class: str | None = None,
    wal: WalSource = "archive",
    fast_checkpoint: bool = True,
    emit: Emit,
) -> Record:
    """Makes a backup; raises what `backup.run.run` does."""
    repo = open_chosen(chosen)
    options = BackupOptions(
        label=label,
        backup_class=backup_class,
        wal=wal,
        fast_checkpoint=fast_checkpoint,
        level=chosen.repository.compression_level,
        archive_timeout=chosen.cluster.archive_timeout,
    )
    source = Source(
        chosen.cluster.conninfo,
        stream_wal=_wal_streamer(repo, chosen),
        last_push=_last_push(chosen),
    )
    return run(repo, chosen.cluster_name, source, options, emit)


def _last_push(chosen: Chosen) -> Callable[[], str]:
    return lambda: describe_last_push(chosen.state_dir)


class _Streamed:
    """The WAL stream as a backup sees it: it only wants to know when everything is there."""

    def __init__(self, stream: BackupWalStream, chosen: Chosen) -> None:
        self._stream = stream
        self._chosen = chosen

    def finish(self, stop_lsn: Lsn) -> None:
        def switch() -> None:
            with Session.connect(self._chosen.cluster.conninfo) as session:
                session.switch_wal()

        timeout = self._chosen.cluster.archive_timeout
        self._stream.finish(stop_lsn, timeout=timeout, switch=switch)


def _wal_streamer(repo: Repository, chosen: Chosen) -> StreamWal:
    @contextmanager
    def begin(facts: ServerFacts, start: Lsn, timeline: int) -> Iterator[BackupWal]:
        with stream_backup_wal(
            repo,
            chosen.cluster_name,
            chosen.cluster.conninfo,
            start_lsn=start,
            timeline=timeline,
            segment_size=facts.segment_size,
            system_identifier=facts.system_identifier,
            level=chosen.repository.compression_level,
        ) as stream:
            yield _Streamed(stream, chosen)

    return begin
