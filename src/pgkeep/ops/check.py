"""`check`: everything that could stop a backup, archiving or a restore, each with its remedy.

Each look is a function that yields findings; one that fails doesn't keep the others from looking.
"""

from __future__ import annotations

import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeVar

from pgkeep.catalog.records import committed
from pgkeep.config.model import Chosen
from pgkeep.errors import PgkeepError
from pgkeep.events import Emit, PhaseEnded, PhaseStarted
from pgkeep.ops.wiring import command_line, open_chosen
from pgkeep.pgformat.walname import last_segment_before
from pgkeep.pgserver.replication import ReplicationConnection
from pgkeep.pgserver.session import ArchiverStatus, ServerFacts, Session
from pgkeep.repo import names
from pgkeep.repo.log import Log
from pgkeep.repo.repository import Repository
from pgkeep.store.open import local_path
from pgkeep.wal.commands import archive_command
from pgkeep.wal.pushlog import last_push

T = TypeVar("T")
Level = Literal["ok", "warning", "problem"]
ARCHIVING = "waiting for a segment to be archived"
_POLL = 0.2
_LITTLE_SPACE = 0.2


@dataclass(frozen=True, slots=True)
class Checked:
    """One thing that was looked at."""

    what: str
    level: Level
    text: str
    remedy: str | None = None


@dataclass(frozen=True)
class CheckReport:
    """Everything that was looked at, in order."""

    checked: list[Checked]

    @property
    def ok(self) -> bool:
        return all(item.level != "problem" for item in self.checked)

    def to_json(self) -> dict[str, Any]:
        return {"ok": self.ok, "checked": [asdict(item) for item in self.checked]}


def check(chosen: Chosen, *, switch: bool, emit: Emit) -> CheckReport:
    """Looks at the configuration, the keys, the repository, the server and archiving.

    `switch` closes the server's current segment, to see it arrive in the repository.
    """
    report = CheckReport([])
    repo = _attempt(report, "repository", lambda: open_chosen(chosen))
    if repo is not None:
        report.checked.append(Checked("repository", "ok", f"{repo.store.url} opens with this key"))
        _gather(report, "key file", lambda: _key_file(chosen, repo))
        _gather(report, "repository", lambda: _space(chosen))
        _gather(report, "backups", lambda: _backups(chosen, repo))
    session = _attempt(report, "server", lambda: Session.connect(chosen.cluster.conninfo))
    if session is None:
        return report
    with session:
        facts = _attempt(report, "server", session.facts)
        if facts is None:
            return report
        _gather(report, "server", lambda: _server(facts))
        _gather(report, "replication", lambda: _replication(chosen, facts))
        if repo is not None:
            _gather(report, "cluster", lambda: _cluster(chosen, repo, facts))
            _gather(
                report, "archiving", lambda: _archiving(chosen, repo, session, facts, switch, emit)
            )
    return report


def _attempt(report: CheckReport, what: str, look: Callable[[], T]) -> T | None:
    try:
        return look()
    except PgkeepError as error:
        report.checked.append(Checked(what, "problem", error.message, error.hint))
        return None


def _gather(report: CheckReport, what: str, look: Callable[[], Iterator[Checked]]) -> None:
    _attempt(report, what, lambda: report.checked.extend(look()))


def _key_file(chosen: Chosen, repo: Repository) -> Iterator[Checked]:
    if not repo.ring.encrypted:
        yield Checked(
            "key file", "warning", "the repository is not encrypted", "is that really wanted?"
        )
        return
    mode = stat.S_IMODE(chosen.key_file.stat().st_mode)
    if mode & 0o077:
        yield Checked(
            "key file",
            "problem",
            f"{chosen.key_file} can be read by others (mode {mode:04o})",
            f"chmod 600 {chosen.key_file}",
        )
    else:
        yield Checked("key file", "ok", f"{chosen.key_file} is for its owner only")


def _space(chosen: Chosen) -> Iterator[Checked]:
    root = local_path(chosen.repository.url)
    usage = shutil.disk_usage(root)
    share = usage.free / usage.total
    text = f"{usage.free >> 30} GiB of {usage.total >> 30} GiB are free ({share:.0%})"
    if not os.access(root, os.W_OK):
        yield Checked(
            "repository", "problem", f"no permission to write to {root}", "run as its owner or root"
        )
    elif share < _LITTLE_SPACE:
        yield Checked(
            "repository", "warning", f"over 80 % full: {text}", "make room before it is too late"
        )
    else:
        yield Checked("repository", "ok", text)


def _backups(chosen: Chosen, repo: Repository) -> Iterator[Checked]:
    found = committed(repo, chosen.cluster_name)
    if not found:
        yield Checked("backups", "warning", "there is no backup yet", "pgkeep backup")
        return
    age = time.time() - found[-1].stop_time.timestamp()
    text = f"{len(found)}, the newest is {age / 3600:.0f} hours old"
    if age > 36 * 3600:
        yield Checked("backups", "warning", text, "make one every night: pgkeep backup")
    else:
        yield Checked("backups", "ok", text)


