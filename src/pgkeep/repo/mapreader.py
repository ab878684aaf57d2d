"""Reads frames of map packs by reference; each is verified against the id in its reference."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pgkeep.codec.container import HEADER_SIZE, ContainerOpener, Kind
from pgkeep.repo import names
from pgkeep.repo.ranges import runs
from pgkeep.repo.recent import Recent
from pgkeep.repo.refs import Ref
from pgkeep.repo.repository import Repository

_OPENED = 64


class MapReader:
    """Frames of map packs of one cluster; safe to use from several threads."""

    def __init__(self, repo: Repository, cluster: str) -> None:
        self._repo = repo
        self._cluster = cluster
        self._openers: Recent[str, ContainerOpener] = Recent(_OPENED)

    def get(self, ref: Ref) -> bytes:
        """The raw frame; raises Damaged, naming the object, when it is not what it was."""
        return self.get_many([ref])[0]

    def get_many(self, refs: Sequence[Ref]) -> list[bytes]:
        """The raw frames in the order of `refs`; neighbours in a pack are read at once."""
        order = sorted(range(len(refs)), key=lambda number: refs[number][:3])
        ordered = [refs[number] for number in order]
        raw: list[bytes] = [b""] * len(refs)
        for run in runs((ref.pack, ref.offset, ref.stored) for ref in ordered):
            for place, opened in zip(run, self._read([ordered[at] for at in run]), strict=True):
                raw[order[place]] = opened
        return raw

    def get_document(self, refs: Sequence[Ref]) -> bytes:
        """A document that was cut into frames."""
        return b"".join(self.get_many(refs))

    def _read(self, near: Sequence[Ref]) -> Iterator[bytes]:
        """Frames that lie close together in one pack, in order, in one request."""
        first, last = near[0], near[-1]
        opener = self._opener(first.pack)
        name = names.map_pack(self._cluster, first.pack)
        length = last.offset + last.stored - first.offset
        stored = memoryview(self._repo.store.get_range(name, first.offset, length))
        for ref in near:
            start = ref.offset - first.offset
            sealed = stored[start : start + ref.stored]
            yield opener.open_frame(ref.frame, sealed, ref.raw, ref.id)

    def _opener(self, pack: str) -> ContainerOpener:
        opener = self._openers.get(pack)
        if opener is None:
            name = names.map_pack(self._cluster, pack)
            header = self._repo.store.get_range(name, 0, HEADER_SIZE)
            opener = ContainerOpener(self._repo.ring, Kind.MAP, name, header)
            self._openers.put(pack, opener)
        return opener
