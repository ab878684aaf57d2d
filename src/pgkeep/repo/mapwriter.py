"""Frames of map on their way into map packs; what comes back is a reference to each."""

from __future__ import annotations

from pgkeep.codec.compress import MAX_RAW, compress
from pgkeep.codec.container import Kind
from pgkeep.parallel import Pool
from pgkeep.repo.packs import PACK_SIZE, PackNumbers, PackStream
from pgkeep.repo.refs import Ref
from pgkeep.repo.repository import Repository


class MapWriter:
    """Stores map frames of one owner; belongs to one thread.

    Nothing is sure to be in the store before `close` has returned.
    """

    def __init__(
        self,
        repo: Repository,
        cluster: str,
        owner: str,
        *,
        level: int = 1,
        pack_size: int = PACK_SIZE,
        uploads: Pool | None = None,
        numbers: PackNumbers | None = None,
    ) -> None:
        self._repo = repo
        self._cluster = cluster
        self._owner = owner
        self._level = level
        self._pack_size = pack_size
        self._uploads = uploads
        self._numbers = numbers or PackNumbers()
        self._stream = PackStream(
            repo,
            Kind.MAP,
            cluster,
            owner,
            numbers=self._numbers,
            pack_size=pack_size,
            uploads=uploads,
        )

    def beside(self) -> MapWriter:
        """Another writer of the same owner, for frames that are not read along with these."""
        return MapWriter(
            self._repo,
            self._cluster,
            self._owner,
            level=self._level,
            pack_size=self._pack_size,
            uploads=self._uploads,
            numbers=self._numbers,
        )

    @property
    def packs(self) -> list[str]:
        """The last parts of the names of its packs."""
        return self._stream.packs

    @property
    def stored_bytes(self) -> int:
        """The size of its finished packs; all of them after `close`."""
        return self._stream.stored_bytes

    def put(self, raw: bytes) -> Ref:
        """Store one frame of 1 byte to 1 MiB."""
        identity = self._repo.ring.frame_id(raw)
        placed = self._stream.append(compress(raw, self._level), len(raw), identity)
        return Ref(*placed, len(raw), identity)

    def put_document(self, data: bytes) -> list[Ref]:
        """Store a document of any length, cut into frames."""
        return [self.put(data[at : at + MAX_RAW]) for at in range(0, len(data), MAX_RAW)]

    def close(self) -> None:
        """Finish the open pack; returns when all packs are in the store."""
        self._stream.close()