def _server(facts: ServerFacts) -> Iterator[Checked]:
    version = f"PostgreSQL {facts.version_num // 10000}.{facts.version_num % 10000}"
    yield Checked("server", "ok", f"{version}, connected as {facts.user}")
    settings = facts.settings
    if facts.version_num < 150000:
        yield Checked("server", "problem", f"{version} is too old", "15 is the oldest supported")
    if settings.get("wal_level") == "minimal":
        yield Checked(
            "server",
            "problem",
            "wal_level is minimal: no backup can be made",
            "ALTER SYSTEM SET wal_level = 'replica'; then restart",
        )
    if settings.get("data_checksums") == "off":
        yield Checked(
            "server",
            "warning",
            "data checksums are off: damage on the server's disk would go unnoticed",
            "stop the server once and run pg_checksums --enable",
        )
    if settings.get("full_page_writes") == "off":
        yield Checked(
            "server",
            "warning",
            "full_page_writes is off: a crash can leave torn pages behind",
            "ALTER SYSTEM SET full_page_writes = 'on'; SELECT pg_reload_conf();",
        )


def _replication(chosen: Chosen, facts: ServerFacts) -> Iterator[Checked]:
    with ReplicationConnection.connect(chosen.cluster.conninfo) as connection:
        system = connection.identify().system_identifier
    if system != facts.system_identifier:
        yield Checked(
            "replication",
            "problem",
            f"conninfo leads to two servers: {facts.system_identifier} and {system}",
            "name one host, or one target_session_attrs, in conninfo",
        )
    else:
        yield Checked("replication", "ok", "a replication connection can be opened")


def _cluster(chosen: Chosen, repo: Repository, facts: ServerFacts) -> Iterator[Checked]:
    known = Log(repo, chosen.cluster_name).state().system_identifier
    if known is None:
        yield Checked(
            "cluster", "problem", f"{chosen.cluster_name} is not in the repository", "pgkeep init"
        )
    elif known != facts.system_identifier:
        yield Checked(
            "cluster",
            "problem",
            f"the repository keeps {chosen.cluster_name} as system {known}, the server is "
            f"{facts.system_identifier}",
            "mend conninfo, or give this server a [cluster.NAME] of its own",
        )
    else:
        yield Checked("cluster", "ok", f"system {known} is the repository's {chosen.cluster_name}")


def _archiving(
    chosen: Chosen,
    repo: Repository,
    session: Session,
    facts: ServerFacts,
    switch: bool,
    emit: Emit,
) -> Iterator[Checked]:
    settings = facts.settings
    if settings.get("archive_mode") == "off":
        yield Checked(
            "archiving",
            "problem",
            "archive_mode is off: nothing after a backup could be recovered",
            "ALTER SYSTEM SET archive_mode = 'on'; then restart",
        )
        return
    if settings.get("archive_library"):
        yield Checked(
            "archiving",
            "problem",
            f"archive_library is {settings['archive_library']}: archive_command is not called",
            "ALTER SYSTEM SET archive_library = ''; SELECT pg_reload_conf();",
        )
        return
    yield from _command(chosen, settings)
    known = last_push(chosen.state_dir)
    status = session.archiver()
    if status.failing:
        said = f": {known.error.message}" if known.error is not None and known.failing else ""
        hint = known.error.hint if known.error is not None and known.failing else None
        yield Checked(
            "archiving",
            "problem",
            f"{status.last_failed} failed at {status.last_failed_time}{said}",
            hint or "the server's log has what archive_command printed",
        )
    elif switch and not facts.in_recovery:
        yield _round_trip(chosen, repo, session, facts, status, emit)
    else:
        yield Checked("archiving", "ok", f"last archived: {status.last_archived or 'nothing yet'}")


def _command(chosen: Chosen, settings: dict[str, str]) -> Iterator[Checked]:
    command = settings.get("archive_command")
    if command is None:
        yield Checked(
            "archiving",
            "warning",
            "this role may not see archive_command",
            "GRANT pg_read_all_settings TO the role in conninfo",
        )
    elif "wal push" not in command:
        wanted = archive_command(command_line(chosen)).replace("'", "''")
        yield Checked(
            "archiving",
            "problem",
            f"archive_command does not call pgkeep: {command}",
            f"ALTER SYSTEM SET archive_command = '{wanted}'; SELECT pg_reload_conf();",
        )


def _round_trip(
    chosen: Chosen,
    repo: Repository,
    session: Session,
    facts: ServerFacts,
    before: ArchiverStatus,
    emit: Emit,
) -> Checked:
    """Closes a segment and waits for it in the repository."""
    # A restore point makes sure that there is something to close: an empty segment stays open.
    session.query("SELECT pg_create_restore_point('pgkeep check')")
    end = session.switch_wal()
    segment = last_segment_before(end, facts.timeline, facts.segment_size)
    name = segment.name(facts.segment_size)
    stored = names.wal_file(chosen.cluster_name, facts.system_identifier, facts.timeline, name)
    emit(PhaseStarted(ARCHIVING))
    began = time.monotonic()
    while time.monotonic() - began < chosen.cluster.archive_timeout:
        if repo.store.exists(stored):
            seconds = time.monotonic() - began
            emit(PhaseEnded(ARCHIVING, seconds))
            return Checked("archiving", "ok", f"{name} arrived {seconds:.1f} s after it was closed")
        status = session.archiver()
        if status.failed > before.failed:
            break
        time.sleep(_POLL)
    known = last_push(chosen.state_dir)
    said = f": {known.error.message}" if known.error is not None and known.failing else ""
    return Checked(
        "archiving",
        "problem",
        f"{name} was closed and did not reach the repository{said}",
        (known.error.hint if known.error is not None and known.failing else None)
        or "the server's log has what archive_command printed",
    )
