"""Data pages and their checksums; which files are made of such pages.

The checksum is FNV-1a in 32 lanes (src/include/storage/checksum_impl.h). What is checked follows
verify_page_checksum() in src/backend/backup/basebackup.c: new pages have no checksum yet, and pages
changed since the backup's start may be half written, which replay puts right.
"""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pgkeep.pgformat.lsn import Lsn

BLOCK_SIZE = 8192
DEFAULT_TABLESPACE = 1663
GLOBAL_TABLESPACE = 1664

_LANES = 32
_ROW = 4 * _LANES
# As arrays, for NumPy converts a scalar operand anew in every call.
_PRIME = np.array(16777619, np.uint32)
_SHIFT = np.array(17, np.uint32)
_OFFSETS = np.array(
    [
        0x5B1F36E9, 0xB8525960, 0x02AB50AA, 0x1DE66D2A, 0x79FF467A, 0x9BB9F8A3, 0x217E7CD2,
        0x83E13D2C, 0xF8D4474F, 0xE39EB970, 0x42C6AE16, 0x993216FA, 0x7B093B5D, 0x98DAFF3C,
        0xF718902A, 0x0B1C9CDB, 0xE58F764B, 0x187636BC, 0x5D7B3BB1, 0xE73DE7DE, 0x92BEC979,
        0xCCA6C0B2, 0x304A0979, 0x85AA43D4, 0x783125BB, 0x6CA8EAA2, 0xE407EAC6, 0x4B5CFC3E,
        0x9FBF8C76, 0x15CA20BE, 0xF2CA9FD3, 0x959BD756,
    ],
    np.uint32,
)  # fmt: skip

# 128 pages of 8 kB are 16 kB of lanes: enough to make NumPy's cost of a call small, and with eight
# rows of the pages beside them little enough for the second-level cache.
_BATCH = 128
_ROWS = 8

# PageHeaderData in src/include/storage/bufpage.h, as 32-bit words: the LSN's halves, pd_checksum
# below pd_flags, pd_lower below pd_upper.
_LSN_HIGH, _LSN_LOW, _CHECKSUM, _UPPER = range(4)
_FLAGS_ONLY = np.array(0xFFFF0000, np.uint32)

_RELATION = re.compile(
    r"(?:base/(?P<database>[0-9]+)|global|"
    r"pg_tblspc/(?P<tablespace>[0-9]+)/PG_[0-9]+_[0-9]+/(?P<its_database>[0-9]+))"
    r"/(?P<relfilenode>[1-9][0-9]*)(?:_(?P<fork>fsm|vm|init))?(?:\.(?P<segment>[1-9][0-9]*))?"
)

Data = bytes | bytearray | memoryview


class BadBlock(NamedTuple):
    """A page whose checksum is wrong; `block` is its number in the relation."""

    block: int
    stored: int
    computed: int


@dataclass(frozen=True, slots=True)
class RelationFile:
    """One file of a relation: `fork` is "main", "fsm", "vm" or "init"; `segment` counts from 0.

    `dboid` is 0 for what all databases share.
    """

    dboid: int
    tablespace: int
    relfilenode: int
    fork: str
    segment: int


def parse_relation_path(path: str | bytes) -> RelationFile | None:
    """What a path relative to the data directory is a file of, None if it is of no relation.

    Temporary relations count as none: no backup contains them.
    """
    if isinstance(path, bytes):
        path = path.decode("utf-8", "surrogateescape")
    match = _RELATION.fullmatch(path)
    if match is None:
        return None
    database = match["database"] or match["its_database"]
    tablespace = DEFAULT_TABLESPACE if match["database"] else GLOBAL_TABLESPACE
    return RelationFile(
        dboid=int(database or 0),
        tablespace=int(match["tablespace"] or tablespace),
        relfilenode=int(match["relfilenode"]),
        fork=match["fork"] or "main",
        segment=int(match["segment"] or 0),
    )


def checksummed(path: str | bytes) -> bool:
    """Whether the file's pages carry checksums, in a cluster that has them."""
    return parse_relation_path(path) is not None


