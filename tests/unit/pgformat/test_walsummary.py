from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from struct import pack, unpack_from

import pytest
from backports import zstd
from walwriter import SEGMENT, START, WalWriter, commit, time_of

from pgkeep.errors import FormatError
from pgkeep.pgformat.walrecord import walk
from pgkeep.pgformat.walsummary import (
    TRANSACTION_ENDS,
    RestorePoint,
    TablespaceCreated,
    WalSummary,
    ends_xid,
    summarize,
    transaction_end,
    transaction_ends,
)

GOLDEN = Path(__file__).parents[2] / "golden" / "wal"
EPOCH = datetime(2000, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize("version", ["pg15", "pg18"])
def test_golden_segments_have_what_pg_waldump_says(version: str) -> None:
    wal = zstd.decompress((GOLDEN / f"{version}.wal.zst").read_bytes())
    text = zstd.decompress((GOLDEN / f"{version}.txt.zst").read_bytes()).decode()
    (start,) = unpack_from("<Q", wal, 8)
    first, second = wal[:SEGMENT], wal[SEGMENT:]
    ends = []
    for xid, high, low, prepared, when in re.findall(
        r"tx: +(\d+), lsn: (\w+)/(\w+), .* desc: (?:COMMIT|ABORT)(?:_PREPARED (\d+):)? (.*?) UTC",
        text,
    ):
        time = datetime.strptime(when, "%Y-%m-%d %H:%M:%S.%f").replace(tzinfo=UTC) - EPOCH
        lsn = int(high + low, 16)
        ends.append((lsn, int(prepared or xid), time // timedelta(microseconds=1)))
    assert [(e.lsn, e.xid, e.time) for e in transaction_ends([first, second], start)] == ends
    for lsn, xid, _ in ends:
        assert ends_xid([first, second], start, xid) == lsn

    crossing = [e for e in ends if e[0] < start + SEGMENT][-1]
    summary, after = summarize(first, start), summarize(second, start + SEGMENT)
    assert summary.unfinished == crossing[0]
    assert ends_xid(first, start, crossing[1]) is ends_xid(second, start + SEGMENT, crossing[1])
    before = [e for e in ends if e[0] < crossing[0]]
    assert summary.last_commit_time == max(time for _, _, time in before)
    assert (summary.first_xid, summary.last_xid) == (
        min(xid for _, xid, _ in before),
        max(xid for _, xid, _ in before),
    )
    assert after.first_commit_time == min(e[2] for e in ends if e[0] > crossing[0])
    assert [p.name for p in summary.restore_points] == ["between", "between", "Größe 😀"]
    assert re.findall(r"desc: CREATE (\d+) \"(.*)\"", text) == [
        (str(t.oid), t.path) for t in summary.tablespaces
    ]
    assert len(summary.tablespaces) == 1


def test_times_that_do_not_rise_give_earliest_and_latest() -> None:
    writer = WalWriter()
    for xid, minute in ((1000, 5), (1001, 9), (1002, 3), (1003, 7)):
        commit(writer, xid, time_of(minute))
    (segment,) = writer.segments()
    summary = summarize(segment, START)
    assert (summary.first_commit_time, summary.last_commit_time) == (time_of(3), time_of(9))
    assert (summary.first_xid, summary.last_xid) == (1000, 1003)


def test_xids_go_in_a_circle() -> None:
    writer = WalWriter()
    for xid in (4_294_967_290, 5, 4_294_967_200, 3):
        commit(writer, xid, time_of(0))
    (segment,) = writer.segments()
    summary = summarize(segment, START)
    assert (summary.first_xid, summary.last_xid) == (4_294_967_200, 5)
    may = [4_294_967_200, 4_294_967_295, 3, 4, 5]
    may_not = [4_294_967_199, 6, 2_000_000_000]
    assert [xid for xid in may + may_not if summary.may_end(xid)] == may
    assert ends_xid(segment, START, 4) is None
    assert ends_xid(segment, START, 3) == writer.lsns[-1]


def test_a_segment_without_commits() -> None:
    writer = WalWriter()
    writer.add(10, 0, bytes(20), xid=1000)
    summary = summarize(writer.segments()[0], START)
    assert (summary.records, summary.first_commit_time, summary.first_xid) == (1, None, None)
    assert not summary.may_end(1000)


@pytest.mark.parametrize("info", [0x10, 0x50, 0x60])
def test_records_that_end_no_transaction_are_not_counted(info: int) -> None:
    writer = WalWriter()
    commit(writer, 1000, time_of(0), info=info)
    assert summarize(writer.segments()[0], START).first_commit_time is None


def test_only_whole_records_count_at_the_border_of_two_segments() -> None:
    writer = WalWriter()
    while len(writer.wal) < SEGMENT - 8192:
        writer.fill_until(0)
    writer.fill_until(32)
    crossing = commit(writer, 1000, time_of(1))
    commit(writer, 1001, time_of(2))
    first, second = writer.segments()
    here, there = summarize(first, START), summarize(second, START + SEGMENT)
    assert (here.unfinished, here.last_commit_time) == (crossing, None)
    assert (there.first_commit_time, there.first_xid) == (time_of(2), 1001)
    assert ends_xid(first, START, 1000) is None
    assert ends_xid(second, START + SEGMENT, 1000) is None
    assert ends_xid([first, second], START, 1000) == crossing


@pytest.mark.parametrize(
    ("room", "rmid", "info", "xid", "may"),
    [
        # So much of it is seen that it can be told what it is.
        (24, 1, 0x00, 1000, {1000}),
        (24, 1, 0x20, 1000, {1000}),
        (24, 1, 0xB0, 0, {1000, 1001}),
        (24, 1, 0x50, 1000, set()),
        (24, 10, 0x00, 1000, set()),
        # And here only the xid.
        (16, 10, 0x00, 1000, {1000}),
        (8, 1, 0x00, 1000, {1000}),
        (8, 1, 0xB0, 0, {1000, 1001}),
    ],
)
def test_a_transaction_may_end_in_the_record_that_crosses_the_border(
    room: int, rmid: int, info: int, xid: int, may: set[int]
) -> None:
    writer = WalWriter()
    while len(writer.wal) < SEGMENT - 8192:
        writer.fill_until(0)
    writer.fill_until(room)
    writer.add(rmid, info, prepared_end(0xD118, 16), xid=xid)
    summary = summarize(writer.segments()[0], START)
    assert summary.unfinished == writer.lsns[-1]
    assert {xid for xid in (1000, 1001) if summary.may_end(xid)} == may


@pytest.mark.parametrize("bad", [0, 100, 4095, 4096, 4999])
def test_a_wrong_checksum_ends_the_summary_there(bad: int) -> None:
    writer = WalWriter()
    for number in range(5000):
        commit(writer, 1000 + number, time_of(number), crc=int(number == bad))
    (segment,) = writer.segments()
    summary = summarize(segment, START)
    assert summary.records == bad
    assert summary.last_commit_time == (time_of(bad - 1) if bad else None)
    assert summary.last_record == (writer.lsns[bad - 1] if bad else None)
    if bad < 4999:
        assert summary.stopped is not None
        assert "fails its checksum" in summary.stopped


def prepared_end(magic: int, statistics: int, *, xinfo: int = 0x1FF) -> bytes:
    """The main data of a COMMIT PREPARED with every chunk that may precede its xid."""
    chunks = {
        0x001: pack("<II", 5, 1663),
        0x002: pack("<iII", 2, 2001, 2002),
        0x004: pack("<i", 1) + bytes(12),
        0x100: pack("<i", 3) + bytes(3 * statistics),
        0x008: pack("<i", 2) + bytes(2 * 16),
        0x010: pack("<I", 4242),
    }
    return pack("<qI", time_of(0), xinfo) + b"".join(
        chunk for flag, chunk in chunks.items() if xinfo & flag
    ) + b"gid\0"  # fmt: skip


@pytest.mark.parametrize(
    ("magic", "statistics"), [(0xD110, 12), (0xD113, 12), (0xD116, 12), (0xD118, 16)]
)
@pytest.mark.parametrize("xinfo", [0x1FF, 0x010, 0x110, 0x01A])
@pytest.mark.parametrize(("operation", "committed"), [(0x30, True), (0x40, False)])
def test_a_prepared_transaction_ends_with_the_xid_inside(
    magic: int, statistics: int, xinfo: int, operation: int, committed: bool
) -> None:
    writer = WalWriter(magic)
    lsn = writer.add(1, operation | 0x80, prepared_end(magic, statistics, xinfo=xinfo))
    (record,) = walk(writer.segments(), START, only=TRANSACTION_ENDS)
    assert transaction_end(record) == (lsn, 4242, time_of(0), committed)


@pytest.mark.parametrize(
    ("info", "main", "problem"),
    [
        (0x00, b"\1\2\3", "too short"),
        (0xB0, pack("<qI", 1, 0x10), "too short"),
        (0xB0, pack("<qI", 1, 0x01), "without xid"),
        (0x30, pack("<q", 1), "without xid"),
    ],
)
def test_an_end_that_makes_no_sense_is_an_error(info: int, main: bytes, problem: str) -> None:
    writer = WalWriter()
    writer.add(1, info, main, xid=1000)
    with pytest.raises(FormatError, match=problem):
        summarize(writer.segments()[0], START)


def test_texts_in_other_encodings_survive_json() -> None:
    writer = WalWriter()
    writer.add(0, 0x70, pack("<q", time_of(1)) + b"gr\xf6\xdfe".ljust(64, b"\0"))
    writer.add(0, 0x70, pack("<q", time_of(1)) + "größe".encode().ljust(64, b"\0"))
    writer.add(5, 0x00, pack("<I", 16500) + b"/srv/gr\xf6\xdfe\0")
    writer.add(5, 0x10, pack("<I", 16500))
    summary = summarize(writer.segments()[0], START)
    assert summary.restore_points == (
        RestorePoint(writer.lsns[0], writer.ends[0] + 6, time_of(1), "gr\udcf6\udcdfe"),
        RestorePoint(writer.lsns[1], writer.ends[1] + 6, time_of(1), "größe"),
    )
    assert summary.tablespaces == (
        TablespaceCreated(writer.lsns[2], 16500, "/srv/gr\udcf6\udcdfe"),
    )
    # Strict UTF-8, as stricter writers of JSON want it.
    stored = json.dumps(summary.to_json(), ensure_ascii=False).encode()
    assert WalSummary.from_json(json.loads(stored)) == summary


@pytest.mark.parametrize("change", [{"records": None}, {"surprise": 1}, {"restore_points": [{}]}])
def test_json_that_is_no_summary_is_refused(change: dict[str, object]) -> None:
    writer = WalWriter()
    commit(writer, 1000, time_of(0))
    value = summarize(writer.segments()[0], START).to_json() | change
    if change == {"records": None}:
        del value["records"]
    with pytest.raises(FormatError, match="not a WAL summary"):
        WalSummary.from_json(value)
