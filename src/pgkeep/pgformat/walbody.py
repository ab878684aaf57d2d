"""One WAL record: its header, its checksum, its main data.

The layout is that of src/include/access/xlogrecord.h, the same in PostgreSQL 15 to 18.
"""

from __future__ import annotations

from collections.abc import Iterable
from struct import Struct, error
from typing import NamedTuple

from pgkeep.errors import FormatError
from pgkeep.pgformat.crc32c import crc32c, crc32c_of_each

HEADER = Struct("<IIQBB2xI")  # xl_tot_len, xl_xid, xl_prev, xl_info, xl_rmid, xl_crc
_UINT32 = Struct("<I")
_CRC_AT = 20
_MANY = 32  # from where on all at once is quicker than one by one


class Record(NamedTuple):
    """One WAL record.

    `end_lsn` is where its bytes end, aligned to 8 (for XLOG_SWITCH too, where the WAL goes on
    with the next segment); `magic` is its pages' and tells PostgreSQL's major version; `raw`
    is the whole record without the page headers in between.
    """

    lsn: int
    end_lsn: int
    rmid: int
    info: int
    xid: int
    total_length: int
    magic: int
    raw: bytes

    @property
    def main_data(self) -> bytes:
        """What the resource manager wrote that belongs to no block; FormatError if damaged."""
        return self.raw[self.total_length - _main_length(self) :]


def checksums_are_right(records: Iterable[Record]) -> bool:
    """Whether all of them have the checksum that belongs to them; much quicker for thousands
    of short records than one by one."""
    by_length: dict[int, list[bytes]] = {}
    for record in records:
        by_length.setdefault(record.total_length, []).append(record.raw)
    for raws in by_length.values():
        if len(raws) < _MANY:
            if not all(map(checksum_is_right, raws)):
                return False
        elif crc32c_of_each([*map(_under_crc, raws)]) != tuple(
            _UINT32.unpack_from(raw, _CRC_AT)[0] for raw in raws
        ):
            return False
    return True


_DATA_SHORT, _DATA_LONG, _ORIGIN, _TOPLEVEL_XID, _MAX_BLOCK_ID = 255, 254, 253, 252, 32
_BLOCK = Struct("<xBH")  # id, fork_flags, data_length
_IMAGE = Struct("<HHB")  # length, hole_offset, bimg_info
_HAS_IMAGE, _SAME_RELATION = 0x10, 0x80
_HAS_HOLE, _COMPRESSED = 0x01, 0x1C


def _main_length(record: Record) -> int:
    """The main data comes last in a record, its length after the block headers; as in
    DecodeXLogRecord() of xlogreader.c."""
    raw, at, of_blocks = record.raw, HEADER.size, 0
    try:
        while len(raw) - at > of_blocks:
            kind = raw[at]
            if kind in (_DATA_SHORT, _DATA_LONG):
                length = raw[at + 1] if kind == _DATA_SHORT else _UINT32.unpack_from(raw, at + 1)[0]
                at += 2 if kind == _DATA_SHORT else 5
                if at + of_blocks + length == len(raw):
                    return int(length)
                break
            if kind == _ORIGIN:
                at += 3
            elif kind == _TOPLEVEL_XID:
                at += 5
            elif kind <= _MAX_BLOCK_ID:
                header, data = _block_lengths(raw, at)
                at, of_blocks = at + header, of_blocks + data
            else:
                break
        else:
            if len(raw) - at == of_blocks:
                return 0
    except (IndexError, error):
        pass  # the same as lengths that don't add up
    raise FormatError(f"the lengths in the WAL record at {record.lsn:#x} don't add up")


def _block_lengths(raw: bytes, at: int) -> tuple[int, int]:
    """The length of the block header at `at` and of the data that it announces."""
    flags, data = _BLOCK.unpack_from(raw, at)
    length = _BLOCK.size
    if flags & _HAS_IMAGE:
        image, _, image_flags = _IMAGE.unpack_from(raw, at + length)
        data += image
        length += _IMAGE.size
        if image_flags & _HAS_HOLE and image_flags & _COMPRESSED:
            length += 2  # the hole's length
    if not flags & _SAME_RELATION:
        length += 12  # tablespace, database, relation
    return length + 4, data  # with the block number


def checksum_is_right(raw: bytes) -> bool:
    return bool(crc32c(_under_crc(raw)) == _UINT32.unpack_from(raw, _CRC_AT)[0])


def _under_crc(raw: bytes) -> bytes:
    return raw[HEADER.size :] + raw[:_CRC_AT]