def wrong_blocks(
    buffer: Data, first_block_number: int, block_size: int, start_lsn: Lsn
) -> list[BadBlock]:
    """The pages in `buffer` (whole pages of one relation) whose checksum is wrong.

    `first_block_number` is the first page's number in the relation, not in its file. Left out are
    new pages and those with an LSN of `start_lsn` or later.
    """
    words = _words(buffer, block_size)
    header = words[:, 0, :4]
    lsns = header[:, _LSN_HIGH].astype(np.uint64) << np.uint64(32) | header[:, _LSN_LOW]
    due = (header[:, _UPPER] >= 1 << 16) & (lsns < np.uint64(start_lsn))
    if not due.any():
        return []
    computed = _checksums(words, first_block_number)
    stored = header[:, _CHECKSUM].astype(np.uint16)
    return [
        BadBlock(first_block_number + int(page), int(stored[page]), int(computed[page]))
        for page in np.flatnonzero((stored != computed) & due)
    ]


def page_checksums(buffer: Data, first_block: int, block_size: int) -> NDArray[np.uint16]:
    """The checksum that each page in `buffer` should have; a new page's means nothing."""
    return _checksums(_words(buffer, block_size), first_block)


def _words(buffer: Data, block_size: int) -> NDArray[np.uint32]:
    """Pages × rows × lanes."""
    pages, rest = divmod(len(buffer), block_size)
    if rest or block_size % (_ROWS * _ROW):
        raise ValueError(f"{len(buffer)} bytes are not whole pages of {block_size} bytes")
    return np.frombuffer(buffer, "<u4").reshape(pages, -1, _LANES)


def _checksums(words: NDArray[np.uint32], first_block: int) -> NDArray[np.uint16]:
    hashes = np.empty(len(words), np.uint32)
    with _workbench.lock:
        for start in range(0, len(words), _BATCH):
            batch = words[start : start + _BATCH]
            _workbench.hash(batch, hashes[start : start + _BATCH])
    hashes ^= np.arange(first_block, first_block + len(words), dtype=np.uint32)
    return (hashes % np.uint32(65535) + np.uint32(1)).astype(np.uint16)


class _Workbench:
    """The memory in which pages are hashed, for one thread at a time.

    Each of some 260 calls a batch gives the GIL away for less than a microsecond. Threads that do
    this side by side spend more on handing it over than they gain: two were slower than one.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._start = np.tile(_OFFSETS, _BATCH)
        self._sums = np.empty(_BATCH * _LANES, np.uint32)
        self._shifted = np.empty(_BATCH * _LANES, np.uint32)
        self._rows = np.empty((_ROWS, _BATCH, _LANES), np.uint32)

    def hash(self, words: NDArray[np.uint32], out: NDArray[np.uint32]) -> None:
        """pg_checksum_block() of at most _BATCH pages, as if their checksum field were 0."""
        lanes = len(words) * _LANES
        sums, shifted = self._sums[:lanes], self._shifted[:lanes]
        rows = self._rows[:, : len(words)]
        flat_rows = list(self._rows.reshape(_ROWS, -1)[:, :lanes])
        # A row of a page is moved as one element of 128 bytes: four times as quick as as lanes.
        row_slots = rows.view(f"V{_ROW}")[:, :, 0]
        page_rows = words.view(f"V{_ROW}")[:, :, 0].T
        np.copyto(sums, self._start[:lanes])
        for first in range(0, words.shape[1], _ROWS):
            np.copyto(row_slots, page_rows[first : first + _ROWS])
            if not first:
                rows[0, :, _CHECKSUM] &= _FLAGS_ONLY
            for row in flat_rows:
                np.bitwise_xor(sums, row, sums)
                _mix(sums, shifted)
        for _ in range(2):
            _mix(sums, shifted)
        np.bitwise_xor.reduce(sums.reshape(-1, _LANES), axis=1, out=out)


def _mix(sums: NDArray[np.uint32], shifted: NDArray[np.uint32]) -> None:
    np.right_shift(sums, _SHIFT, shifted)
    np.multiply(sums, _PRIME, sums)
    np.bitwise_xor(sums, shifted, sums)


_workbench = _Workbench()
