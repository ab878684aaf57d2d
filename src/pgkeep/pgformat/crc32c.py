"""CRC-32C (Castagnoli) as PostgreSQL uses it, quick enough in Python for small data.

PostgreSQL protects WAL records, pg_control and base-backup manifests with it
(src/include/port/pg_crc32c.h). Nothing in the standard library computes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from struct import Struct, unpack

_STEP = Struct("<I4B")
_ONES = 0xFFFFFFFF


def crc32c(data: bytes) -> int:
    """Eight bytes at a time ("slicing-by-8"): about 15 MB/s."""
    t0, t1, t2, t3, t4, t5, t6, t7 = _tables()
    crc, whole = _ONES, len(data) & -8
    for word, b4, b5, b6, b7 in _STEP.iter_unpack(data[:whole]):
        crc ^= word
        crc = (
            t7[crc & 255] ^ t6[crc >> 8 & 255] ^ t5[crc >> 16 & 255] ^ t4[crc >> 24]
            ^ t3[b4] ^ t2[b5] ^ t1[b6] ^ t0[b7]
        )  # fmt: skip
    for byte in data[whole:]:
        crc = crc >> 8 ^ t0[(crc ^ byte) & 255]
    return crc ^ _ONES


def crc32c_of_each(messages: Sequence[bytes]) -> tuple[int, ...]:
    """For many messages of one length: up to ten times as quick as one by one.

    It goes through all messages at once, byte position by byte position. The four bytes of
    every message's CRC are kept as four planes, one after the other in a big integer; the
    table look-ups are bytes.translate(), so the work is done in C.
    """
    count, length = len(messages), len(messages[0])
    joined = b"".join(messages)
    if len(joined) != count * length:
        raise ValueError("the messages are not of one length")
    plane = 8 * count
    lowest = (1 << plane) - 1
    crcs = (1 << 4 * plane) - 1
    first, second, third, fourth = _byte_tables()
    for position in range(length):
        column = int.from_bytes(joined[position::length], "little")
        index = ((crcs & lowest) ^ column).to_bytes(count, "little")
        looked_up = b"".join(map(index.translate, (first, second, third, fourth)))
        crcs = crcs >> plane ^ int.from_bytes(looked_up, "little")
    planes = (crcs ^ (1 << 4 * plane) - 1).to_bytes(4 * count, "little")
    result = bytearray(4 * count)
    for byte in range(4):
        result[byte::4] = planes[byte * count : (byte + 1) * count]
    return unpack(f"<{count}I", result)


@cache
def _tables() -> list[list[int]]:
    """Table n: what a byte does to the CRC after n more bytes."""
    first = []
    for crc in range(256):
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
        first.append(crc)
    tables = [first]
    for _ in range(7):
        tables.append([crc >> 8 ^ first[crc & 255] for crc in tables[-1]])
    return tables


@cache
def _byte_tables() -> list[bytes]:
    """The first table, as one translation table for each byte of its entries."""
    entries = _tables()[0]
    return [bytes(entry >> shift & 255 for entry in entries) for shift in (0, 8, 16, 24)]
