"""Walks the records of WAL segments (PostgreSQL 15 to 18, little-endian servers).

The layout of the pages is that of src/include/access/xlog_internal.h. What is valid follows
src/backend/access/transam/xlogreader.c: the first record with a wrong length, previous-record
pointer, resource manager or checksum ends the valid WAL, and so does a page whose header is
not the expected one.

One difference, for speed: a checksum is verified for each record handed out, and for the last
record before the valid WAL ends (a tail filled up with zeros may cut it), not for the records
passed over.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache
from struct import Struct

from pgkeep.errors import NotPostgres
from pgkeep.pgformat.walbody import HEADER, checksum_is_right
from pgkeep.pgformat.walbody import Record as Record

RM_XLOG = 0
RM_XACT = 1
RM_DBASE = 4
RM_TBLSPC = 5

XLOG_SWITCH = 0x40
XLOG_RESTORE_POINT = 0x70
XLOG_OVERWRITE_CONTRECORD = 0xD0

MAGIC_15, MAGIC_16, MAGIC_17, MAGIC_18 = 0xD110, 0xD113, 0xD116, 0xD118
_MAGICS = (MAGIC_15, MAGIC_16, MAGIC_17, MAGIC_18)  # 19 gives the page flags other numbers

_PAGE = Struct("<HHIQI4x")  # xlp_magic, xlp_info, xlp_tli, xlp_pageaddr, xlp_rem_len
_LONG = Struct("<24xQII")  # xlp_sysid, xlp_seg_size, xlp_xlog_blcksz
_CONTRECORD, _LONG_HEADER, _OVERWRITE, _ALL_FLAGS = 1, 2, 8, 15

_STEP = Struct("<I4xQH")  # xl_tot_len, xl_prev, xl_info + 256 * xl_rmid
_UINT32 = Struct("<I")
_LAST_BUILTIN_RM, _FIRST_CUSTOM_RM = 21, 128

_WANTED, _SWITCH, _INVALID = 1, 2, 4

Data = bytes | bytearray | memoryview


def walk(
    data: Data | Iterable[Data], start_lsn: int, *, only: Iterable[tuple[int, int]] | None = None
) -> Iterator[Record]:
    """The complete records of one segment, or of several consecutive ones, that begin at
    `start_lsn`; a record that begins before is left out. `only`: as in Walker.

    Raises NotPostgres when the data does not begin with a WAL page of `start_lsn`.
    """
    walker = Walker(only)
    lsn = start_lsn
    for segment in [data] if isinstance(data, Data) else data:
        yield from walker.feed(segment, lsn)
        lsn += len(segment)


class Walker:
    """Walks segments fed in their order, and knows afterwards:

    records, first, last    the number of complete records, lsn of the first and the last
    end                     lsn after the last complete record; where the data begins if none
    switched                the last record is XLOG_SWITCH
    unfinished              lsn of a record that begins, but runs into the end of the data or
                            into the zeros that fill up a tail
    unfinished_head         up to 24 bytes of it, if it runs into the end of the data
    stopped                 why the valid WAL ends, if for none of these reasons
    """

    def __init__(
        self, only: Iterable[tuple[int, int]] | None = None, *, checksums: bool = True
    ) -> None:
        """`only`: pairs of resource manager and info (its low four bits don't count) of the
        records to hand out; None means all. checksums=False: whoever gets the records
        verifies them, all at once."""
        self.records = 0
        self.first: int | None = None
        self.last: int | None = None
        self.end = 0
        self.switched = False
        self.unfinished: int | None = None
        self.unfinished_head = b""
        self.stopped: str | None = None
        self._kinds = _kind_table(None if only is None else frozenset(only))
        self._data: bytes | memoryview = b""
        self._base = self._origin = 0
        self._magic = self._timeline = self._page_size = 0
        self._checksums = checksums
        self._partial: _Partial | None = None
        self._assembled: _Partial | None = None
        self._over = False

    def feed(self, segment: Data, lsn: int) -> Iterator[Record]:
        """The wanted records that are complete now that `segment`, beginning at `lsn`, is here.

        Raises NotPostgres when the first segment does not begin with a WAL page of `lsn`.
        """
        if self._over:
            return
        self._data = segment if isinstance(segment, bytes) else memoryview(segment).cast("B")
        self._base = lsn
        self.switched = False
        if not self._page_size:
            self._open()
        size = len(self._data)
        try:
            for page in range(0, size, self._page_size):
                yield from self._walk_page(page, min(page + self._page_size, size))
                if self.switched:
                    break
        except _WalEnds as end:
            self._conclude(end)
        else:
            self._pause()

    def _pause(self) -> None:
        """Between two segments, or after the last one."""
        self.unfinished, self.unfinished_head = None, b""
        if self._partial and self._partial.lsn is not None:
            self.unfinished = self._partial.lsn
            self.unfinished_head = self._partial.first(HEADER.size)

    def _open(self) -> None:
        """Takes what all pages must agree on from the first one."""
        where = f"the WAL segment at {_lsn(self._base)}"
        if len(self._data) < _LONG.size:
            raise NotPostgres(f"{where} is too short: {len(self._data)} bytes")
        magic, info, self._timeline, address, remaining = _PAGE.unpack_from(self._data)
        if magic not in _MAGICS:
            raise NotPostgres(
                f"{where} begins with {magic:#06x}, not with a WAL page of PostgreSQL 15 to 18"
            )
        if address != self._base:
            raise NotPostgres(f"{where} holds the WAL of {_lsn(address)}")
        _, segment_size, page_size = _LONG.unpack_from(self._data)
        if not info & _LONG_HEADER or not _is_page_size(page_size, segment_size):
            raise NotPostgres(f"{where} does not begin with a segment's first page")
        self._magic, self._page_size = magic, page_size
        self.end = self._origin = self._base
        if info & _CONTRECORD:
            self._partial = _Partial(None, remaining)

    def _walk_page(self, page: int, limit: int) -> Iterator[Record]:
        """The inner loop sees hundreds of thousands of records in a busy segment: so it keeps
        everything in local names, and leaves whatever is rare or wrong to _begin()."""
        offset = self._enter(page)
        if self._partial is not None:
            offset = self._partial.add(self._data[offset:limit], offset)
            if self._partial.missing:
                return
            if record := self._finish(self._partial, offset):
                yield record
        data, base, kinds, step = self._data, self._base, self._kinds, _STEP.unpack_from
        last_start = limit - HEADER.size
        while offset < limit and not self.switched:
            count, previous, following, kind = 0, self.last, offset, 0
            while offset <= last_start:
                total, link, kind_index = step(data, offset)
                following = offset + (total + 7 & -8)
                if link != previous or following > limit or total < HEADER.size:
                    break
                kind = kinds[kind_index]
                if kind:
                    break
                previous = base + offset
                count += 1
                offset = following
            if count:
                self.records, self.last, self.end = self.records + count, previous, base + offset
            if kind == _WANTED:
                yield self._take(offset, following)
                offset = following
            elif offset < limit:
                partial, offset = self._begin(offset, limit)
                if not partial.missing and (record := self._finish(partial, offset)):
                    yield record

    def _enter(self, page: int) -> int:
        """Checks a page's header; the offset of what follows it."""
        where = f"the page at {_lsn(self._base + page)}"
        begun = self._partial.lsn if self._partial else None
        if len(self._data) - page < (_PAGE.size if page else _LONG.size):
            raise _WalEnds(f"{where} is cut", begun, len(self._data))
        magic, info, timeline, address, remaining = _PAGE.unpack_from(self._data, page)
        start = page + (_LONG.size if info & _LONG_HEADER else _PAGE.size)
        if (
            (magic, address, info & ~_ALL_FLAGS) != (self._magic, self._base + page, 0)
            or timeline < self._timeline
            or (page == 0 and not info & _LONG_HEADER)
        ):
            raise _WalEnds(f"{where} is not valid", begun, start)
        self._timeline = timeline
        if info & _OVERWRITE:
            # The server crashed before all of the record was written, and began anew here.
            self._partial = None
        missing = self._partial.missing if self._partial else 0
        if missing != (remaining if info & _CONTRECORD else 0):
            raise _WalEnds(f"{where} does not continue the page before it", begun, start)
        return start

    def _take(self, offset: int, following: int) -> Record:
        """The record at `offset`, all of it on this page, its header found right."""
        total, xid, _, info, rmid, _ = HEADER.unpack_from(self._data, offset)
        raw = bytes(self._data[offset : offset + total])
        lsn, end = self._base + offset, self._base + following
        if self._checksums and not checksum_is_right(raw):
            raise _WalEnds(f"the record at {_lsn(lsn)} fails its checksum", lsn, following)
        self.records += 1
        self.last, self.end = lsn, end
        return Record(lsn, end, rmid, info, xid, total, self._magic, raw)

    def _begin(self, offset: int, limit: int) -> tuple[_Partial, int]:
        """Starts on the record at `offset`; where it, or its part on this page, ends."""
        data, lsn, room = self._data, self._base + offset, limit - offset
        if room < HEADER.size and not any(data[offset:limit]):
            raise _WalEnds(f"there is no record at {_lsn(lsn)}", None, offset)
        # Only a short tail ends with less room than for a length: then any length is too much.
        total = _UINT32.unpack_from(data, offset)[0] if room >= 4 else HEADER.size
        if total < HEADER.size:
            raise _WalEnds(f"the record at {_lsn(lsn)} has length {total}", None, offset)
        if room >= HEADER.size:
            self._check_header(bytes(data[offset : offset + HEADER.size]), lsn)
        self._partial = _Partial(lsn, total)
        return self._partial, self._partial.add(data[offset:limit], offset)

    def _finish(self, partial: _Partial, offset: int) -> Record | None:
        """Takes in a record whose bytes end at `offset`; returns it if it is wanted."""
        self._partial = None
        lsn, end = partial.lsn, self._base + offset
        if lsn is None:
            self.end = end
            return None
        raw = partial.first(HEADER.size)
        kind = self._check_header(raw, lsn)
        if kind:
            raw = partial.first(partial.total)
            if self._checksums and not checksum_is_right(raw):
                raise _WalEnds(f"the record at {_lsn(lsn)} fails its checksum", lsn, offset)
        self._assembled = partial
        self.records, self.last, self.end = self.records + 1, lsn, end
        if self.first is None:
            self.first = lsn
        self.switched = bool(kind & _SWITCH)
        if not kind & _WANTED:
            return None
        total, xid, _, info, rmid, _ = HEADER.unpack_from(raw)
        return Record(lsn, end, rmid, info, xid, total, self._magic, raw)

    def _check_header(self, header: bytes, lsn: int) -> int:
        """What kind of record it is: a sum of _WANTED and _SWITCH. Raises _WalEnds."""
        total, _, link, info, rmid, _ = HEADER.unpack_from(header)
        kind: int = self._kinds[rmid << 8 | info]
        right_link = link < lsn if self.last is None else link == self.last
        if not right_link or kind & _INVALID or total < HEADER.size:
            after = max(lsn - self._base, 0) + HEADER.size
            raise _WalEnds(f"the record at {_lsn(lsn)} has no valid header", lsn, after)
        return kind

    def _conclude(self, end: _WalEnds) -> None:
        """Tells a tail that was cut and filled with zeros from damage and foreign bytes."""
        self._over = True
        self._partial = None
        self.unfinished, self.unfinished_head = None, b""
        if not self.records:
            self.end = self._origin
        else:
            end = self._doubt_last() or end
        rest = bytes(self._data[end.zeros_from :])
        if rest == bytes(len(rest)):
            self.unfinished = end.begun
        else:
            self.stopped = str(end)

    def _doubt_last(self) -> _WalEnds | None:
        """Takes the last record back when a cut left only its beginning."""
        lsn, offset = self.last, (self.last or 0) - self._base
        if self._assembled and self._assembled.lsn == lsn:
            raw = self._assembled.first(self._assembled.total)
        elif offset >= 0:
            total = _UINT32.unpack_from(self._data, offset)[0]
            raw = bytes(self._data[offset : offset + total])
        else:
            return None
        if lsn is None or checksum_is_right(raw):
            return None
        end = _WalEnds(f"the record at {_lsn(lsn)} fails its checksum", lsn, self.end - self._base)
        self.records, self.end = self.records - 1, lsn
        self.last = HEADER.unpack_from(raw)[2] if self.records else None
        self.first = self.first if self.records else None
        return end


class _WalEnds(Exception):
    """The valid WAL ends; `begun`: lsn of a record that was begun there; `zeros_from`: when
    nothing but zeros follows this offset, more WAL may still come in their place."""

    def __init__(self, reason: str, begun: int | None, zeros_from: int) -> None:
        super().__init__(reason)
        self.begun = begun
        self.zeros_from = zeros_from


class _Partial:
    """A record some of whose bytes are on a later page. lsn None: it begins in WAL that was
    never seen."""

    __slots__ = ("_parts", "lsn", "missing", "total")

    def __init__(self, lsn: int | None, total: int) -> None:
        self.lsn = lsn
        self.total = self.missing = total
        self._parts: list[bytes | memoryview] = []

    def add(self, rest_of_page: bytes | memoryview, offset: int) -> int:
        part = rest_of_page[: self.missing]
        self.missing -= len(part)
        if self.lsn is not None:
            self._parts.append(part)
        return offset + (len(part) + 7 & -8)

    def first(self, length: int) -> bytes:
        if len(self._parts[0]) >= length:
            return bytes(self._parts[0][:length])
        return b"".join(self._parts)[:length]


def _is_page_size(page_size: int, segment_size: int) -> bool:
    return 1024 <= page_size <= 65536 and page_size & (page_size - 1) == 0 < segment_size


def _lsn(lsn: int) -> str:
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"


@cache
def _kind_table(only: frozenset[tuple[int, int]] | None) -> bytes:
    """What to do with a record of each resource manager and info: 65,536 sums of flags."""
    table = bytearray(bytes([_WANTED if only is None else 0]) * 65536)
    for rmid, info in only or ():
        first = rmid << 8 | info & 0xF0
        table[first : first + 16] = bytes([_WANTED]) * 16
    switch = RM_XLOG << 8 | XLOG_SWITCH
    for index in range(switch, switch + 16):
        table[index] |= _SWITCH
    unassigned = slice((_LAST_BUILTIN_RM + 1) << 8, _FIRST_CUSTOM_RM << 8)
    table[unassigned] = bytes([_INVALID]) * (unassigned.stop - unassigned.start)
    return bytes(table)
