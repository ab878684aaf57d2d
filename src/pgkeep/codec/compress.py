"""zstd for frames: one frame in, one frame out, never more than 1 MiB raw."""

from __future__ import annotations

import sys
import threading

from pgkeep.errors import Damaged

if sys.version_info >= (3, 14):
    from compression.zstd import ZstdCompressor, ZstdDecompressor, ZstdError
else:
    from backports.zstd import ZstdCompressor, ZstdDecompressor, ZstdError

MAX_RAW = 1 << 20
"""What a frame has at most, raw, in bytes."""

Bytes = bytes | bytearray | memoryview

_own = threading.local()


def compress(raw: Bytes, level: int = 1) -> bytes:
    """One whole zstd frame with its content size; lets other threads run meanwhile."""
    compressors: dict[int, ZstdCompressor] = _own.__dict__.setdefault("compressors", {})
    compressor = compressors.get(level)
    if compressor is None:
        compressor = compressors[level] = ZstdCompressor(level=level)
    return compressor.compress(raw, ZstdCompressor.FLUSH_FRAME)


def decompress(stored: Bytes, raw_length: int) -> bytes:
    """The `raw_length` bytes (at most 1 MiB) in one zstd frame.

    Raises Damaged when it is none, when it holds another length, or when something follows it.
    """
    if not 0 <= raw_length <= MAX_RAW:
        raise Damaged(f"a frame of {raw_length} bytes is larger than a frame may be")
    decompressor = ZstdDecompressor()
    try:
        # One byte more than expected, so that a longer frame shows without being unpacked whole.
        raw = decompressor.decompress(stored, raw_length + 1)
    except ZstdError as error:
        raise Damaged(f"compressed data can't be read: {error}") from error
    if len(raw) != raw_length or not decompressor.eof or decompressor.unused_data:
        raise Damaged(f"compressed data holds other than the {raw_length} bytes it should")
    return raw
