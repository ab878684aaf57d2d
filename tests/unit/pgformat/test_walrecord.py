from __future__ import annotations

import random
import re
from functools import cache
from pathlib import Path
from struct import pack_into, unpack_from

import pytest
from backports import zstd
from walwriter import PAGE, SEGMENT, START, WalWriter, commit, time_of

from pgkeep.errors import FormatError, NotPostgres
from pgkeep.pgformat.walrecord import RM_XACT, Record, Walker, walk

GOLDEN = Path(__file__).parents[2] / "golden" / "wal"
VERSIONS = ("pg15", "pg18")


@cache
def golden(version: str) -> tuple[bytes, bytes, int, list[tuple[int, int, int]]]:
    """The first segment, the beginning of the second, where they start, and pg_waldump's
    (lsn, length, xid) of each record."""
    wal = zstd.decompress((GOLDEN / f"{version}.wal.zst").read_bytes())
    text = zstd.decompress((GOLDEN / f"{version}.txt.zst").read_bytes()).decode()
    found = re.findall(
        r"^rmgr: \S+ +len \(rec/tot\): +\d+/ *(\d+), tx: +(\d+), lsn: (\w+)/(\w+),", text, re.M
    )
    dumped = [(int(high + low, 16), int(total), int(xid)) for total, xid, high, low in found]
    return wal[:SEGMENT], wal[SEGMENT:], unpack_from("<Q", wal, 8)[0], dumped


def walked(
    *segments: bytes, start: int = START, only: list[tuple[int, int]] | None = None
) -> Walker:
    walker = Walker(only)
    for number, segment in enumerate(segments):
        for _ in walker.feed(segment, start + number * SEGMENT):
            pass
    return walker


def state(walker: Walker) -> tuple[int, int | None, int | None, int, bool, int | None]:
    return (
        walker.records,
        walker.first,
        walker.last,
        walker.end,
        walker.switched,
        walker.unfinished,
    )


@pytest.mark.parametrize("version", VERSIONS)
class TestGolden:
    def test_the_records_are_those_of_pg_waldump(self, version: str) -> None:
        first, second, start, dumped = golden(version)
        records = list(walk([first, second], start))
        assert [(r.lsn, r.total_length, r.xid) for r in records] == dumped
        assert all(len(r.raw) == r.total_length for r in records)

    def test_one_segment_ends_where_its_last_record_runs_on(self, version: str) -> None:
        first, _, start, dumped = golden(version)
        walker = walked(first, start=start)
        whole = [d for d in dumped if d[0] < start + SEGMENT]
        *whole, (running_on, _, _) = whole
        assert state(walker) == (
            len(whole),
            whole[0][0],
            whole[-1][0],
            running_on,
            False,
            running_on,
        )
        assert walker.stopped is None

    def test_a_segment_whose_beginning_belongs_to_an_earlier_record(self, version: str) -> None:
        _, second, start, dumped = golden(version)
        after = [d for d in dumped if d[0] >= start + SEGMENT]
        walker = walked(second, start=start + SEGMENT)
        assert (walker.records, walker.first, walker.last) == (
            len(after),
            after[0][0],
            after[-1][0],
        )
        # What follows are bytes of the recycled file's earlier life.
        assert walker.unfinished is None
        assert walker.stopped is not None

    def test_a_tail_filled_with_zeros_has_the_records_before_the_cut(self, version: str) -> None:
        first, _, start, _ = golden(version)
        records = list(walk(first, start))
        cuts = [*random.Random(1).sample(range(40, len(first)), 60), *range(1000, 1200)]
        for cut in cuts:
            walker = walked(first[:cut] + bytes(SEGMENT - cut), start=start, only=[])
            assert_cut(walker, records, cut, start, exact=False)

    def test_a_short_tail_has_the_records_before_the_cut(self, version: str) -> None:
        first, _, start, _ = golden(version)
        records = list(walk(first, start))
        cuts = [*random.Random(2).sample(range(40, len(first)), 60), *range(8000, 8300)]
        for cut in cuts:
            walker = walked(first[:cut], start=start, only=[])
            assert_cut(walker, records, cut, start, exact=True)

    def test_main_data_adds_up_in_every_record(self, version: str) -> None:
        first, _, start, _ = golden(version)
        for record in walk(first, start):
            assert record.raw.endswith(record.main_data)

    @pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
    def test_any_buffer_will_do(self, version: str, kind: type) -> None:
        first, second, start, dumped = golden(version)
        assert len(list(walk([kind(first), kind(second)], start))) == len(dumped)


