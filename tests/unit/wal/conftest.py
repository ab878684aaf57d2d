from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from pgkeep.pgformat.walname import SegmentName
from pgkeep.repo.repository import Repository, create
from pgkeep.store.memory import MemoryStore

SIZE = 1 << 20
SYSTEM = 7_300_000_000_000_000_001

MakeSegment = Callable[..., Path]


@pytest.fixture
def repo() -> Repository:
    return create(MemoryStore(), host_name="test", keep=lambda key_file: None).repository


def segment_bytes(
    number: int, *, timeline: int = 1, system: int = SYSTEM, size: int = SIZE, fill: bytes = b""
) -> bytes:
    """A segment of PostgreSQL 18 with a first page's header and, instead of records, `fill`."""
    header = struct.pack(
        "<HHIQIxxxxQII", 0xD118, 0x0002, timeline, number * SIZE, 0, system, SIZE, 8192
    )
    return (header + fill).ljust(size, b"\0")[:size]


def segment_name(number: int, timeline: int = 1) -> str:
    return SegmentName(timeline, number).name(SIZE)


@pytest.fixture
def make(tmp_path: Path) -> MakeSegment:
    """Makes a segment in a pg_wal directory; `name_timeline` is the one in its name."""

    def make(number: int, *, name_timeline: int = 1, suffix: str = "", **header: object) -> Path:
        path = tmp_path / "pg_wal" / (segment_name(number, name_timeline) + suffix)
        path.parent.mkdir(exist_ok=True)
        header.setdefault("timeline", name_timeline)
        path.write_bytes(segment_bytes(number, **header))  # type: ignore[arg-type]
        return path

    return make
