"""Data pages and their checksums (src/include/storage/checksum_impl.h, bufpage.h).

The checksum runs 32 FNV-1a-like lanes side by side over a page; NumPy does a row of them for many
pages at once. Which pages count is the server's own rule (src/backend/backup/basebackup.c).
"""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pgkeep.pgformat.lsn import Lsn

_PRIME = np.uint32(16_777_619)
_SHIFT = np.uint32(17)
_LANES = 32
_BASE = np.array(
    [
        0x5B1F36E9, 0xB8525960, 0x02AB50AA, 0x1DE66D2A, 0x79FF467A, 0x9BB9F8A3, 0x217E7CD2,
        0x83E13D2C, 0xF8D4474F, 0xE39EB970, 0x42C6AE16, 0x993216FA, 0x7B093B5D, 0x98DAFF3C,
        0xF718902A, 0x0B1C9CDB, 0xE58F764B, 0x187636BC, 0x5D7B3BB1, 0xE73DE7DE, 0x92BEC979,
        0xCCA6C0B2, 0x304A0979, 0x85AA43D4, 0x783125BB, 0x6CA8EAA2, 0xE407EAC6, 0x4B5CFC3E,
        0x9FBF8C76, 0x15CA20BE, 0xF2CA9FD3, 0x959BD756,
    ],
    np.uint32,
)  # fmt: skip
_ZEROS = np.zeros((1, _LANES), np.uint32)
_PAGES_AT_ONCE = 128
"""A batch's work arrays (16 KiB each) stay in the first- and second-level cache."""

_RELATION = re.compile(
    r"(?:(?P<global>global)|base/(?P<db>\d+)"
    r"|pg_tblspc/(?P<spc>\d+)/PG_\d+_\d+/(?P<spcdb>\d+))"
    r"/(?P<node>\d+)(?:_(?P<fork>fsm|vm|init))?(?:\.(?P<segment>\d+))?"
)


@dataclass(frozen=True, slots=True)
class BadBlock:
    """A block whose checksum is not what its page says; `block` counts in the relation."""

    block: int
    stored: int
    computed: int


@dataclass(frozen=True, slots=True)
class RelationFile:
    """What a relation file's path says; OID 0 for the default tablespace and shared relations."""

    tablespace: int
    database: int
    relfilenode: int
    fork: str
    segment: int


class _Work(threading.local):
    """Arrays of one thread, made once: allocating them anew costs more than the arithmetic."""

    def __init__(self) -> None:
        shape = (_PAGES_AT_ONCE, _LANES)
        self.sums = np.empty(shape, np.uint32)
        self.mixed = np.empty(shape, np.uint32)
        self.shifted = np.empty(shape, np.uint32)


_work = _Work()


def page_checksums(
    buffer: bytes | bytearray | memoryview, first_block: int, block_size: int
) -> NDArray[np.uint16]:
    """The checksum that each page should have; `first_block` is the first one's block number."""
    words = np.frombuffer(buffer, np.uint32).reshape(-1, block_size // (4 * _LANES), _LANES)
    result = np.empty(len(words), np.uint16)
    for start in range(0, len(words), _PAGES_AT_ONCE):
        part = words[start : start + _PAGES_AT_ONCE]
        numbers = np.arange(first_block + start, first_block + start + len(part))
        result[start : start + len(part)] = _batch(part, numbers.astype(np.uint32))
    return result


def _batch(words: NDArray[np.uint32], numbers: NDArray[np.uint32]) -> NDArray[np.uint16]:
    count = len(words)
    sums, mixed, shifted = _work.sums[:count], _work.mixed[:count], _work.shifted[:count]
    sums[:] = _BASE
    first = words[:, 0, :].copy()
    # pd_checksum, the low half of the third word, counts as zero.
    first[:, 2] &= np.uint32(0xFFFF0000)
    rows = [first, *(words[:, row, :] for row in range(1, words.shape[1])), _ZEROS, _ZEROS]
    for row in rows:
        np.bitwise_xor(sums, row, out=mixed)
        np.right_shift(mixed, _SHIFT, out=shifted)
        np.multiply(mixed, _PRIME, out=mixed)
        np.bitwise_xor(mixed, shifted, out=sums)
    folded: NDArray[np.uint32] = np.bitwise_xor.reduce(sums, axis=1) ^ numbers
    return (folded % np.uint32(65535) + np.uint32(1)).astype(np.uint16)


def wrong_blocks(
    buffer: bytes | bytearray | memoryview, first_block: int, block_size: int, start_lsn: Lsn
) -> list[BadBlock]:
    """The pages in `buffer` (whole pages of one relation) whose checksum is wrong.

    New pages have none, and pages changed since the backup started (`start_lsn`) will be written
    anew from WAL: neither counts, as in the server's verify_page_checksum.
    """
    halves = np.frombuffer(buffer, np.uint16).reshape(-1, block_size // 2)
    upper = halves[:, 7]
    stored = halves[:, 4]
    high = np.frombuffer(buffer, np.uint32).reshape(-1, block_size // 4)[:, 0].astype(np.uint64)
    low = np.frombuffer(buffer, np.uint32).reshape(-1, block_size // 4)[:, 1]
    lsn = high << np.uint64(32) | low
    counts = (upper != 0) & (lsn < np.uint64(start_lsn))
    if not counts.any():
        return []
    computed = page_checksums(buffer, first_block, block_size)
    wrong = np.flatnonzero(counts & (computed != stored))
    return [BadBlock(first_block + int(i), int(stored[i]), int(computed[i])) for i in wrong]


def parse_relation_path(path: bytes) -> RelationFile | None:
    """The relation that a file of a data directory belongs to; None for all other files."""
    try:
        found = _RELATION.fullmatch(path.decode("ascii"))
    except UnicodeDecodeError:
        return None
    if found is None:
        return None
    return RelationFile(
        tablespace=int(found["spc"] or 0),
        database=int(found["db"] or found["spcdb"] or 0),
        relfilenode=int(found["node"]),
        fork=found["fork"] or "main",
        segment=int(found["segment"] or 0),
    )