def assert_cut(walker: Walker, records: list[Record], cut: int, start: int, *, exact: bool) -> None:
    """`exact`: nothing but the bytes before the cut can make a record whole; else what was cut
    off may have been zeros anyway."""
    certain = [r for r in records if end_of_bytes(r, start) <= cut]
    last = walker.last
    if not exact and walker.records > len(certain):
        assert walker.records == len(certain) + 1
        certain = records[: len(certain) + 1]
    assert walker.records == len(certain)
    assert last == (certain[-1].lsn if certain else None)
    assert walker.end == (certain[-1].end_lsn if certain else start)
    assert walker.stopped is None
    following = records[len(certain)].lsn if len(certain) < len(records) else None
    assert walker.unfinished in (None, following)
    if following is not None and following - start + 4 <= cut:
        assert walker.unfinished == following


def end_of_bytes(record: Record, start: int) -> int:
    """The offset after the record's last byte: end_lsn is aligned."""
    return record.end_lsn - start - (-record.total_length % 8)


@pytest.mark.parametrize("room", [8, 16, 24, 32, 40])
@pytest.mark.parametrize("border", ["page", "segment"])
def test_a_record_is_whole_however_it_is_divided(room: int, border: str) -> None:
    writer = WalWriter()
    while border == "segment" and len(writer.wal) < SEGMENT - PAGE:
        writer.fill_until(0)
    writer.fill_until(room)
    divided = commit(writer, 1000, time_of(1))
    after = commit(writer, 1001, time_of(2))
    records = {r.lsn: r for r in walk(writer.segments(), START)}
    assert list(records) == writer.lsns
    assert [records[lsn].xid for lsn in (divided, after)] == [1000, 1001]
    assert records[divided].main_data == time_of(1).to_bytes(8, "little")
    assert records[divided].end_lsn == writer.ends[-2] + (-writer.ends[-2] % 8)
    if border == "segment":
        alone = walked(writer.segments()[0])
        fits = room == 40
        assert alone.unfinished == (None if fits else divided)
        assert alone.end == (START + SEGMENT if fits else divided)
        assert divided not in [r.lsn for r in walk(writer.segments()[1], START + SEGMENT)]


def test_a_record_longer_than_a_segment() -> None:
    writer = WalWriter()
    commit(writer, 1000, time_of(0))
    long = writer.add(21, 0, b"x" * (2 * SEGMENT + 500))
    after = commit(writer, 1001, time_of(1))
    first, second, third = writer.segments()
    assert [r.lsn for r in walk([first, second, third], START)] == writer.lsns
    assert walked(first).unfinished == long
    middle = walked(second, start=START + SEGMENT)
    assert state(middle) == (0, None, None, START + SEGMENT, False, None)
    last = walked(third, start=START + 2 * SEGMENT)
    assert (last.records, last.first) == (1, after)


def test_a_record_that_ends_with_its_segment() -> None:
    writer = WalWriter()
    while len(writer.wal) < SEGMENT:
        writer.fill_until(0)
    first = walked(writer.segments()[0])
    assert (first.end, first.unfinished, first.stopped) == (START + SEGMENT, None, None)
    next_one = commit(writer, 1000, time_of(0))
    assert walked(*writer.segments()).last == next_one == START + SEGMENT + 40


def test_a_switch_ends_its_segment_and_the_next_one_follows_it() -> None:
    writer = WalWriter()
    commit(writer, 1000, time_of(0))
    writer.add(0, 0x40)
    end = writer.ends[-1]
    writer.wal += b"\x55" * (SEGMENT - len(writer.wal))
    after = commit(writer, 1001, time_of(1))
    first, second = writer.segments()
    walker = walked(first)
    assert (walker.switched, walker.end, walker.stopped, walker.unfinished) == (
        True,
        end,
        None,
        None,
    )
    assert [r.lsn for r in walk([first, second], START)][-1] == after
    assert not walked(first, second).switched


