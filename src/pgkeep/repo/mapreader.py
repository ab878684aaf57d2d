"""Reads frames of map packs by reference; each is verified against the id in its reference."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pgkeep.codec.container import HEADER_SIZE, ContainerOpener, Kind
from pgkeep.repo import names
from pgkeep.repo.recent import Recent
from pgkeep.repo.refs import Ref
from pgkeep.repo.repository import Repository

_OPENED = 64
_NEAR = 1 << 16
"""Bytes between two frames that are read along rather than asked for again."""
_AT_ONCE = 8 << 20


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
        raw: list[bytes] = [b""] * len(refs)
        for run in _runs(refs, order):
            first, last = refs[run[0]], refs[run[-1]]
            opener = self._opener(first.pack)
            name = names.map_pack(self._cluster, first.pack)
            length = last.offset + last.stored - first.offset
            stored = memoryview(self._repo.store.get_range(name, first.offset, length))
            for number in run:
                ref = refs[number]
                start = ref.offset - first.offset
                sealed = stored[start : start + ref.stored]
                raw[number] = opener.open_frame(ref.frame, sealed, ref.raw, ref.id)
        return raw

    def get_document(self, refs: Sequence[Ref]) -> bytes:
        """A document that was cut into frames."""
        return b"".join(self.get_many(refs))

    def _opener(self, pack: str) -> ContainerOpener:
        opener = self._openers.get(pack)
        if opener is None:
            name = names.map_pack(self._cluster, pack)
            header = self._repo.store.get_range(name, 0, HEADER_SIZE)
            opener = ContainerOpener(self._repo.ring, Kind.MAP, name, header)
            self._openers.put(pack, opener)
        return opener


def _runs(refs: Sequence[Ref], order: Sequence[int]) -> Iterator[list[int]]:
    """Cut `order` into runs that lie close together in one pack."""
    run: list[int] = []
    for number in order:
        if run:
            first, last, ref = refs[run[0]], refs[run[-1]], refs[number]
            near = ref.offset - (last.offset + last.stored) <= _NEAR
            small = ref.offset + ref.stored - first.offset <= _AT_ONCE
            if ref.pack != last.pack or not near or not small:
                yield run
                run = []
        run.append(number)
    if run:
        yield run
