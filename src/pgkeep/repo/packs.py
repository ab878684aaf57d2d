"""Frames on their way into packs: sealed as they come, uploaded whenever a pack is full."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from pgkeep.codec.container import MAX_FRAMES, TAG_SIZE, ContainerWriter, Kind, Sealed
from pgkeep.parallel import Pool
from pgkeep.repo import names
from pgkeep.repo.repository import Repository
from pgkeep.store.base import settle

PACK_SIZE = 16 << 20


class Placed(NamedTuple):
    """Where a frame went: the pack's name (its last part), the frame's number in it, its offset and
    stored length in bytes."""

    pack: str
    frame: int
    offset: int
    stored: int


@dataclass(frozen=True, slots=True)
class FinishedPack:
    """A pack that is complete, though it may still be on its way to the store."""

    name: str
    header: bytes
    digest: bytes
    size: int


class _OpenPack(NamedTuple):
    name: str
    object_name: str
    writer: ContainerWriter


class PackNumbers:
    """Numbers the packs of one kind and owner, for writers that work side by side."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._next = 0

    def take(self) -> int:
        """The next number; each is given once."""
        with self._lock:
            self._next += 1
            return self._next - 1


class PackStream:
    """Seals frames into packs of `pack_size` bytes at most (a lone frame may be larger).

    `append` and `close` belong to one thread. With `uploads`, full packs go to the store there, and
    `append` waits when too many are on their way; an upload that failed raises from `append` or
    `close`. `on_full` hears of each pack in order, perhaps before it is in the store.
    """

    def __init__(
        self,
        repo: Repository,
        kind: Kind,
        cluster: str,
        owner: str,
        *,
        numbers: PackNumbers | None = None,
        pack_size: int = PACK_SIZE,
        uploads: Pool | None = None,
        on_full: Callable[[FinishedPack], None] | None = None,
    ) -> None:
        self._repo = repo
        self._kind = kind
        self._cluster = cluster
        self._owner = owner
        self._numbers = numbers or PackNumbers()
        self._pack_size = pack_size
        self._uploads = uploads
        self._on_full = on_full
        self._open: _OpenPack | None = None
        self._changed = threading.Condition()
        self._uploading = 0
        self._error: BaseException | None = None
        self.packs: list[str] = []
        self.stored_bytes = 0

    def append(self, compressed: bytes, raw_length: int, frame_id: bytes) -> Placed:
        """Seal a frame into the open pack; where it went."""
        pack = self._pack_for(len(compressed) + TAG_SIZE)
        offset, number = pack.writer.size, pack.writer.count
        stored = pack.writer.append(compressed, raw_length, frame_id)
        return Placed(pack.name, number, offset, stored)

    def close(self) -> None:
        """Finish the open pack; returns when all packs are in the store."""
        self._finish()
        with self._changed:
            self._changed.wait_for(lambda: not self._uploading)
        if self._error is not None:
            raise self._error

    def _pack_for(self, stored: int) -> _OpenPack:
        if self._open is not None:
            pack = self._open.writer
            if pack.count == MAX_FRAMES or pack.size + stored > self._pack_size:
                self._finish()
        if self._open is None:
            self._open = self._begin()
        return self._open

    def _begin(self) -> _OpenPack:
        number = self._numbers.take()
        name = names.pack_name(self._owner, number)
        if self._kind == Kind.DATA:
            object_name = names.data_pack(self._cluster, self._owner, number)
        else:
            object_name = names.map_pack(self._cluster, name)
        self.packs.append(name)
        writer = ContainerWriter(self._repo.ring, self._kind, object_name)
        return _OpenPack(name, object_name, writer)

    def _finish(self) -> None:
        if self._open is None:
            return
        pack, self._open = self._open, None
        sealed = pack.writer.finish()
        self.stored_bytes += sealed.size
        if self._on_full is not None:
            self._on_full(FinishedPack(pack.name, pack.writer.header, sealed.digest, sealed.size))
        self._count_uploads(1)
        if self._uploads is None:
            self._upload(pack.object_name, sealed)
            return
        try:
            self._uploads.submit(self._upload, pack.object_name, sealed)
        except BaseException:
            self._count_uploads(-1)
            raise

    def _upload(self, object_name: str, sealed: Sealed) -> None:
        try:
            settle(self._repo.store, object_name, sealed.buffers)
        except BaseException as error:
            self._error = self._error or error
            raise
        finally:
            self._count_uploads(-1)

    def _count_uploads(self, more: int) -> None:
        with self._changed:
            self._uploading += more
            self._changed.notify_all()