def test_a_record_whose_rest_was_lost_in_a_crash() -> None:
    writer = WalWriter()
    commit(writer, 1000, time_of(0))
    kept = writer.previous
    lost = writer.add(21, 0, b"x" * PAGE)
    writer.wal = writer.wal[:PAGE]
    writer._page_header(8, 0)
    writer.previous = kept
    overwrite = writer.add(0, 0xD0, lost.to_bytes(8, "little") + time_of(1).to_bytes(8, "little"))
    after = commit(writer, 1001, time_of(2))
    assert [r.lsn for r in walk(writer.segments(), START)] == [kept, overwrite, after]


class TestDamage:
    """What was valid before the damage is kept, and nothing after it."""

    @pytest.fixture
    def writer(self) -> WalWriter:
        writer = WalWriter()
        for number in range(400):
            commit(writer, 1000 + number, time_of(number))
            writer.add(10, 0, bytes(30), xid=1001 + number)
        return writer

    @pytest.mark.parametrize(
        ("field", "at", "value"),
        [
            ("length", 0, b"\x00\x00\x00\x00"),
            ("length", 0, b"\x17\x00\x00\x00"),
            ("length", 0, b"\xff\xff\xff\xff"),
            ("previous", 8, b"\x01"),
            ("resource manager", 17, b"\x16"),
            ("resource manager", 17, b"\x7f"),
            ("body", 30, b"\x99"),
            ("xid", 4, b"\x99"),
        ],
    )
    @pytest.mark.parametrize("record", [0, 2, 300])
    def test_of_a_commit_ends_the_wal(
        self, writer: WalWriter, field: str, at: int, value: bytes, record: int
    ) -> None:
        lsn = writer.lsns[record]
        offset = lsn - START + at
        assert writer.wal[offset : offset + len(value)] != value
        writer.wal[offset : offset + len(value)] = value
        walker = walked(*writer.segments())
        assert walker.records == record
        assert walker.last == (writer.lsns[record - 1] if record else None)
        assert walker.unfinished is None
        assert walker.stopped is not None
        assert list(walk(writer.segments(), START))[-1:] == [
            r for r in walk(writer.segments(), START) if r.lsn == walker.last
        ]

    def test_of_a_record_passed_over_is_not_seen(self, writer: WalWriter) -> None:
        writer.wal[writer.lsns[11] - START + 30] ^= 1
        commits = list(walk(writer.segments(), START, only=[(RM_XACT, 0)]))
        assert len(commits) == 400

    def test_of_the_last_record_is_seen_even_if_it_is_passed_over(self, writer: WalWriter) -> None:
        writer.wal[writer.lsns[-1] - START + 30] ^= 1
        walker = Walker([(RM_XACT, 0)])
        assert len(list(walker.feed(writer.segments()[0], START))) == 400
        assert (walker.records, walker.last) == (799, writer.lsns[-2])
        assert walker.end == writer.lsns[-1]
        # With nothing but zeros behind it, it may as well be a tail that was cut.
        assert walker.unfinished == writer.lsns[-1]

    @pytest.mark.parametrize(
        ("what", "at", "value"),
        [
            ("magic", 0, 0x10),
            ("flags", 2, 0x10),
            ("address", 8, 0x10),
            ("continued length", 16, 0x77),
            ("no continuation", 2, 0x00),
        ],
    )
    def test_of_a_page_header_ends_the_wal(
        self, writer: WalWriter, what: str, at: int, value: int
    ) -> None:
        page = next(
            p
            for p in range(PAGE, len(writer.wal), PAGE)
            if writer.wal[p + 2] & 1 and writer.wal[p + at] != value
        )
        writer.wal[page + at] = value
        walker = walked(*writer.segments())
        assert walker.records == sum(1 for end in writer.ends if end - START <= page)
        assert walker.stopped is not None
        assert walker.unfinished is None

    def test_of_the_timeline_going_backwards_ends_the_wal(self) -> None:
        writer = WalWriter(timeline=2)
        writer.fill_until(0)
        writer.timeline = 1
        commit(writer, 1000, time_of(0))
        assert walked(*writer.segments()).records == 2

    def test_a_timeline_may_begin_in_the_middle_of_a_segment(self) -> None:
        writer = WalWriter(timeline=1)
        writer.fill_until(0)
        writer.timeline = 2
        commit(writer, 1000, time_of(0))
        assert walked(*writer.segments()).records == 3

    def test_after_the_wal_ended_further_segments_are_not_read(self, writer: WalWriter) -> None:
        while len(writer.wal) < SEGMENT + PAGE:
            writer.add(2, 0, bytes(5000))
        first, second = writer.segments()
        broken = bytearray(first)
        broken[writer.lsns[7] - START] = 0
        assert walked(bytes(broken), second).records == 7


