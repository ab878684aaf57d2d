"""Sealed objects that are read and written whole, and the footers of those that are not."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from pgkeep.codec.compress import MAX_RAW, Bytes, compress
from pgkeep.codec.container import (
    HEADER_SIZE,
    TRAILER_SIZE,
    ContainerOpener,
    ContainerWriter,
    Footer,
    Kind,
    read_trailer,
)
from pgkeep.errors import Damaged
from pgkeep.parallel import ordered_map
from pgkeep.repo.repository import Repository
from pgkeep.store.base import settle

_TAIL = 4096
"""Most footers of small objects and of WAL lie in this many bytes at the end."""


@dataclass(frozen=True, slots=True)
class Object:
    """What an object holds: raw bytes, the footer's JSON, SHA-256 of its stored bytes."""

    raw: bytes
    meta: bytes
    sha256: bytes


@dataclass(frozen=True, slots=True)
class Stored:
    """What a write did: SHA-256 and size of the stored bytes; "same" if it was there already."""

    sha256: bytes
    size: int
    how: Literal["created", "same"]


def put_object(
    repo: Repository,
    kind: Kind,
    name: str,
    raw: Bytes,
    meta: bytes = b"",
    *,
    level: int = 1,
    workers: int = 1,
) -> Stored:
    """Seals `raw` in frames of 1 MiB and creates the object durably.

    Raises ObjectExists when the name is taken by anything else: sealing the same content twice
    gives other bytes, so whoever may meet its own object must compare contents.
    """
    view = memoryview(raw)
    parts = [view[at : at + MAX_RAW] for at in range(0, len(view), MAX_RAW)]
    writer = ContainerWriter(repo.ring, kind, name)

    def encode(part: memoryview) -> tuple[bytes, int, bytes]:
        return compress(part, level), len(part), repo.ring.frame_id(part)

    encoded: Iterable[tuple[bytes, int, bytes]] = map(encode, parts)
    if workers > 1 and len(parts) > 1:
        encoded = ordered_map(encode, parts, workers=workers)
    for compressed, length, frame_id in encoded:
        writer.append(compressed, length, frame_id)
    sealed = writer.finish(meta)
    digest = hashlib.sha256()
    for buffer in sealed.buffers:
        digest.update(buffer)
    how = settle(repo.store, name, sealed.buffers)
    return Stored(digest.digest(), sealed.size, how)


def get_object(
    repo: Repository,
    kind: Kind,
    name: str,
    *,
    sha256: bytes | None = None,
    workers: int = 1,
) -> Object:
    """Reads and checks a whole object; `sha256` is what its stored bytes must have.

    Raises ObjectMissing, Damaged, NewerFormat or KeyProblem.
    """
    stored = repo.store.get(name)
    digest = hashlib.sha256(stored).digest()
    if sha256 is not None and digest != sha256:
        raise Damaged(
            f"{name} is not the object that the log speaks of: it was changed or replaced",
            hint="pgkeep verify tells what is affected",
        )
    opener = ContainerOpener(repo.ring, kind, name, stored)
    footer = _footer_of(opener, len(stored), lambda at, length: stored[at : at + length])
    raw = b"".join(open_frames(opener, footer, memoryview(stored), workers=workers))
    return Object(raw, footer.meta, digest)


def open_frames(
    opener: ContainerOpener, footer: Footer, stored: memoryview, *, workers: int = 1
) -> Iterable[bytes]:
    """Every frame's raw bytes in order; `stored` is the whole object."""
    jobs = []
    offset = HEADER_SIZE
    for number, length in enumerate(footer.stored_lengths):
        jobs.append((number, stored[offset : offset + length]))
        offset += length

    def open_one(job: tuple[int, memoryview]) -> bytes:
        number, sealed = job
        return opener.open_frame(number, sealed, footer.raw_lengths[number], footer.ids[number])

    if workers > 1 and len(jobs) > 1:
        return ordered_map(open_one, jobs, workers=workers)
    return map(open_one, jobs)


@dataclass(frozen=True, slots=True)
class FooterRead:
    """A footer, the container's digest and the object's size in bytes."""

    footer: Footer
    digest: bytes
    size: int


def read_footer(repo: Repository, kind: Kind, name: str) -> FooterRead:
    """Reads header and footer only: three ranges, or four when the footer is long."""
    size = repo.store.size(name)
    if size < HEADER_SIZE + TRAILER_SIZE:
        raise Damaged(f"{name} is cut short: it has {size} bytes")
    opener = ContainerOpener(repo.ring, kind, name, repo.store.get_range(name, 0, HEADER_SIZE))
    start = max(HEADER_SIZE, size - _TAIL)
    tail = repo.store.get_range(name, start, size - start)

    def piece(at: int, length: int) -> bytes:
        if at >= start:
            return tail[at - start : at - start + length]
        return repo.store.get_range(name, at, length)

    digest: list[bytes] = []
    footer = _footer_of(opener, size, piece, digest)
    return FooterRead(footer, digest[0], size)


def _footer_of(
    opener: ContainerOpener,
    size: int,
    piece: Callable[[int, int], bytes],
    digest: list[bytes] | None = None,
) -> Footer:
    trailer = piece(size - TRAILER_SIZE, TRAILER_SIZE) if size >= TRAILER_SIZE else b""
    offset, length = read_trailer(trailer, opener.name)
    if offset + length + TRAILER_SIZE != size:
        raise Damaged(f"{opener.name} is cut short, or something was added to it")
    stored = piece(offset, length)
    footer = opener.open_footer(stored, trailer)
    if HEADER_SIZE + sum(footer.stored_lengths) != offset:
        raise Damaged(f"{opener.name}: its frames are not as long as its footer says")
    if digest is not None:
        digest.append(opener.digest(stored, trailer))
    return footer
