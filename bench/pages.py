"""Heap pages that compress about as a business database's do (3 : 1 at zstd level 1)."""

from __future__ import annotations

import numpy as np

PAGE = 8_192
_TUPLES = 60


def heap_pages(count: int, seed: int = 1) -> bytes:
    """`count` pages of 8 kB: page headers, line pointers, and rows of numbers, times and words."""
    rng = np.random.default_rng(seed)
    words = [rng.integers(97, 123, rng.integers(3, 11), np.uint8).tobytes() for _ in range(3_000)]
    picks = (len(words) * rng.random((count, _TUPLES, 10)) ** 3.2).astype(int)
    amounts = rng.integers(0, 1 << 16, (count, _TUPLES))
    pages = bytearray()
    for page in range(count):
        pages += _page(page, picks[page], amounts[page], words)
    return bytes(pages)


def _page(number: int, picks: np.ndarray, amounts: np.ndarray, words: list[bytes]) -> bytes:
    rows = []
    for place in range(_TUPLES):
        identity = number * _TUPLES + place
        head = (900 + identity // 777).to_bytes(4, "little") + bytes(8)
        head += number.to_bytes(6, "little") + (place + 1).to_bytes(2, "little")
        head += b"\x07\0\x02\x09\x18\0"
        fixed = identity.to_bytes(8, "little") + int(amounts[place]).to_bytes(8, "little")
        time = (750_000_000_000_000 + identity * 1_371_003).to_bytes(8, "little")
        text = b" ".join(words[pick] for pick in picks[place])
        rows.append(head + fixed + time + bytes([2 * len(text) + 3 & 255]) + text)
    body = b"".join(reversed(rows))[: PAGE - 24 - 4 * _TUPLES]
    lsn = (0x1_0000_0000 + number * 8_111).to_bytes(8, "little")
    pointers = b"".join(
        ((PAGE - 130 * (place + 1)) | 1 << 15 | 128 << 17).to_bytes(4, "little")
        for place in range(_TUPLES)
    )
    head = lsn + bytes(4) + (24 + len(pointers)).to_bytes(2, "little")
    head += (PAGE - len(body)).to_bytes(2, "little") + b"\0\x20\x04\x20" + bytes(4)
    return (head + pointers).ljust(PAGE - len(body), b"\0") + body