class TestNotWal:
    def test_zeros(self) -> None:
        with pytest.raises(NotPostgres, match="0x0000, not with a WAL page"):
            walked(bytes(SEGMENT))

    def test_too_short(self) -> None:
        with pytest.raises(NotPostgres, match="too short: 3 bytes"):
            walked(b"\x18\xd1\x07")

    def test_another_version(self) -> None:
        writer = WalWriter(magic=0xD10D)
        commit(writer, 1000, time_of(0))
        with pytest.raises(NotPostgres, match="0xd10d"):
            walked(*writer.segments())

    def test_another_segment(self) -> None:
        writer = WalWriter()
        commit(writer, 1000, time_of(0))
        with pytest.raises(NotPostgres, match="segment at 5/100000 holds the WAL of 5/0"):
            walked(*writer.segments(), start=START + SEGMENT)

    def test_not_the_first_page(self) -> None:
        writer = WalWriter()
        writer.fill_until(0)
        commit(writer, 1000, time_of(0))
        with pytest.raises(NotPostgres, match="first page"):
            walked(bytes(writer.wal[PAGE:]), start=START + PAGE)

    def test_a_page_size_that_cannot_be(self) -> None:
        writer = WalWriter()
        commit(writer, 1000, time_of(0))
        pack_into("<I", writer.wal, 36, 0)
        with pytest.raises(NotPostgres, match="first page"):
            walked(*writer.segments())


class TestMainData:
    def record(self, body: bytes) -> Record:
        return Record(START, START, 10, 0, 0, 24 + len(body), 0xD118, bytes(24) + body)

    @pytest.mark.parametrize(
        ("body", "main"),
        [
            (b"", b""),
            (b"\xff\x03abc", b"abc"),
            (b"\xfe\x03\x00\x00\x00abc", b"abc"),
            # An origin and a top-level xid before it.
            (b"\xfd\x01\x00\xfc\x01\x02\x03\x04\xff\x03abc", b"abc"),
            # A block with two bytes of data.
            (b"\x00\x20\x02\x00" + bytes(16) + b"\xff\x03" + b"zzabc", b"abc"),
            # The same relation again, a compressed page image with a hole.
            (
                b"\x00\x20\x01\x00" + bytes(16)
                + b"\x01\x90\x00\x00" + b"\x04\x00\x00\x00\x05" + bytes(2) + bytes(4)
                + b"\xff\x03" + b"d" + b"imag" + b"abc",
                b"abc",
            ),
            # Block data, and no main data at all.
            (b"\x00\x20\x02\x00" + bytes(16) + b"\xff\xff", b""),
        ],
    )  # fmt: skip
    def test_comes_last(self, body: bytes, main: bytes) -> None:
        assert self.record(body).main_data == main

    @pytest.mark.parametrize(
        "body", [b"\xff", b"\xff\x04abc", b"\xff\x02abc", b"\xfe\x03", b"\x00\x20", b"\x63abc"]
    )
    def test_that_does_not_add_up_is_an_error(self, body: bytes) -> None:
        with pytest.raises(FormatError, match="don't add up"):
            _ = self.record(body).main_data
