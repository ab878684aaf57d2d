"""Writes WAL as a server would, for cases that a real one makes too rarely."""

from __future__ import annotations

from struct import pack

from pgkeep.pgformat.crc32c import crc32c

PAGE = 8192
SEGMENT = 1024 * 1024
START = 0x5_0000_0000


class WalWriter:
    """Lays records out over pages and segments from START on."""

    def __init__(self, magic: int = 0xD118, timeline: int = 1) -> None:
        self.magic = magic
        self.timeline = timeline
        self.wal = bytearray()
        self.previous = START - 64
        self.lsns: list[int] = []
        self.ends: list[int] = []

    def add(self, rmid: int, info: int, main: bytes = b"", *, xid: int = 0, crc: int = 0) -> int:
        """`crc` is what to falsify the checksum with. Returns the record's lsn."""
        if len(main) < 256:
            data = b"\xff" + bytes([len(main)]) + main if main else b""
        else:
            data = b"\xfe" + pack("<I", len(main)) + main
        if len(self.wal) % PAGE == 0:
            self._page_header(0, 0)
        lsn = START + len(self.wal)
        head = pack("<IIQBB2x", 24 + len(data), xid, self.previous, info, rmid)
        self._write(head + pack("<I", crc32c(data + head) ^ crc) + data)
        self.previous = lsn
        self.lsns.append(lsn)
        self.ends.append(START + len(self.wal))
        self.wal += bytes(-len(self.wal) % 8)
        return lsn

    def fill_until(self, room: int) -> None:
        """Adds a record that leaves `room` bytes on the page."""
        if len(self.wal) % PAGE == 0:
            self.add(2, 0)
        main = PAGE - len(self.wal) % PAGE - room - 24 - 5
        assert main >= 256, "not enough room on the page"
        self.add(2, 0, bytes(main))
        assert len(self.wal) % PAGE == (PAGE - room) % PAGE

    def segments(self) -> list[bytes]:
        whole = bytes(self.wal) + bytes(-len(self.wal) % SEGMENT)
        return [whole[at : at + SEGMENT] for at in range(0, len(whole), SEGMENT)]

    def _write(self, record: bytes) -> None:
        while record:
            room = PAGE - len(self.wal) % PAGE
            self.wal += record[:room]
            record = record[room:]
            if record:
                self._page_header(1, len(record))

    def _page_header(self, flags: int, remaining: int) -> None:
        address = START + len(self.wal)
        long = address % SEGMENT == 0
        flags |= 2 if long else 0
        self.wal += pack("<HHIQI4x", self.magic, flags, self.timeline, address, remaining)
        if long:
            self.wal += pack("<QII", 7_000_000_000_000_000_000, SEGMENT, PAGE)


def time_of(minute: int) -> int:
    return 800_000_000_000_000 + minute * 60_000_000


def commit(writer: WalWriter, xid: int, time: int, *, info: int = 0, crc: int = 0) -> int:
    return writer.add(1, info, pack("<q", time), xid=xid, crc=crc)
